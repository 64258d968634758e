"""Writing groups of batches to the newest segment of a log."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.proofs import NOTHING
from ackline.server.stores.batches import (
    BATCH,
    CHECKPOINT,
    HEADER_SIZE,
    RecordHeader,
    pack_header,
)
from ackline.server.stores.errors import disk_failure
from ackline.server.stores.files import write_all
from ackline.server.stores.handles import Handle

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ackline.proto.proofs import ProofSum
    from ackline.server.stores.entities import Append, StoredBatch, Ticket
    from ackline.server.stores.handles import Disk
    from ackline.server.stores.segments import Segment
    from ackline.server.stores.space import Space

__all__ = ["LogWriter", "PendingBatch", "PendingSegment", "record_size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingBatch:
    """A batch that has its ids and is not written yet."""

    appended: Append
    stored: StoredBatch
    ticket: Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSegment:
    """A segment to be begun.

    Attributes:
        segment: Without a file yet.
        checkpoint: The publishers as they are before its first event.
        sums: Of all events before it.
        time: Of the newest event before it, unix milliseconds.
    """

    segment: Segment
    checkpoint: bytes
    sums: ProofSum
    time: int


def record_size(batch: Append) -> int:
    """Return how many bytes of a segment a batch takes."""
    return HEADER_SIZE + len(batch.publisher.encode()) + len(batch.payload)


class LogWriter:
    """Appends to the segments of one log; one call at a time.

    `begin` or `resume` says where; then any number of `write`. After an error it must
    not be used again: what is on the disk has to be read first.
    """

    def __init__(self, disk: Disk, space: Space, salt: int) -> None:
        self._disk = disk
        self._space = space
        self._salt = salt
        self._handle: Handle | None = None
        self._segment: Segment | None = None

    async def begin(self, pending: PendingSegment) -> None:
        """Make a segment file, and its name durable.

        Raises:
            StorageFull: There is no room.
            StoreFailed: That failed.
        """
        await self.close()
        path = pending.segment.path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._handle = await Handle.open(self._disk, path, flags)
        self._segment = pending.segment
        await self._disk.syncer.sync(path.parent)

    async def write(
        self,
        segment: Segment,
        begun: PendingSegment | None,
        group: list[PendingBatch],
    ) -> None:
        """Write a group and sync it; note in the segment where it is.

        Args:
            segment: Where to.
            begun: What its checkpoint is made of, if this is its first group.
            group: The batches, in order.

        Raises:
            StorageFull: There is no room.
            StoreFailed: Writing or syncing failed.
        """
        if self._segment is not segment or self._handle is None:
            await self.close()
            self._handle = await Handle.open(self._disk, segment.path, os.O_RDWR)
            self._segment = segment
        buffers: list[Buffer] = []
        place = segment.size
        if begun is not None:
            header = pack_header(_checkpoint_header(begun), self._salt)
            buffers += (header, begun.checkpoint)
            place += len(header) + len(begun.checkpoint)
        for batch in group:
            stored = batch.stored
            segment.index.add((stored.first_id, place, stored.time))
            header = pack_header(_batch_header(batch, segment.size), self._salt)
            buffers += (header, stored.payload)
            place += len(header) + len(stored.payload)
        fd = self._handle.fd
        try:
            await self._disk.syncer.write_and_sync(
                fd,
                partial(self._put, fd, buffers, segment.size, place - segment.size),
                waiters=len(group),
            )
        except OSError as error:
            raise disk_failure("append", error) from error
        segment.size = place

    async def close(self) -> None:
        """Close the file; `write` opens it again.

        Raises:
            StoreFailed: The file system failed.
        """
        if self._handle is not None:
            handle, self._handle = self._handle, None
            await handle.close()

    def _put(self, fd: int, buffers: list[Buffer], offset: int, size: int) -> None:
        """Write in a thread."""
        self._space.require(size)
        write_all(self._disk.files, fd, buffers, offset)


def _checkpoint_header(begun: PendingSegment) -> RecordHeader:
    return RecordHeader(
        kind=CHECKPOINT,
        payload_length=len(begun.checkpoint),
        payload_crc=crc32c(begun.checkpoint),
        count=0,
        first_id=begun.segment.first_id,
        time=begun.time,
        group=0,
        epoch=0,
        first_unit=0,
        publisher_sums=NOTHING,
        sums_before=begun.sums,
        sums_after=begun.sums,
        publisher="",
    )


def _batch_header(batch: PendingBatch, group: int) -> RecordHeader:
    appended, stored = batch.appended, batch.stored
    return RecordHeader(
        kind=BATCH,
        payload_length=len(stored.payload),
        payload_crc=stored.payload_crc,
        count=stored.count,
        first_id=stored.first_id,
        time=stored.time,
        group=group,
        epoch=appended.epoch,
        first_unit=appended.first_unit,
        publisher_sums=appended.publisher_sums,
        sums_before=stored.sums_before,
        sums_after=appended.log_sums,
        publisher=appended.publisher,
    )
