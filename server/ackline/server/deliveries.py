"""Calling sinks with what was committed, at least once, until they have taken it.

The store's deliveries are the queue, so nothing here grows with what waits. Each sink
has its own worker and places: one that hangs or always raises stops no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from ackline.server.refusals import RETRY_SECONDS
from ackline.server.sinks import CommittedObject
from ackline.server.stores.errors import NotFound, StoreError
from ackline.server.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ackline.server.service import Service
    from ackline.server.sinks import Sink
    from ackline.server.stores.entities import Delivery

__all__ = ["Deliveries", "Worker", "retry_delay"]

log = logging.getLogger(__name__)

FIRST_RETRY = 1.0
LONGEST_RETRY = 300.0
"""Seconds before a sink is called again with an object; doubled each time."""

MAX_ERROR = 500
"""Characters kept of what a sink raised."""


def retry_delay(attempts: int) -> float:
    """Return the seconds before the next call, each times a random 0.5 to 1.

    The randomness spreads the calls of many objects that failed for the same reason.
    """
    delay = min(FIRST_RETRY * 2.0 ** min(attempts - 1, 30), LONGEST_RETRY)
    return delay * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


class Worker:
    """Calls one sink.

    Attributes:
        sink: whose.
        taken, failed: calls that returned, and that did not.
    """

    def __init__(self, service: Service, sink: Sink) -> None:
        self.sink = sink
        self.taken = 0
        self.failed = 0
        self._service = service
        self._store = service.storage.deliveries
        self._running: set[str] = set()
        self._tasks = Tasks()
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def running(self) -> int:
        """Calls that have not returned."""
        return len(self._running)

    def calls(self, object_id: str) -> bool:
        """Tell whether a call with this object has not returned."""
        return object_id in self._running

    def start(self) -> None:
        """Begin to call."""
        self._looking = asyncio.create_task(
            self._look(), name=f"deliveries of sink {self.sink.name}"
        )

    def wake(self) -> None:
        """Take note that there may be more to do."""
        self._wake.set()

    async def stop(self, seconds: float) -> None:
        """Begin no further call; those that run get `seconds` to end.

        What has not ended then is cancelled, and called again at the next start.
        """
        self._stopping = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._tasks.close(seconds)

    async def _look(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause = await self._begin_due()
            except StoreError as error:
                log.warning("what waits for sink %s: %s", self.sink.name, error)
                pause = RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _begin_due(self) -> float | None:
        """Begin what is due; return the seconds to the next, None if it is not known.

        Then a commit or the end of a call wakes this.
        """
        places = self.sink.concurrency
        room = places - len(self._running)
        if not room:
            return None
        # Of twice as many as may run, at least as many as there are places do not.
        found = await self._store.due(self.sink.name, 2 * places)
        now = time.time()
        for each in found:
            if each.object_id in self._running:
                continue
            # A time further ahead was written by a clock that has been put back.
            if now < each.next_try <= now + LONGEST_RETRY:
                return each.next_try - now
            if not room:
                return None
            room -= 1
            self._running.add(each.object_id)
            self._tasks.spawn(
                self._deliver(each), f"sink {self.sink.name} of {each.object_id}"
            )
        return None

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._call(delivery)
        except NotFound:
            log.info(
                "objects/%s is gone before sink %s took it",
                delivery.object_id,
                self.sink.name,
            )
        except asyncio.CancelledError:
            await self._cancelled(delivery)
        except Exception as error:  # noqa: BLE001 - whatever the program's code raises
            await self._failed(delivery, error)
        else:
            self.taken += 1
        finally:
            self._running.discard(delivery.object_id)
            self._wake.set()

    async def _call(self, delivery: Delivery) -> None:
        attempt = delivery.attempts + 1
        await self._store.begin(delivery, time.time() + retry_delay(attempt))
        stored = await self._service.chunks.open(delivery.object_id)
        try:
            with self._service.traces.sink(self.sink.name, delivery.object_id):
                await self.sink.call(CommittedObject(stored, attempt))
        finally:
            await stored.close()
        await self._store.finish(delivery)

    async def _cancelled(self, delivery: Delivery) -> None:
        """Have an object called for again at the next start, if it is that."""
        if not self._stopping:
            await self._failed(delivery, RuntimeError("the sink was cancelled"))
            return
        try:
            await self._store.fail(delivery, delivery.error, time.time())
        except StoreError as failure:
            log.warning("objects/%s: %s", delivery.object_id, failure)

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        self.failed += 1
        attempt, delay = delivery.attempts + 1, retry_delay(delivery.attempts + 1)
        text = f"{type(error).__name__}: {error}"[:MAX_ERROR]
        log.warning(
            "sink %s of objects/%s: call %d failed, the next is in %.1f s: %s",
            self.sink.name,
            delivery.object_id,
            attempt,
            delay,
            text,
            # Where it was raised does not change with the number of times.
            exc_info=error if attempt == 1 else None,
        )
        try:
            await self._store.fail(delivery, text, time.time() + delay)
        except StoreError as failure:
            log.warning("objects/%s: %s", delivery.object_id, failure)


class Deliveries:
    """The workers of all sinks.

    Attributes:
        waiting: objects that wait for each sink, as of the last `count()`.
    """

    def __init__(self, service: Service, sinks: Sequence[Sink]) -> None:
        self._service = service
        self.workers = [Worker(service, sink) for sink in sinks]
        self.waiting: dict[str, int] = {}

    def takers(self, name: str) -> list[str]:
        """Return the sinks that get objects of this name."""
        return [each.sink.name for each in self.workers if each.sink.takes(name)]

    async def start(self) -> None:
        """Call what earlier processes have left.

        Raises:
            StoreError: the records cannot be read.
        """
        await self.count()
        known = {worker.sink.name for worker in self.workers}
        for name in self.waiting.keys() - known:
            log.warning(
                "%d objects wait for a sink %r, and there is none of that name: they"
                " are kept until it is registered again, or they are deleted",
                self.waiting[name],
                name,
            )
        for worker in self.workers:
            worker.start()

    def committed(self, name: str) -> None:
        """Take note that there is an object of this name to be taken."""
        for worker in self.workers:
            if worker.sink.takes(name):
                worker.wake()

    def calling(self, object_id: str) -> list[str]:
        """Return the sinks that are being called with an object."""
        return [each.sink.name for each in self.workers if each.calls(object_id)]

    async def count(self) -> None:
        """Count what waits.

        Raises:
            StoreError: the records cannot be read.
        """
        self.waiting = await self._service.storage.deliveries.counts()

    async def stop(self, seconds: float) -> None:
        """End all workers; calls that run get `seconds` to end."""
        if self.workers:
            await asyncio.gather(*(each.stop(seconds) for each in self.workers))
