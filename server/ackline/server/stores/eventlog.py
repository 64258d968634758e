"""One event log: appending, reading, watching.

Nobody reads what is not synced: an event that a subscriber has seen does not disappear.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ackline.server.stores import log_rows
from ackline.server.stores.entities import Recovery
from ackline.server.stores.errors import NotFound, Sealed, StoreError, StoreFailed
from ackline.server.stores.logappender import LogAppender
from ackline.server.stores.logreader import LogReader
from ackline.server.stores.logrecovery import recover
from ackline.server.stores.threads import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ackline.proto.proofs import ProofSum
    from ackline.server.stores.entities import (
        Append,
        LogRecord,
        PublisherState,
        StoredBatch,
        Ticket,
    )
    from ackline.server.stores.logappender import LogsShared
    from ackline.server.stores.logwriter import PendingBatch
    from ackline.server.stores.segments import Segment

__all__ = ["FileLog"]

#: A log that keeps little has segments of a quarter of that, but none smaller.
_SMALLEST_SEGMENT = 2**20


class FileLog:
    """An event log in segment files.

    In go `append`, `add_kinds` and `seal`. Out come `cached`, `load` and
    `find_by_time`, and `watch` tells when there is more. `publisher` says from where a
    publisher continues. After a failure nothing is taken until `recover` has read what
    the disk holds.

    Attributes:
        synced_to: Id before which the records say that everything was synced.
    """

    def __init__(
        self,
        shared: LogsShared,
        record: LogRecord,
        *,
        salt: int,
        synced_to: int,
        folder: Path,
    ) -> None:
        self.synced_to = synced_to
        self._shared = shared
        self._record = record
        self._salt = salt
        self._folder = folder
        self._next_id = 0
        self.newest: StoredBatch | None = None
        self._tail = shared.cache.tail()
        self._reader = LogReader(shared.disk, name=record.name, salt=salt, segments=[])
        self._appender = LogAppender(
            shared, folder=folder, salt=salt, stored=self._publish
        )
        self._watchers: dict[Callable[[], None], Callable[[], None] | None] = {}
        self._recovery = Recovery(truncated_bytes=0, lost_events=0)
        # The outcome of a seal being recorded: nothing is taken meanwhile.
        self._sealing: bytes | None = None
        self._deleted = False
        # Held by whoever recovers, seals, trims or deletes the log.
        self._turning = asyncio.Lock()
        self.configure(record.retention_seconds, record.retention_bytes)

    @property
    def record(self) -> LogRecord:
        """The log as recorded."""
        return self._record

    @property
    def first_id(self) -> int:
        """Id of the first event that is retained."""
        return self._reader.first_id

    @property
    def next_id(self) -> int:
        """Id after the last event that is synced and may be read."""
        return self._next_id

    @property
    def assigned_id(self) -> int:
        """Id that the next append gets."""
        return self._appender.assigned_id

    @property
    def sums(self) -> ProofSum:
        """Sums of all events before `assigned_id`."""
        return self._appender.sums

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return self._reader.size

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is taken until `recover`, or None."""
        return self._appender.failure

    @property
    def recovery(self) -> Recovery:
        """What the last opening or recovery found."""
        return self._recovery

    @property
    def deleted(self) -> bool:
        """Whether the log is gone."""
        return self._deleted

    @property
    def retained(self) -> bool:
        """Whether events may go some day."""
        record = self._record
        limits = record.retention_seconds, record.retention_bytes
        return limits != (None, None)

    @property
    def watched(self) -> bool:
        """Whether anybody is called back."""
        return bool(self._watchers)

    def publisher(self, name: str) -> PublisherState | None:
        """Return how far a publisher got, what is not synced yet included, or None."""
        return self._appender.publishers.find(name)

    async def takeover(self, publisher: str) -> int:
        """Fence the older epochs of a publisher and wait for what they appended.

        Returns:
            The new epoch. `publisher` now tells what is synced.

        Raises:
            StorageFull: What was appended could not be stored.
            StoreFailed: The same.
        """
        epoch = self._appender.publishers.raise_epoch(publisher)
        await self._appender.flush()
        return epoch

    def append(self, batch: Append) -> Ticket:
        """Give a batch its ids and let it be stored.

        Batches get their ids in the order of these calls, and are stored in it. Those
        that are appended while others are being synced share the next sync.

        Raises:
            ValueError: The batch is not what follows from the publisher's position, or
                its checksum is wrong.
            Fenced: The publisher has a newer epoch.
            Unsupported: The log has no ids left.
            Sealed: The log takes no more.
            NotFound: The log was deleted.
            StorageFull: It failed before; see `recover`.
            StoreFailed: The same.
        """
        self._check_there()
        sealed = self._record.sealed or self._sealing
        if sealed is not None:
            raise Sealed(self._record.name, sealed)
        return self._appender.append(batch)

    async def flush(self) -> None:
        """Wait until everything appended so far is synced.

        Raises:
            StorageFull: It could not be stored; see `recover`.
            StoreFailed: The same.
        """
        await self._appender.flush()

    def cached(self, position: int, max_bytes: int) -> list[StoredBatch] | None:
        """Return batches from memory, the first containing a position; never waits.

        Args:
            position: Id of an event.
            max_bytes: Payload bytes to return; the first batch comes whatever its size.

        Returns:
            Nothing if there is none yet, None if `load` has to be asked. Every caller
            gets the same objects.
        """
        if position >= self._next_id:
            return []
        if position < self._reader.first_id:
            return None
        return self._tail.find(position, max_bytes)

    async def load(self, position: int, max_bytes: int) -> list[StoredBatch]:
        """Return batches from the disk, the first containing a position.

        Args:
            position: Id of an event.
            max_bytes: Payload bytes to return; the first batch comes whatever its size,
                and there may be fewer than there are.

        Raises:
            PositionTrimmed: The position is older than what is retained.
            NotFound: The log was deleted.
            Corrupt: A record is not as it was written.
            StoreFailed: Reading failed.
        """
        self._check_there()
        if position >= self._next_id:
            return []
        return await self._reader.load(position, max_bytes)

    async def find_by_time(self, time: int) -> int:
        """Return the id of the first batch that is not older, or `next_id`.

        Args:
            time: Unix milliseconds.

        Raises:
            NotFound: The log was deleted.
            Corrupt: A record is not as it was written.
            StoreFailed: Reading failed.
        """
        self._check_there()
        return await self._reader.find_by_time(time)

    def watch(
        self, more: Callable[[], None], changed: Callable[[], None] | None = None
    ) -> None:
        """Call `more`, in the event loop, after every group of batches that was stored.

        And `changed`, or `more` without it, after the log was sealed, deleted or
        recovered: what has to be looked at then is not to be looked at by each of 1,000
        subscribers for each event.
        """
        self._watchers[more] = changed

    def unwatch(self, more: Callable[[], None]) -> None:
        """End `watch`."""
        self._watchers.pop(more, None)

    async def add_kinds(self, names: Sequence[str]) -> list[int]:
        """Return the numbers of kinds, from 1, after adding those that are new.

        Raises:
            NotFound: The log was deleted.
            Unsupported: There would be too many.
            StorageFull: They could not be recorded.
            StoreFailed: The same.
        """
        kinds = self._record.kinds
        if any(name not in kinds for name in names):
            kinds = await self._shared.records.run(
                partial(log_rows.add_kinds, log_id=self._record.log_id, names=names)
            )
            # Of two such calls at a time, the longer table is the later one.
            if len(kinds) > len(self._record.kinds):
                self._record = replace(self._record, kinds=kinds)
        return [kinds.index(name) + 1 for name in names]

    async def seal(self, outcome: bytes) -> bytes:
        """Take no more; return the outcome that stands, this or an earlier one.

        Raises:
            NotFound: The log was deleted.
            StorageFull: What was appended, or the outcome, could not be stored.
            StoreFailed: The same.
        """
        return await uninterrupted(self._seal(outcome))

    async def recover(self) -> Recovery:
        """Read what the disk holds and go on from there.

        What was appended and never acknowledged may be there or not: publishers ask
        again for their position.

        Raises:
            Corrupt: Acknowledged events cannot be read.
            StoreFailed: The disk still fails.
        """
        return await uninterrupted(self._recover())

    async def trim(self) -> int:
        """Delete the segments that retention does not keep; return how many.

        Also closes the file of a log to which nothing is appended.

        Raises:
            Corrupt: A record is not as it was written.
            StoreFailed: A segment could not be read or begun.
        """
        async with self._turning:
            record, appender = self._record, self._appender
            before: int | None = None
            if record.retention_seconds is not None:
                keep = record.retention_seconds
                before = int(self._shared.clock.before(keep) * 1000)
                if appender.time < before and self._reader.segments:
                    # All is too old, the newest segment too, and only others can go.
                    appender.begin_segment()
                    await appender.flush()
            count = await self._reader.trim(
                before=before, max_bytes=record.retention_bytes
            )
            await appender.rest()
            return count

    async def due(self) -> float:
        """Return the unix seconds before which retention deletes nothing by age.

        Raises:
            Corrupt: A record is not as it was written.
            StoreFailed: Reading failed.
        """
        keep = self._record.retention_seconds
        if keep is None or self.first_id == self.next_id:
            return math.inf
        newest = await self._reader.newest_of_oldest()
        return (self._appender.time if newest is None else newest) / 1000 + keep

    def configure(
        self, retention_seconds: float | None, retention_bytes: int | None
    ) -> None:
        """Take note of what is to be kept; `FileLogs.configure` records it."""
        self._record = replace(
            self._record,
            retention_seconds=retention_seconds,
            retention_bytes=retention_bytes,
        )
        limit = self._shared.segment_size
        if retention_bytes is not None:
            # Only whole segments can go, so a few of them must fit.
            limit = min(limit, max(_SMALLEST_SEGMENT, retention_bytes // 4))
        self._appender.segment_limit = limit

    async def close(self, *, deleted: bool = False) -> None:
        """Take no more, store what was taken, and close the files."""
        async with self._turning:
            name = self._record.name
            await self._appender.stop(StoreFailed(f"log {name!r}", "it is closed"))
            self._appender.part()
            self._tail.clear()
            if deleted:
                self._deleted = True
                self._notify_changed()

    def _check_there(self) -> None:
        if self._deleted:
            raise NotFound("log", self._record.name)

    def _publish(self, begun: Segment | None, group: list[PendingBatch]) -> None:
        """Make a group that was synced visible."""
        if begun is not None:
            self._reader.segments.append(begun)
        for batch in group:
            self._tail.add(batch.stored)
            self._next_id = batch.stored.next_id
            if not batch.ticket.done.done():
                batch.ticket.done.set_result(None)
        if group:
            self.newest = group[-1].stored
            self._notify(tuple(self._watchers))

    def _notify_changed(self) -> None:
        watchers = self._watchers.items()
        self._notify([changed or more for more, changed in watchers])

    def _notify(self, callbacks: Iterable[Callable[[], None]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - the others must hear of it
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a log's watcher failed", "exception": error}
                )

    async def _seal(self, outcome: bytes) -> bytes:
        async with self._turning:
            self._check_there()
            if self._record.sealed is not None:
                return self._record.sealed
            self._sealing = outcome
            try:
                await self._appender.flush()
                standing = await self._shared.records.run(
                    partial(
                        log_rows.seal_log, log_id=self._record.log_id, outcome=outcome
                    )
                )
            finally:
                self._sealing = None
            self._record = replace(self._record, sealed=standing)
            self._notify_changed()
            return standing

    async def _recover(self) -> Recovery:
        async with self._turning:
            self._check_there()
            reason = StoreFailed(f"log {self._record.name!r}", "it is being recovered")
            await self._appender.stop(reason)
            contents = await self._shared.disk.run(
                recover,
                self._shared.disk.files,
                self._folder,
                salt=self._salt,
                publishers=self._shared.publishers,
                synced_to=self.synced_to,
            )
            self._recovery = Recovery(
                truncated_bytes=contents.truncated_bytes,
                lost_events=max(0, self._next_id - contents.next_id),
            )
            self._tail.clear()
            self.newest = None
            self._reader = LogReader(
                self._shared.disk,
                name=self._record.name,
                salt=self._salt,
                segments=contents.segments,
            )
            self._next_id = contents.next_id
            self._appender.restore(contents)
            self._notify_changed()
            return self._recovery
