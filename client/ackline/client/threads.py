"""File input and output off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Threads"]

T = TypeVar("T")

THREADS = 4
"""Reads and writes of files at once: a disk is not faster with more, and each stream
has at most one."""


class Threads:
    """A few threads, started when they are first needed."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread.

        Cancelling this coroutine waits for the thread: it may be reading into a buffer
        or using a file that would be closed otherwise.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "ackline-files")
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise

    async def run_loose(self, work: Callable[[], T]) -> T:
        """Call `work`, which may never return, in a thread that nobody waits for.

        Cancelling this coroutine leaves the thread behind, for a pipe that is read.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(cast("T", result))

        def call() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except Exception as raised:  # noqa: BLE001 - it is raised where it is awaited
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, result, error)

        threading.Thread(target=call, name="ackline-pipe", daemon=True).start()
        return await done

    def close(self) -> None:
        """End the threads; nothing may be running."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
