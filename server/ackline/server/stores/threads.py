"""Blocking calls off the event loop, with buffers that are safe to use again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Threads", "settled", "uninterrupted"]

P = ParamSpec("P")
T = TypeVar("T")

_Call: TypeAlias = "tuple[Callable[[], Any], asyncio.Future[Any]]"
_Result: TypeAlias = "tuple[asyncio.Future[Any], Any, BaseException | None]"


class Threads:
    """A small pool of threads for calls that wait for a disk.

    Used from one event loop. A small object takes six such calls, and with
    `run_in_executor` each cost 25 us of the event loop (two futures, chained, and a
    wake-up for each); here 6 us, since results that come together wake it up once.

    Args:
        name: of the threads.
        count: of the threads at most; one is started when all others are busy.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._results: deque[_Result] = deque()
        self._running = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = False
        self._closed = False

    def submit(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Start a call and return its future, which must not be cancelled.

        Raises:
            RuntimeError: The threads have been ended.
        """
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        loop = self._loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._running += 1
        self._calls.put((partial(function, *args, **kwargs), future))
        if len(self._threads) < min(self._running, self._count):
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    async def run(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make a call and wait for it.

        When cancelled it still waits for the thread, which may be using the caller's
        buffers and descriptors, and then raises CancelledError.
        """
        return await settled(self.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Wait for the calls that were started and end the threads."""
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
        self._resolve()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._results.append(_made(*call))
            del call  # with what it holds, while this waits for the next
            if not self._told:
                self._told = True
                assert self._loop is not None
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        """Hand out the results, in the event loop."""
        self._told = False  # before the last look: what comes later tells again
        while self._results:
            future, result, error = self._results.popleft()
            self._running -= 1
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)


def _made(function: Callable[[], Any], future: asyncio.Future[Any]) -> _Result:
    try:
        return future, function(), None
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        return future, None, error
    finally:
        del future  # else an exception, with this frame, is in a cycle


async def settled(future: asyncio.Future[T]) -> T:
    """Wait until the future is done, even when cancelled, and return its result.

    Raises:
        CancelledError: The caller was cancelled; the future is done nevertheless.
    """
    cancelled: asyncio.CancelledError | None = None
    done = asyncio.Event()
    future.add_done_callback(lambda _future: done.set())
    while not future.done():
        try:
            # Not the future: it would be cancelled with its waiter.
            await done.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        if cancelled is not None:
            future.exception()  # nobody will ask for it now
            raise cancelled
        return future.result()
    finally:
        del future, cancelled  # else an exception, with this frame, is in a cycle


async def uninterrupted(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end even when cancelled.

    For steps that change the disk and then say so in memory: half of that would leave
    the two disagreeing.

    Raises:
        CancelledError: The caller was cancelled; the coroutine has ended nevertheless.
    """
    return await settled(asyncio.get_running_loop().create_task(coroutine))
