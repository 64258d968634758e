"""Group synchronisation: one fdatasync serves everybody who waits for it.

A sync covers what was written before it began, so callers that arrive while one runs
share the next one. The busier the disk, the larger the group: the cost of a promise
falls with load instead of rising.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ackline.server.stores.errors import StoreFailed
from ackline.server.stores.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.server.stores.files import Files

__all__ = ["SyncObserver", "Syncer"]

#: Told the seconds and the number of waiters of every sync that succeeded.
SyncObserver: TypeAlias = "Callable[[float, int], None]"


class _Queue:
    """Who waits for one descriptor or directory."""

    __slots__ = ("failure", "running", "waiting")

    def __init__(self) -> None:
        self.running: asyncio.Future[float] | None = None
        self.waiting: list[asyncio.Future[None]] = []
        self.failure: str | None = None


class Syncer:
    """Runs fdatasync for groups of waiters.

    In goes `sync` (`write_and_sync`, for a writer that groups by itself; `write_new`,
    for a file of one write); `release` before a descriptor is closed. Out come the
    counters.

    Attributes:
        calls: Syncs that succeeded.
        waiters: Callers they served.
        seconds: Time they took, added up over threads.
        failures: Syncs that failed.
    """

    def __init__(
        self, files: Files, *, threads: int, observe: SyncObserver | None = None
    ) -> None:
        self.calls = 0
        self.waiters = 0
        self.seconds = 0.0
        self.failures = 0
        self._failing = threading.Lock()
        self._files = files
        self._threads = Threads("ackline-sync", threads)
        self._observe = observe
        self._queues: dict[int | Path, _Queue] = {}

    @property
    def waiting(self) -> int:
        """Callers of `sync` that wait for one that has not begun."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def sync(self, target: int | Path) -> asyncio.Future[None]:
        """Return a future that is done once what was written so far is synced.

        It fails with StoreFailed. A descriptor whose sync failed once is
        never synced again: the kernel reports an error once and then calls the same
        pages clean, so a second call would succeed over bytes that are lost. A
        directory may be tried again, since every call opens it anew.

        Args:
            target: A descriptor, or the path of a directory.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(target)
        if queue is None:
            queue = self._queues[target] = _Queue()
        if queue.failure is not None:
            future.set_exception(StoreFailed("sync failed before", queue.failure))
            return future
        queue.waiting.append(future)
        if queue.running is None:
            self._start(target, queue)
        return future

    async def write_and_sync(
        self, fd: int, write: Callable[[], None], *, waiters: int
    ) -> None:
        """Call `write` and then fdatasync in one thread hop.

        For a writer that has grouped `waiters` callers itself and makes one call at
        a time on this descriptor.

        Raises:
            OSError: Writing or syncing failed; the caller must not sync this
                descriptor again.
        """
        seconds = await self._threads.run(self._timed, fd, write)
        self._count(seconds, waiters)

    async def write_new(self, path: Path, write: Callable[[int], None]) -> None:
        """Make a file, `write` to its descriptor, sync and close it in one thread hop.

        Its name is not synced. If this raises the file may be there all the same.

        Raises:
            OSError: A call failed.
            Exception: What `write` raises.
        """
        self._count(await self._threads.run(self._made, path, write), 1)

    async def release(self, fd: int) -> None:
        """Wait until nothing runs on a descriptor and forget it.

        Must be called before it is closed: its number will be given to another file.
        """
        queue = self._queues.get(fd)
        while queue is not None and queue.running is not None:
            await asyncio.wait([queue.running])
        self._queues.pop(fd, None)

    def close(self) -> None:
        """Wait for the syncs that run and end the threads."""
        self._threads.close()

    def _start(self, target: int | Path, queue: _Queue) -> None:
        group, queue.waiting = queue.waiting, []
        queue.running = self._threads.submit(self._timed, target)
        queue.running.add_done_callback(partial(self._finish, target, queue, group))

    def _timed(
        self, target: int | Path, write: Callable[[], None] | None = None
    ) -> float:
        """Sync in a pool thread and return the seconds fdatasync took."""
        if write is not None:
            write()
        begin = time.perf_counter()
        try:
            if isinstance(target, Path):
                self._files.sync_directory(target)
            else:
                self._files.fdatasync(target)
        except OSError:
            with self._failing:
                self.failures += 1
            raise
        return time.perf_counter() - begin

    def _made(self, path: Path, write: Callable[[int], None]) -> float:
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            return self._timed(fd, partial(write, fd))
        finally:
            self._files.close(fd)

    def _finish(
        self,
        target: int | Path,
        queue: _Queue,
        group: list[asyncio.Future[None]],
        job: asyncio.Future[float],
    ) -> None:
        queue.running = None
        error = job.exception()
        if error is not None:
            self._fail(target, queue, group, error)
            return
        self._count(job.result(), len(group))
        for future in group:
            if not future.done():
                future.set_result(None)
        if queue.waiting:
            self._start(target, queue)
        else:
            self._queues.pop(target, None)

    def _fail(
        self,
        target: int | Path,
        queue: _Queue,
        group: list[asyncio.Future[None]],
        error: BaseException,
    ) -> None:
        group.extend(queue.waiting)
        queue.waiting = []
        if isinstance(target, Path):
            self._queues.pop(target, None)
        else:
            queue.failure = str(error)
        for future in group:
            if not future.done():
                # Not StorageFull, whatever the error: bytes that were written are lost.
                future.set_exception(StoreFailed("sync failed", str(error)))

    def _count(self, seconds: float, waiters: int) -> None:
        self.calls += 1
        self.waiters += waiters
        self.seconds += seconds
        if self._observe is not None:
            self._observe(seconds, waiters)
