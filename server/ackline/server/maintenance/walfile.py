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
_WORDS = 0xFFFFFFFF


def unreadable_commits(path: Path) -> int:
    """Return how many committed transactions lie behind a frame that is wrong.

    Raises:
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        return 0
    fields = _HEADER.unpack_from(data)
    order = ">" if fields[0] == _MAGIC | 1 else "<"
    header_ok = fields[0] | 1 == _MAGIC | 1 and fields[6:8] == _checksum(
        (0, 0), data[:24], order
    )
    page_size = fields[2]
    if not 512 <= page_size <= 65_536:
        return 1
    good, lost = header_ok, 0
    before = fields[6:8]
    for at in range(_HEADER.size, len(data) - 24 - page_size + 1, 24 + page_size):
        frame = _FRAME.unpack_from(data, at)
        page = data[at + 24 : at + 24 + page_size]
        computed = _checksum(before, data[at : at + 8] + page, order)
        whole = frame[2:4] == fields[4:6] and frame[4:6] == computed
        good = good and whole
        # An older log's frames, which have other salts, may follow.
        lost += whole and not good and frame[1] > 0
        before = frame[4:6]
    return lost


def _checksum(before: tuple[int, ...], data: bytes, order: str) -> tuple[int, ...]:
    first, second = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & _WORDS
        second = (second + two + first) & _WORDS
    return first, second
