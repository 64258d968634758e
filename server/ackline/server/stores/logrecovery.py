"""Opening a log: what its files hold after whatever happened.

Only the last segment is read: it begins with a checkpoint of all that came before. A
torn tail is cut off; it was never acknowledged. Damage before the last group that was
synced, or before what the records say was synced, is an error, because acknowledged
events are gone and a person has to know.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.proofs import NOTHING, ProofSum
from ackline.server.stores.batches import CHECKPOINT, HEADER_SIZE, MAGIC, parse_header
from ackline.server.stores.errors import Corrupt
from ackline.server.stores.files import read_into
from ackline.server.stores.publishers import Publishers
from ackline.server.stores.segments import RecordReader, Segment, opened

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.stores.batches import RecordHeader
    from ackline.server.stores.files import Files

__all__ = ["Contents", "later_group", "recover"]

_SUFFIX = ".log"

#: Bytes searched at once for a record behind a torn one.
_BLOCK = 2**20

#: Longest header with name: a match near the end of a block must be looked at whole.
_OVERLAP = HEADER_SIZE + 2**16


@dataclass(slots=True, kw_only=True)
class Contents:
    """What a log holds. Not frozen: it is filled in while reading.

    Attributes:
        segments: In order; none in a log to which nothing was ever appended.
        publishers: How far each got.
        next_id: Id after the last event.
        sums: Of all events.
        time: Of the newest event, unix milliseconds.
        truncated_bytes: Of the torn tail that was cut off.
        synced_to: Id before which everything was synced when that was noted.
    """

    segments: list[Segment]
    publishers: Publishers
    next_id: int = 0
    sums: ProofSum = NOTHING
    time: int = 0
    truncated_bytes: int = 0
    synced_to: int = 0


def recover(
    files: Files, folder: Path, *, salt: int, publishers: int, synced_to: int
) -> Contents:
    """Read what a log holds and make its end fit to be appended to.

    Args:
        files: The file system.
        folder: Of the log.
        salt: Of the log.
        publishers: How many to remember.
        synced_to: Id before which everything was synced.

    Raises:
        Corrupt: Events that were acknowledged cannot be read.
        OSError: A file cannot be read, synced or cut.
    """
    segments = [
        Segment(first_id=int(name[: -len(_SUFFIX)]), path=folder / name, size=size)
        for name, size in sorted(files.sizes(folder).items())
        if name.endswith(_SUFFIX)
    ]
    contents = Contents(
        segments=segments, publishers=Publishers(publishers), synced_to=synced_to
    )
    if synced_to and not segments:
        raise Corrupt(folder, offset=0, problem="its files are missing")
    whole_to: int | None = None
    while segments and not _read(files, contents, salt, whole_to):
        # A crash while a segment was begun: nothing in it was acknowledged, and all
        # before it was synced.
        whole_to = segments[-1].first_id
        _remove_last(files, contents)
    return contents


def _remove_last(files: Files, contents: Contents) -> None:
    """Remove a segment of which nothing can be read."""
    last = contents.segments[-1]
    if len(contents.segments) == 1 and last.first_id:
        # What came before was deleted by retention, so this one was complete once.
        raise Corrupt(last.path, offset=0, problem="no checkpoint")
    contents.segments.pop()
    contents.next_id = 0
    contents.truncated_bytes += last.size
    files.unlink(last.path)
    files.sync_directory(last.path.parent)


def _read(files: Files, contents: Contents, salt: int, whole_to: int | None) -> bool:
    """Read the last segment; return False if not even its checkpoint is there.

    Args:
        files: The file system.
        contents: To be filled in.
        salt: Of the log.
        whole_to: Where its events must end, or None if there may be a torn tail.
    """
    segment = contents.segments[-1]
    with opened(files, segment.path, os.O_RDWR) as fd:
        # What is read must be what a crash would leave, so not from the page cache.
        files.fdatasync(fd)
        files.drop_cache(fd)
        reader = RecordReader(files, fd, salt=salt, offset=0, end=segment.size)
        contents.next_id = segment.first_id
        end = 0
        while _take(reader, contents):
            end = reader.offset
        torn = segment.size - end
        if whole_to not in (None, contents.next_id):
            raise Corrupt(segment.path, offset=end, problem="not what was written")
        if contents.next_id < contents.synced_to:
            missing = f"events {contents.next_id} to {contents.synced_to - 1}"
            raise Corrupt(segment.path, offset=end, problem=f"it lacks {missing}")
        if torn and later_group(files, fd, segment, salt, end):
            raise Corrupt(segment.path, offset=end, problem="not what was written")
        if torn and end:
            files.truncate(fd, end)
            files.fdatasync(fd)
            contents.truncated_bytes += torn
            segment.size = end
    return end > 0


def _take(reader: RecordReader, contents: Contents) -> bool:
    """Read one record; return False at the first that is not as it was written."""
    at = reader.offset
    header = reader.header()
    if header is None or header.first_id != contents.next_id:
        return False
    payload = reader.payload(header)
    if payload is None or (header.kind == CHECKPOINT) != (at == 0):
        return False
    if header.kind == CHECKPOINT:
        try:
            contents.publishers.restore(payload)
        except msgspec.MsgspecError:
            return False
        contents.segments[-1].time = header.time
    else:
        contents.publishers.put(header.publisher, header.publisher_state())
        contents.segments[-1].index.add((header.first_id, at, header.time))
    contents.next_id = header.next_id
    contents.sums = header.sums_after
    contents.time = header.time
    return True


def later_group(
    files: Files, fd: int, segment: Segment, salt: int, offset: int
) -> bool:
    """Tell whether a record behind an offset says that what is there was acknowledged.

    Raises:
        OSError: Reading failed.
    """
    position = offset + 1
    while position < segment.size:
        buffer = memoryview(bytearray(_BLOCK + _OVERLAP))
        block = buffer[: read_into(files, fd, buffer, position)]
        if any(header.group > offset for header in _headers(block, salt)):
            return True
        position += _BLOCK
    return False


def _headers(block: memoryview, salt: int) -> list[RecordHeader]:
    """Return the headers that a block contains."""
    found: list[RecordHeader] = []
    data = bytes(block)
    at = data.find(MAGIC)
    while at >= 0:
        parsed = parse_header(block[at:], salt)
        if parsed is not None:
            found.append(parsed[0])
        at = data.find(MAGIC, at + 1)
    return found
