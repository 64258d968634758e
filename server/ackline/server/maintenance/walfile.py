"""SQLite's write-ahead log: whether all transactions in it can still be read.

SQLite reads the log up to the first frame whose checksum is wrong and takes that for
the end. So a wrong byte in it undoes, in silence, every transaction from there on. A
frame's checksum begins with that of the frame before, as it stands in the file: what
follows a wrong frame can still be recognised.

The file is a header of 32 bytes (magic, version, page size, sequence, two salts, two
checksum words), then frames: a header of 24 (page, size of the database after a commit
or 0, the salts, two checksum words) and a page. All are big-endian words; the checksum
adds words in the order that the magic says.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["unreadable_commits"]

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_PAGE_SIZES = frozenset(2**bits for bits in range(9, 17))
_WORDS = 0xFFFFFFFF


def unreadable_commits(path: Path) -> int:
    """Return how many committed transactions lie behind a frame that is wrong.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return 0
        magic, _, page_size, _, *salts, first, second = _HEADER.unpack(header)
        order = ">" if magic & 1 else "<"
        before: tuple[int, ...] = (first, second)
        good = magic | 1 == _MAGIC | 1
        good = good and before == _checksum((0, 0), header[:24], order)
        if page_size not in _PAGE_SIZES:
            return 1
        lost = int(not good)  # with wrong salts, how many cannot be told
        size = _FRAME.size + page_size
        while len(frame := file.read(size)) == size:
            _, commits, *its_salts, one, two = _FRAME.unpack_from(frame)
            checked = frame[:8] + frame[_FRAME.size :]
            # An older log's frames, which have other salts, may follow.
            whole = its_salts == salts and (one, two) == _checksum(
                before, checked, order
            )
            good = good and whole
            lost += whole and not good and commits > 0
            before = (one, two)
    return lost


def _checksum(before: tuple[int, ...], data: bytes, order: str) -> tuple[int, ...]:
    first, second = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & _WORDS
        second = (second + two + first) & _WORDS
    return first, second
