"""What a process remembers beyond its own death: lines of JSON, only ever appended."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Journal", "entries"]

Entry = dict[str, Any]


class Journal:
    """Appends entries; each is one write, so that SIGKILL tears none."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, **facts: Any) -> None:
        os.write(self._file, json.dumps({"what": what, **facts}).encode() + b"\n")


def entries(path: Path, *what: str) -> list[Entry]:
    """Return all entries, or those of some kinds."""
    if not path.exists():
        return []
    found: list[Entry] = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [each for each in found if not what or each["what"] in what]
