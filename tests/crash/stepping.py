"""Threads that are none: their work is done by the event loop, in a seeded order.

So that a seed brings the same run every time. What runs at the same time in several
threads comes here one job after the other, in any order that a seed may choose.
"""

from __future__ import annotations

import asyncio
import queue
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ackline.server.stores import chunks, logs, storage, sync
from ackline.server.stores.records import Records, _resolve
from ackline.server.stores.threads import Threads, _made

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from random import Random

    from ackline.server.stores.threads import _Call

__all__ = ["stepping"]

#: How often a job, when its turn comes, lets the others go first.
_LATE = 0.3


@contextmanager
def stepping(rng: Random) -> Generator[None]:
    """Let stores that are opened in this block run without threads."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (storage, sync):
            patch.setattr(module, "Threads", partial(_SteppedThreads, rng))
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


class _SteppedThreads(Threads):
    def __init__(self, rng: Random, name: str, _count: int) -> None:
        super().__init__(name, 0)
        self._rng = rng
        self._again = asyncio.get_running_loop().call_soon
        self._jobs: list[_Call] = []
        self._calls = _Announced(asyncio.get_running_loop(), self._step)

    def close(self) -> None:
        self._take()
        while self._jobs:
            self._made(0)

    def _take(self) -> None:
        while not self._calls.empty():
            call = self._calls.get()
            assert call is not None
            self._jobs.append(call)

    def _step(self) -> None:
        self._take()
        if not self._jobs:
            return
        if self._rng.random() < _LATE:
            self._again(self._step)
            return
        self._made(self._rng.randrange(len(self._jobs)))

    def _made(self, at: int) -> None:
        self._results.append(_made(*self._jobs.pop(at)))
        self._resolve()


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
