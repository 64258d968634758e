"""The segment files of a log: which there are, and reading their records.

The functions here block; they run in threads and open files themselves, so that a
segment may be deleted at any time.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.server.stores.batches import BATCH, HEADER_SIZE, parse_header
from ackline.server.stores.errors import Corrupt
from ackline.server.stores.files import read_into

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ackline.server.stores.batches import RecordHeader
    from ackline.server.stores.entities import StoredBatch
    from ackline.server.stores.files import Files

__all__ = [
    "Place",
    "RecordReader",
    "Segment",
    "SparseIndex",
    "first_since",
    "opened",
    "read_batches",
    "segment_path",
    "time_before",
]

#: First id, offset and time (unix milliseconds) of a batch in a segment.
Place = tuple[int, int, int]

#: Bytes of a segment between two entries of its index: reading from one costs no more
#: than one block.
_INDEX_STEP = 2**16

#: Bytes read at once where records are small.
_BLOCK = 2**17

#: Where the length of the publisher's name is in a header.
_NAME_LENGTH = slice(10, 12)


class SparseIndex:
    """Where some batches of a segment are: one for every 64 KiB, in order.

    At 24 bytes an entry that is a 2,700th of the segment.
    """

    __slots__ = ("_ids", "_offsets", "_times")

    def __init__(self) -> None:
        self._ids = array("Q")
        self._offsets = array("Q")
        self._times = array("Q")

    def add(self, place: Place) -> None:
        """Note a place, unless one close before it, or one after it, is known."""
        if self._offsets and place[1] < self._offsets[-1] + _INDEX_STEP:
            return
        self._ids.append(place[0])
        self._offsets.append(place[1])
        self._times.append(place[2])

    def before(self, position: int) -> int:
        """Return an offset from which reading comes by the batch with this id."""
        at = bisect_right(self._ids, position)
        return self._offsets[at - 1] if at else 0

    def before_time(self, time: int) -> int:
        """Return an offset from which reading comes by the first batch that late."""
        # Several batches may have one time, so not the last entry of that time.
        at = bisect_right(self._times, time - 1)
        return self._offsets[at - 1] if at else 0


@dataclass(slots=True, kw_only=True)
class Segment:
    """A segment file. Not frozen: the newest one grows.

    Attributes:
        first_id: Of its first event; in its name.
        path: The file.
        size: Bytes that are synced.
        time: Of the newest event before it (unix milliseconds), or None if not read.
        index: Of the part that was written or read by this process.
    """

    first_id: int
    path: Path
    size: int
    time: int | None = None
    index: SparseIndex = field(default_factory=SparseIndex)


def segment_path(folder: Path, first_id: int) -> Path:
    """Return the file of the segment that begins with this id."""
    return folder / f"{first_id:020}.log"


@contextmanager
def opened(files: Files, path: Path, flags: int) -> Generator[int]:
    """Open a file for the time of a block."""
    fd = files.open(path, flags)
    try:
        yield fd
    finally:
        files.close(fd)


class RecordReader:
    """Reads the records of an open segment one after the other.

    `header` reads the next one; then either `payload` or nothing, and `header` again.

    Attributes:
        offset: Where the next record begins; where the one that `header` could not
            read begins.
    """

    def __init__(
        self, files: Files, fd: int, *, salt: int, offset: int, end: int
    ) -> None:
        self.offset = offset
        self._files = files
        self._fd = fd
        self._salt = salt
        self._end = end
        self._payload_at = 0
        self._block = memoryview(b"")
        self._block_at = 0

    def header(self) -> RecordHeader | None:
        """Return the next header, or None if there is no valid one before the end."""
        start = self._view(self.offset, HEADER_SIZE)
        if start is None:
            return None
        length = HEADER_SIZE + int.from_bytes(start[_NAME_LENGTH], "big")
        whole = self._view(self.offset, length)
        parsed = None if whole is None else parse_header(whole, self._salt)
        if parsed is None:
            return None
        header, size = parsed
        payload_at = self.offset + size
        if payload_at + header.payload_length > self._end:
            return None
        self._payload_at = payload_at
        self.offset = payload_at + header.payload_length
        return header

    def payload(self, header: RecordHeader) -> bytes | None:
        """Return the payload of the header just read, or None if its CRC is wrong."""
        view = self._view(self._payload_at, header.payload_length)
        if view is None or crc32c(view) != header.payload_crc:
            return None
        return bytes(view)

    def _view(self, offset: int, length: int) -> memoryview | None:
        """Return a part of the file, or None if that is not all there."""
        begin = offset - self._block_at
        if begin < 0 or begin + length > len(self._block):
            if offset + length > self._end:
                return None
            size = min(max(length, _BLOCK), self._end - offset)
            block = memoryview(bytearray(size))
            self._block = block[: read_into(self._files, self._fd, block, offset)]
            self._block_at, begin = offset, 0
            if length > len(self._block):
                return None
        return self._block[begin : begin + length]


def read_batches(
    files: Files,
    segment: Segment,
    salt: int,
    *,
    position: int,
    max_bytes: int,
) -> tuple[list[StoredBatch], list[Place]]:
    """Read the batch that contains a position, and following ones.

    Args:
        files: The file system.
        segment: Where the position is.
        salt: Of the log.
        position: Id of an event.
        max_bytes: Payload bytes to read; the first batch comes whatever its size.

    Returns:
        The batches, and the places passed, for the index.

    Raises:
        Corrupt: A record is not as it was written.
        OSError: Reading failed; FileNotFoundError if the segment was deleted.
    """
    batches: list[StoredBatch] = []
    places: list[Place] = []
    end = segment.size  # it grows meanwhile
    with opened(files, segment.path, os.O_RDONLY) as fd:
        offset = segment.index.before(position)
        reader = RecordReader(files, fd, salt=salt, offset=offset, end=end)
        while max_bytes > 0 and reader.offset < end:
            at = reader.offset
            header = _valid(reader, segment)
            places.append((header.first_id, at, header.time))
            if header.kind != BATCH or header.next_id <= position:
                continue
            payload = reader.payload(header)
            if payload is None:
                raise Corrupt(segment.path, offset=at, problem="wrong checksum")
            batches.append(header.batch(payload))
            max_bytes -= len(payload)
    return batches, places


def first_since(files: Files, segment: Segment, salt: int, time: int) -> int:
    """Return the id of the first batch of a segment that is not older than `time`.

    The id after its last batch if all are older.

    Raises:
        Corrupt: A record is not as it was written.
        OSError: Reading failed; FileNotFoundError if the segment was deleted.
    """
    next_id, end = segment.first_id, segment.size  # it grows meanwhile
    with opened(files, segment.path, os.O_RDONLY) as fd:
        offset = segment.index.before_time(time)
        reader = RecordReader(files, fd, salt=salt, offset=offset, end=end)
        while reader.offset < end:
            header = _valid(reader, segment)
            if header.kind == BATCH and header.time >= time:
                return header.first_id
            next_id = header.next_id
    return next_id


def time_before(files: Files, segment: Segment, salt: int) -> int:
    """Return the time of the newest event before a segment, from its checkpoint.

    Raises:
        Corrupt: The checkpoint is not as it was written.
        OSError: Reading failed; FileNotFoundError if the segment was deleted.
    """
    with opened(files, segment.path, os.O_RDONLY) as fd:
        reader = RecordReader(files, fd, salt=salt, offset=0, end=segment.size)
        return _valid(reader, segment).time


def _valid(reader: RecordReader, segment: Segment) -> RecordHeader:
    at = reader.offset
    header = reader.header()
    if header is None:
        raise Corrupt(segment.path, offset=at, problem="not a record")
    return header
