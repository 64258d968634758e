"""An event loop in a thread of its own, and the way to it from other threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ackline.client.loops import loop_factory
from ackline.proto.errors import AcklineError, ConnectionLost, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Portal"]

T = TypeVar("T")


class Portal:
    """Runs coroutines for any number of threads that wait for them.

    In go `call` and `soon`, and `close` at the end. The thread is a daemon: a program
    that forgets to close ends all the same.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._closing = asyncio.Event()
        # Held to hand something in: nothing may come behind the order to close.
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(started,), name="ackline-client", daemon=True
        )
        self._broken: BaseException | None = None
        self._thread.start()
        started.wait()
        if self._broken is not None:
            raise self._broken

    @property
    def usable(self) -> bool:
        """Whether it is open, and this is the process that has the thread."""
        return not self._closed and os.getpid() == self._process

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result, or raise what it raises.

        An exception in the waiting thread (Ctrl-C, in the main thread) cancels the
        coroutine and waits until it has stopped; a second one does not wait.

        Raises:
            ConnectionLost: the portal is closed.
            UsageError: this is a forked process, or the loop's own thread.
        """
        call = _Call(coroutine)
        try:
            self.soon(call.begin)
        except BaseException:
            coroutine.close()
            raise
        try:
            return call.wait()
        except BaseException:
            if not call.done:  # it was not the coroutine that raised
                with contextlib.suppress(AcklineError):  # closed: cancelled as well
                    self.soon(call.cancel)
                call.settle()
            raise
        finally:
            del call  # its result may be an exception that refers to this frame

    def do(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, and wait for it.

        Raises:
            ConnectionLost, UsageError: as `call`; or what it raises.
        """

        async def calling() -> None:
            function()

        self.call(calling())

    def soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop; do not wait for it.

        Raises:
            ConnectionLost, UsageError: as `call`.
        """
        self._check()
        with self._lock:
            if self._closed:
                raise ConnectionLost("the client is closed")
            self._wake(function)

    def close(self) -> None:
        """Cancel what runs and end the thread; what waits raises ConnectionLost."""
        self._check()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._wake(self._closing.set)
        self._thread.join()

    def _wake(self, function: Callable[[], object]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                f"this client belongs to process {self._process}, which was forked:"
                " connect in this one"
            )
        if threading.current_thread() is self._thread:
            raise UsageError(
                "a callback of this client (on_progress, on_state) cannot wait for the"
                " client: hand the work to a thread"
            )

    def _work(self, started: threading.Event) -> None:
        """Run the loop until `close`; this is the thread."""
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve(started))
        except BaseException as error:
            if started.is_set():
                raise
            self._broken = error  # no descriptor is left, for example
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        started.set()
        await self._closing.wait()


class _Call(Generic[T]):
    """A coroutine that a thread waits for.

    A lock and no concurrent.futures.Future: that takes 28 us more of 84, and puts three
    frames of its own into every traceback.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[T] | None = None
        self._running = threading.Lock()
        self._running.acquire()

    @property
    def done(self) -> bool:
        """Whether the coroutine has ended."""
        return self._task is not None and self._task.done()

    # In the waiting thread

    def wait(self) -> T:
        """Wait for the end; return what came of it."""
        self.settle()
        assert self._task is not None
        if self._task.cancelled():
            raise ConnectionLost("the client is closed")
        return self._task.result()

    def settle(self) -> None:
        """Wait for the end."""
        with self._running:
            pass

    # In the loop

    def begin(self) -> None:
        """Start the coroutine."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._coroutine, context=self._context)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel the coroutine."""
        assert self._task is not None  # begun before, in the order handed in
        self._task.cancel()

    def _ended(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # whoever waited may be gone
        self._running.release()
