"""Scripts that are kept: one file a target, one script a line in hexadecimal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LONGEST", "MOST", "keep", "kept"]

FOLDER = Path(__file__).parent / "corpus"
LONGEST = 4096
"""Bytes of a script while fuzzing."""

MOST = 300
"""Scripts kept for a target: they are played in every run of the tests."""

LONGEST_KEPT = 600


def kept(target: str) -> list[bytes]:
    """Return the scripts of a target."""
    path = FOLDER / f"{target}.txt"
    if not path.exists():
        return []
    return [bytes.fromhex(line) for line in path.read_text().split()]


def keep(target: str, scripts: Iterable[bytes]) -> None:
    """Replace the scripts of a target; the shortest stay if there are too many."""
    short = {script for script in scripts if len(script) <= LONGEST_KEPT}
    chosen = sorted(short, key=lambda each: (len(each), each))[:MOST]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{target}.txt").write_text("".join(f"{s.hex()}\n" for s in chosen))
