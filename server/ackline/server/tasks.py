"""The server's background tasks: owned in one place, none of them lost."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ackline.server.about import About

__all__ = ["Tasks"]

STUBBORN_SECONDS = 5.0
"""Seconds that a cancelled task has to end: its `finally` may close what it has."""

CALLS_A_TURN = 16
"""How many calls of `soon()` one turn of the event loop has: of 1,000 runs that end
together each takes 40 us, and their last events would wait for all of that."""

log = logging.getLogger(__name__)


class Labelled(Protocol):
    """Whatever tasks belong to."""

    @property
    def label(self) -> About:
        """What lines about it carry."""
        ...


class Tasks:
    """Runs coroutines that nobody waits for.

    One that raises is logged and ends alone: a defect in one stream must not stop the
    others, so this is not a bare `asyncio.TaskGroup`, whose members fail together.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], Labelled | None] = {}
        self._calls: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, None],
        name: str,
        owner: Labelled | None = None,
    ) -> asyncio.Task[None]:
        """Start a coroutine.

        Args:
            coroutine: what runs.
            name: what it does, for the log.
            owner: for what.
        """
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = owner
        task.add_done_callback(self._done)
        return task

    def soon(self, call: Callable[[], None]) -> None:
        """Call what may begin some work, in one of the next turns of the event loop."""
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._call)
        self._calls.append(call)

    def _call(self) -> None:
        calls = self._calls
        now = [calls.popleft() for _ in range(min(len(calls), CALLS_A_TURN))]
        if calls:
            asyncio.get_running_loop().call_soon(self._call)
        for call in now:
            call()

    async def close(self, seconds: float) -> None:
        """Wait that long for what runs, then cancel the rest, and wait for it a while.

        Code of the embedding program may ignore that it was cancelled; the process ends
        all the same.
        """
        if self._tasks and seconds:
            await asyncio.wait(list(self._tasks), timeout=seconds)
        rest = list(self._tasks)
        for task in rest:
            task.cancel()
        if rest:
            _, left = await asyncio.wait(rest, timeout=STUBBORN_SECONDS)
            for task in left:
                name = task.get_name()
                log.warning("%s: %s does not end", _label(self._tasks.get(task)), name)

    def _done(self, task: asyncio.Task[None]) -> None:
        owner = self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            name = task.get_name()
            log.error("%s: %s failed: %r", _label(owner), name, error, exc_info=error)


def _label(owner: Labelled | None) -> object:
    return "server" if owner is None else owner.label
