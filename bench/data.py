"""The same bytes and events for every peer, on both sides."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CYCLE", "bodies", "crc_of", "cycle", "make_source"]

CYCLE = 1_000
"""Bodies that differ: losing, repeating or swapping events shows in their order."""
_BLOCK = 4 << 20


def bodies(size: int) -> list[bytes]:
    """Return `CYCLE` different bodies of `size` bytes, the same in every process."""
    return [
        f"{number:04d}".encode()[:size].ljust(size, b"x") for number in range(CYCLE)
    ]


def cycle(size: int, count: int) -> Iterator[bytes]:
    """Yield `count` bodies of `size` bytes."""
    return itertools.islice(itertools.cycle(bodies(size)), count)


def make_source(folder: Path, size: int) -> tuple[Path, int]:
    """Make the file of `size` bytes that is transferred.

    Returns:
        The file, and the CRC-32C of its bytes.
    """
    path = folder / f"source-{size}.bin"
    with path.open("wb") as file:
        for at in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - at)))
    return path, crc_of(path)


def crc_of(path: Path) -> int:
    """Return the CRC-32C of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = crc32c(block, crc)
    return crc
