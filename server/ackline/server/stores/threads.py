"""Blocking calls off the event loop, with buffers that are safe to use again."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Threads", "settled", "uninterrupted"]

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A small pool of threads for calls that wait for a disk."""

    def __init__(self, name: str, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    def submit(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Start a call and return its future, which must not be cancelled."""
        call = partial(function, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def run(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make a call and wait for it.

        When cancelled it still waits for the thread, which may be using the caller's
        buffers and descriptors, and then raises CancelledError.
        """
        return await settled(self.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Wait for the calls that run and end the threads."""
        self._executor.shutdown()


async def settled(future: asyncio.Future[T]) -> T:
    """Wait until the future is done, even when cancelled, and return its result.

    Raises:
        CancelledError: The caller was cancelled; the future is done nevertheless.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            # wait() leaves the future alone when it is cancelled itself.
            await asyncio.wait([future])
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
