"""Whether this process has more to do than its processor can."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ackline.proto.allowance import Pressure

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Load"]

INTERVAL = 0.05
"""Seconds between two looks: a flood is felt for about that long."""

BUSY = 0.85
"""Part of the time that the event loop wants a processor; above it there is pressure.
Only then is anybody slowed down, so a client alone gets all there is."""

NANOSECONDS = 1e-9


class Load:
    """Looks at how busy the event loop's thread is.

    Attributes:
        pressure: what connections look at.
        busy: part of the last interval, 0 to about 1.
    """

    def __init__(self) -> None:
        self.pressure = Pressure()
        self.busy = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watched(self) -> Generator[None]:
        """Look at it for the time of a block, in the thread that runs the loop."""
        wanted = _Wanted()
        self._look(wanted, wanted.seconds(), time.monotonic())
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            wanted.close()

    def _look(self, wanted: _Wanted, before: float, since: float) -> None:
        seconds, now = wanted.seconds(), time.monotonic()
        if now > since:
            self.busy = (seconds - before) / (now - since)
            self.pressure.high = self.busy > BUSY
        self._timer = asyncio.get_running_loop().call_later(
            INTERVAL, self._look, wanted, seconds, now
        )


class _Wanted:
    """The seconds for which this thread ran or waited for a processor.

    Waiting counts: with a neighbour on its processor a thread that always has something
    to do runs half of the time. Where the system does not tell, running has to do.
    """

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1
        if self._file >= 0 and not os.pread(self._file, 100, 0).strip(b"0 \n"):
            self.close()  # a kernel that does not count

    def seconds(self) -> float:
        if self._file < 0:
            return time.thread_time()
        running, waiting, _ = os.pread(self._file, 100, 0).split()
        return (int(running) + int(waiting)) * NANOSECONDS

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
