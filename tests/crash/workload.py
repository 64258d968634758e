"""Random operations on a real store, some at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.crash.log_operations import LogOperations
from tests.crash.object_operations import ObjectOperations
from tests.crash.record_operations import RecordOperations

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

    from ackline.server.stores.storage import Storage
    from tests.crash.facts import Facts
    from tests.crash.operations import Faults
    from tests.server.stores.support import Clock

__all__ = ["Workload"]

#: Operations at a time.
_AT_ONCE = 8


class Workload(ObjectOperations, LogOperations, RecordOperations):
    """Begins operations on an open store: `run`, then `finish` or `kill`."""

    def __init__(
        self,
        storage: Storage,
        facts: Facts,
        faults: Faults,
        rng: Random,
        clock: Clock,
    ) -> None:
        super().__init__(storage, facts, faults, rng, clock)
        # A dict is an ordered set: a seed has to bring the same order.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._failure: BaseException | None = None

    async def run(self, count: int, *, faulty: bool) -> None:
        """Begin so many operations.

        Raises:
            Violation: An operation had another result than it has to have.
        """
        operations = self._operations()
        kinds = list(operations)
        weights = list(operations.values())
        for _ in range(count):
            (operation,) = self._rng.choices(kinds, weights)
            if faulty and self._rng.random() < 0.06:
                self._faults.arm()
            self._begin(operation())
            for _ in range(self._rng.randrange(8)):
                await asyncio.sleep(0)
            while len(self._tasks) >= _AT_ONCE:
                await asyncio.sleep(0)
            self._check()

    async def finish(self) -> None:
        """Wait for the operations that run.

        Raises:
            Violation: One had another result than it has to have.
        """
        self._faults.disarm()
        while self._tasks:
            await asyncio.sleep(0)
        self._check()

    async def kill(self) -> None:
        """End the operations that run; what they do is nobody's any more."""
        self.alive = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _operations(self) -> dict[Callable[[], Coroutine[None, None, None]], int]:
        return {
            self._new_upload: 4,
            self._store_chunk: 16,
            self._commit: 4,
            self._put_object: 3,
            self._abort: 1,
            self._delete_object: 1,
            self._discard_object: 1,
            self._take: 2,
            self._expire_uploads: 1,
            self._append: 16,
            self._read: 4,
            self._add_kind: 1,
            self._configure: 2,
            self._trim: 3,
            self._seal: 1,
            self._delete_log: 1,
            self._run: 4,
            self._session: 5,
            self._checkpoint: 1,
        }

    def _begin(self, operation: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(operation)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if self.alive and not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()
