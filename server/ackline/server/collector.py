"""Collecting garbage without long pauses, in a process that only serves.

A full collection looks at every object there is: 50,000 idle subscriptions are 450,000,
and 0.2 s in which nothing is sent. Here whatever lived through one is frozen, so that
the next one looks only at what is newer, a few thousand objects: about 2 ms, and less
altogether than the usual, which looks at everything again with each quarter of growth.

What is frozen is freed as ever when its last reference goes; only a cycle of frozen
objects stays. Streams, runs, logs and connections leave none, whether they succeed or
are refused. For those of faults, of other libraries and of the sources of users there
is a complete collection from time to time: while no client is connected, or, so that
what stays is bounded, when what is frozen has doubled.

All this is of the process, not of a server: a program that embeds one keeps its own
settings. Only `Server.serve_until_stopped()` comes here.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Collector"]

THRESHOLDS = (700, 3, 1)
"""A full collection after some 5,600 objects that are new and still there."""

LOOK_SECONDS = 5.0
"""Between two looks whether a complete collection is due."""

STEPS = 200
"""Freezes, of a million objects together, before what is frozen is counted: that takes
40 ms for half a million. At most as many can be garbage that nobody has counted."""

ENOUGH = 2**17
"""Frozen objects below which clients are never kept waiting for a complete collection,
which takes 30 ms for as many: a thousand streams and all that is loaded."""


class Collector:
    """The garbage collection of a process, from `running()` on."""

    def __init__(self) -> None:
        self._steps = 0
        self._counted_at = 0
        self._complete = 0

    @contextmanager
    def running(self) -> Generator[None]:
        """Freeze what there is, and from now on what stays; undo that at the end."""
        thresholds = gc.get_threshold()
        gc.callbacks.append(self._collected)
        self.collect()
        gc.set_threshold(*THRESHOLDS)
        try:
            yield
        finally:
            gc.set_threshold(*thresholds)
            gc.callbacks.remove(self._collected)
            gc.unfreeze()

    async def look_after(self, connections: Callable[[], int]) -> None:
        """Collect completely where it is due, until cancelled.

        Args:
            connections: the number of clients that would wait.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._steps and (not connections() or self._doubled()):
                self.collect()

    def collect(self) -> None:
        """Look at everything, and freeze what is left."""
        gc.unfreeze()
        gc.collect()
        # Again, over nothing: else the next waits for a fourth of what this one found.
        gc.collect()
        self._complete = gc.get_freeze_count()
        self._steps = self._counted_at = 0

    def _doubled(self) -> bool:
        if self._steps - self._counted_at < STEPS:
            return False
        self._counted_at = self._steps
        return gc.get_freeze_count() > 2 * max(self._complete, ENOUGH // 2)

    def _collected(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            gc.freeze()
            self._steps += 1
