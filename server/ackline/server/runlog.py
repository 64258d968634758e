"""The log behind a durable run: what it produces is written there, and read from it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ackline.server import outcomes
from ackline.server.refusals import RETRY_SECONDS
from ackline.server.stores.entities import Append
from ackline.server.stores.errors import EventsLost, StorageFull, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.batches import Batch
    from ackline.proto.feed import EventBuffer
    from ackline.proto.messages import Outcome
    from ackline.server.stores.entities import Ticket
    from ackline.server.stores.seams import Log, LogStore

__all__ = ["RunLog", "log_name"]

log = logging.getLogger(__name__)

PUBLISHER = "run"


def log_name(run_id: str) -> str:
    """Return the name of a run's log: none that a client could give (SPEC.md §1)."""
    return f" run {run_id}"


class RunLog:
    """Writes a run's buffer into its log, in groups, each synced before the next.

    `begin()` first, then `write()` as a task until `close()`, then `seal()`. What is
    synced is let go of by the buffer's owner, which is told by `moved`.

    Args:
        store: where the log is.
        source: the log; nobody else appends to it.

    Attributes:
        log: for readers.
        failure: why the disk takes nothing at the moment, or None.
    """

    def __init__(self, store: LogStore, source: Log) -> None:
        self.log = source
        self.failure: StorageFull | StoreFailed | None = None
        self._store = store
        self._epoch = 0
        self._position = source.next_id
        self._changed = asyncio.Event()
        self._closing = False
        source.watch(self._keep_open)

    @property
    def synced(self) -> int:
        """The id after the last event that is on the disk."""
        return self.log.next_id

    async def begin(self) -> None:
        """Fence whoever wrote before.

        Raises:
            StoreError: the log cannot be written.
        """
        self._epoch = await self.log.takeover(PUBLISHER)

    async def write(self, buffer: EventBuffer, moved: Callable[[], None]) -> None:
        """Write what the buffer gets, until it is closed and all is written.

        Raises:
            StoreError: that will never succeed, such as EventsLost.
        """
        buffer.watch(self._changed.set)
        try:
            while True:
                self._changed.clear()
                try:
                    ticket = await self._append_all(buffer)
                    if ticket is not None:
                        await ticket
                        self.failure = None
                        moved()
                        continue
                except (StorageFull, StoreFailed) as error:
                    self.failure = error
                    log.error("%s: %s", self.log.record.name.strip(), error)
                    await asyncio.sleep(RETRY_SECONDS)
                    await self._reopen(buffer)
                    continue
                if self._closing:
                    return
                await self._changed.wait()
        finally:
            buffer.unwatch(self._changed.set)

    def close(self) -> None:
        """Let `write()` return once everything is written."""
        self._closing = True
        self._changed.set()

    async def seal(self, outcome: Outcome) -> None:
        """Record in the log how the run ended: readers see it after the last event.

        Raises:
            StoreError: it cannot be recorded now.
        """
        await self._store.seal(self.log.record.name, outcomes.record(outcome))

    def release(self) -> None:
        """Let the store close the log when nobody reads it."""
        self.log.unwatch(self._keep_open)

    async def _append_all(self, buffer: EventBuffer) -> Ticket | None:
        """Append what there is; return the ticket of the last batch."""
        last: Ticket | None = None
        while (batch := buffer.next_batch(self._position)) is not None:
            names = buffer.kinds.listed()
            if len(names) > len(self.log.record.kinds):
                await self.log.add_kinds(names)
            last = self.log.append(self._entry(batch))
            self._position = batch.next_id
        return last

    def _entry(self, batch: Batch) -> Append:
        sums = self.log.sums.extended(*batch.proof_parts())
        return Append(
            publisher=PUBLISHER,
            epoch=self._epoch,
            first_unit=batch.first_id,
            count=batch.count,
            payload=batch.payload,
            payload_crc=batch.crc,
            publisher_sums=sums,
            log_sums=sums,
        )

    async def _reopen(self, buffer: EventBuffer) -> None:
        """Go on behind what the disk has after a failure."""
        try:
            self.log = await self._store.open(self.log.record.name, create=False)
        except (StorageFull, StoreFailed):
            return  # the next append fails as well, and it is tried again
        self._position = self.log.next_id
        if self._position < buffer.first_id:
            raise EventsLost(
                self.log.record.name.strip(),
                position=buffer.first_id,
                next_id=self._position,
            )

    def _keep_open(self) -> None:
        """Watch: a log that nobody watches may be closed."""
