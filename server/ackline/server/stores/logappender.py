"""Appending to a log: ids at once, disk writes in groups."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.proofs import NOTHING
from ackline.server.stores.entities import PublisherState, StoredBatch, Ticket
from ackline.server.stores.errors import (
    Fenced,
    StorageFull,
    StoreError,
    StoreFailed,
    Unsupported,
    repeated,
)
from ackline.server.stores.logwriter import (
    LogWriter,
    PendingBatch,
    PendingSegment,
    record_size,
)
from ackline.server.stores.publishers import Publishers
from ackline.server.stores.segments import Segment, segment_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ackline.server.stores.clock import ObservedClock
    from ackline.server.stores.entities import Append
    from ackline.server.stores.handles import Disk
    from ackline.server.stores.logrecovery import Contents
    from ackline.server.stores.records import Records
    from ackline.server.stores.space import Space
    from ackline.server.stores.tail import TailCache

__all__ = ["LogAppender", "LogsShared"]

#: Payload bytes written and synced as one group: some milliseconds of disk time, so
#: that the first of them need not wait for the last.
_GROUP_BYTES = 8 * 2**20

#: Ids end here, below what the records hold: a publisher may send gaps of any length.
_LAST_ID = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsShared:
    """What the logs of one store share.

    Attributes:
        disk: For working with files.
        records: The database.
        space: What may still be written.
        cache: The newest batches of all logs.
        clock: Tells unix seconds, and what is too old.
        segment_size: Bytes at which a segment ends.
        publishers: How many publishers a log remembers.
    """

    disk: Disk
    records: Records
    space: Space
    cache: TailCache
    clock: ObservedClock
    segment_size: int
    publishers: int


class LogAppender:
    """The writing end of a log.

    `restore` first. `append` any number of times; a background task writes what waits,
    in groups, and calls `stored` for each. After a failure nothing is taken until
    `restore` is called with what the disk holds.

    Attributes:
        assigned_id: Id that the next append gets.
        sums: Of all events before it.
        time: Of the newest event, unix milliseconds.
        publishers: How far each got, what is not synced yet included.
        failure: Why nothing is taken, or None.
        segment_limit: Bytes at which a segment ends.
    """

    def __init__(
        self,
        shared: LogsShared,
        *,
        folder: Path,
        salt: int,
        stored: Callable[[Segment | None, list[PendingBatch]], None],
    ) -> None:
        self.assigned_id = 0
        self.sums = NOTHING
        self.time = 0
        self.publishers = Publishers(shared.publishers)
        self.failure: StorageFull | StoreFailed | None = None
        self.segment_limit = shared.segment_size
        self._shared = shared
        self._folder = folder
        self._salt = salt
        self._stored = stored
        self._writer = LogWriter(shared.disk, shared.space, salt)
        self._pending: deque[PendingBatch | PendingSegment] = deque()
        self._flusher: asyncio.Task[None] | None = None
        # The segment that is written to, the one that the next append goes to, and the
        # size of that by then.
        self._written: Segment | None = None
        self._segment: Segment | None = None
        self._segment_size = 0

    def restore(self, contents: Contents) -> None:
        """Go on behind what a log holds; nothing may be pending."""
        contents.publishers.keep_epochs(self.publishers)
        self.assigned_id = contents.next_id
        self.sums = contents.sums
        self.time = contents.time
        self.publishers = contents.publishers
        self.failure = None
        self._segment = contents.segments[-1] if contents.segments else None
        self._segment_size = self._segment.size if self._segment else 0
        self._written = self._segment

    def append(self, batch: Append) -> Ticket:
        """Give a batch its ids and let it be stored.

        Raises:
            ValueError: The batch is not what follows from the publisher's position, or
                its checksum is wrong.
            Fenced: The publisher has a newer epoch.
            Unsupported: The log has no ids left.
            StorageFull: It failed before.
            StoreFailed: The same.
        """
        self._admit(batch)
        size = record_size(batch)
        if self._segment is None or self._segment_size + size > self.segment_limit:
            self.begin_segment()
        # Readers search by time, so it must not go back when the clock does.
        self.time = max(self.time, int(self._shared.clock() * 1000))
        stored = StoredBatch(
            first_id=self.assigned_id,
            count=batch.count,
            payload=batch.payload,
            payload_crc=batch.payload_crc,
            time=self.time,
            sums_before=self.sums,
        )
        self.assigned_id = stored.next_id
        self.sums = batch.log_sums
        self._segment_size += size
        state = PublisherState(
            epoch=batch.epoch,
            position=batch.first_unit + batch.count,
            sums=batch.publisher_sums,
            log_position=stored.next_id,
        )
        self.publishers.put(batch.publisher, state)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = Ticket(stored.first_id, stored.next_id, done)
        self._pending.append(PendingBatch(appended=batch, stored=stored, ticket=ticket))
        self._wake()
        return ticket

    def begin_segment(self) -> None:
        """Let the next append go to a new segment, unless this one has no event."""
        if self._segment is not None and self._segment.first_id == self.assigned_id:
            return
        path = segment_path(self._folder, self.assigned_id)
        self._segment = Segment(
            first_id=self.assigned_id, path=path, size=0, time=self.time
        )
        checkpoint = self.publishers.checkpoint()
        self._segment_size = len(checkpoint)
        self._pending.append(
            PendingSegment(
                segment=self._segment,
                checkpoint=checkpoint,
                sums=self.sums,
                time=self.time,
            )
        )
        self._wake()

    async def flush(self) -> None:
        """Wait until everything appended so far is synced, or has failed.

        Raises:
            StorageFull: It failed.
            StoreFailed: The same.
        """
        while self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self.failure is not None:
            raise repeated(self.failure)

    async def stop(self, reason: StoreFailed) -> None:
        """Take no more, wait for what was taken, and close the file.

        Args:
            reason: What appends fail with from now on, if nothing failed before.
        """
        self.failure = self.failure or reason
        with suppress(StoreError):
            await self.flush()
        await self.rest()

    def part(self) -> None:
        """Leave no cycle behind, once stopped for good."""
        self._stored = _ignore

    async def rest(self) -> None:
        """Close the file if nothing is being written; the next append opens it."""
        if self._flusher is None:
            with suppress(StoreError):  # everything that matters is synced
                await self._writer.close()

    def _admit(self, batch: Append) -> None:
        if self.failure is not None:
            raise repeated(self.failure)
        state = self.publishers.find(batch.publisher)
        if state is not None:
            if batch.epoch < state.epoch:
                who = f"publisher {batch.publisher!r}"
                raise Fenced(who, epoch=batch.epoch, current=state.epoch)
            if batch.first_unit != state.position:
                raise ValueError(
                    f"unit {batch.first_unit} does not follow {state.position}"
                )
        if self.assigned_id + batch.count > _LAST_ID:
            raise Unsupported("an id that high in a log", "begin another log")
        # What is stored with a wrong checksum cannot be read back.
        if batch.count < 1 or crc32c(batch.payload) != batch.payload_crc:
            raise ValueError("a batch needs an event and the CRC of its payload")

    def _wake(self) -> None:
        if self._flusher is None:
            # It begins in the next turn of the loop: all appends of this one share.
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        """Write what is pending, group by group; this is the background task."""
        while self._pending:
            begun, group = self._next_group()
            try:
                await self._write(begun, group)
            except StoreError as error:
                self._fail(group, error)
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                self._fail(group, StoreFailed("append", repr(error)))
            else:
                self._stored(begun.segment if begun else None, group)
        self._flusher = None

    def _next_group(self) -> tuple[PendingSegment | None, list[PendingBatch]]:
        """Take what is written next: batches of one segment, perhaps a new one."""
        begun: PendingSegment | None = None
        group: list[PendingBatch] = []
        size = 0
        first = self._pending[0]
        if isinstance(first, PendingSegment):
            begun = first
            self._pending.popleft()
        while self._pending and size < _GROUP_BYTES:
            batch = self._pending[0]
            if isinstance(batch, PendingSegment):
                break
            self._pending.popleft()
            group.append(batch)
            size += len(batch.stored.payload)
        return begun, group

    async def _write(
        self, begun: PendingSegment | None, group: list[PendingBatch]
    ) -> None:
        if begun is not None:
            await self._writer.begin(begun)
            self._written = begun.segment
        if self._written is None:
            raise StoreFailed("append", "no segment was begun")
        await self._writer.write(self._written, begun, group)

    def _fail(self, group: list[PendingBatch], error: StoreError) -> None:
        """Fail what was being written and all that is pending behind it."""
        failure = (
            error
            if isinstance(error, StorageFull | StoreFailed)
            else StoreFailed("append", str(error))
        )
        # The reason given to stop() is what later appends should hear.
        self.failure = self.failure or failure
        failed = [*group, *self._pending]
        self._pending.clear()
        for item in failed:
            if isinstance(item, PendingBatch) and not item.ticket.done.done():
                item.ticket.done.set_exception(repeated(failure))
                item.ticket.done.exception()  # whoever does not ask need not be told


def _ignore(_begun: Segment | None, _group: list[PendingBatch]) -> None:
    """Take what was stored of a log that is closed."""
