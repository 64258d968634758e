"""Threads that are none: their work is done by the event loop, in a seeded order.

So that a seed brings the same run every time. What runs at the same time in several
threads comes here one job after the other, in any order that a seed may choose.
"""

from __future__ import annotations

import asyncio
import queue
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ackline.server.stores import chunks, logs, storage, threads
from ackline.server.stores.records import Records, _resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from random import Random

__all__ = ["stepping"]

#: How often a job, when its turn comes, lets the others go first.
_LATE = 0.3


@contextmanager
def stepping(rng: Random) -> Generator[None]:
    """Let stores that are opened in this block run without threads."""
    with pytest.MonkeyPatch.context() as patch:
        executor = partial(_Stepper, rng)
        patch.setattr(threads, "ThreadPoolExecutor", executor)
        patch.setattr(storage, "Records", partial(_SteppedRecords, rng))
        for module in (chunks, logs):
            patch.setattr(module, "secrets", _Secrets(rng))
        yield


class _Secrets:
    """Random ids that a seed gives again."""

    def __init__(self, rng: Random) -> None:
        self.randbits = rng.getrandbits
        self._rng = rng

    def token_hex(self, size: int) -> str:
        return self._rng.randbytes(size).hex()


class _Stepper(Executor):
    def __init__(self, rng: Random, _count: int, **_: str) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(  # type: ignore[override]
        self, function: Callable[[], Any], /
    ) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.append((future, function))
        self._loop.call_soon(self._step)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while self._jobs:
            self._run(0)

    def _step(self) -> None:
        if not self._jobs:
            return
        if self._rng.random() < _LATE:
            self._loop.call_soon(self._step)
            return
        self._run(self._rng.randrange(len(self._jobs)))

    def _run(self, at: int) -> None:
        future, function = self._jobs.pop(at)
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)


class _SteppedRecords(Records):
    def __init__(self, rng: Random, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._rng = rng
        self._queue = _Announced(self._loop, self._step)

    def _work(self) -> None:
        """Do nothing in the thread; `_step` does its work."""

    def close(self) -> None:
        self._closed = True
        while not self._queue.empty():
            self._step_now()
        self._disconnect()

    def _step(self) -> None:
        if self._queue.empty():
            return
        if self._rng.random() < _LATE:
            self._loop.call_soon(self._step)
        else:
            self._step_now()

    def _step_now(self) -> None:
        group, _ = self._next_group()
        self._transact(group)
        _resolve(group)


class _Announced(queue.SimpleQueue[Any]):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, told: Callable[[], None]
    ) -> None:
        super().__init__()
        self._loop = loop
        self._told = told

    def put(self, item: Any, *_: Any) -> None:
        super().put(item)
        self._loop.call_soon(self._told)
