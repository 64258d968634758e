"""Memory and open files of a server, over each of its lives."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from statistics import linear_regression, mean

import psutil

__all__ = ["Life", "Samples"]

WARM_UP = 20.0
"""Seconds after which a server holds what its load needs."""

LONG = 100.0
"""Seconds that a life has to last for its slope to say something."""

MEMORY_SLACK = 24 * 2**20
FILES_SLACK = 24
"""What may be in use more at the end than at the beginning: load is random."""

FULL = 600.0
"""Seconds after which what is kept on purpose (histories, caches) is nearly full."""

FLAT = 1.06
"""From then on, the last third of a life to the third before, at most."""


@dataclass
class Life:
    """One server process.

    Attributes:
        points: seconds since its start, bytes resident, open files.
    """

    began: float
    points: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def long(self) -> bool:
        return bool(self.points) and self.points[-1][0] >= LONG

    def change(self, what: int) -> tuple[float, float, float]:
        """Return the mean of the first and the last third, and the slope a minute."""
        warm = [each for each in self.points if each[0] >= WARM_UP]
        third = max(1, len(warm) // 3)
        values = [float(each[what]) for each in warm]
        slope, _ = linear_regression([each[0] for each in warm], values)
        return mean(values[:third]), mean(values[-third:]), slope * 60

    def course(self, what: int) -> list[int]:
        """Return ten values, evenly over its time."""
        steps = (self.points[len(self.points) * n // 10] for n in range(10))
        return [int(each[what]) for each in steps]

    def faults(self) -> list[str]:
        """Return what grew."""
        found: list[str] = []
        for what, name, slack in (
            (1, "memory", MEMORY_SLACK),
            (2, "open files", FILES_SLACK),
        ):
            first, last, _ = self.change(what)
            if last > first * 1.2 + slack:
                found.append(f"{name} grew from {first:,.0f} to {last:,.0f}")
        third = len(self.points) // 3
        before = mean(each[1] for each in self.points[third:-third])
        last = mean(each[1] for each in self.points[-third:])
        if self.points[-1][0] >= FULL and last > before * FLAT:
            found.append(f"memory still grows, from {before:,.0f} to {last:,.0f}")
        return found


class Samples:
    """Looks at the server once a second."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self._process: psutil.Process | None = None

    def began(self, pid: int) -> None:
        """Take note of a new process."""
        self._process = psutil.Process(pid)
        self.lives.append(Life(time.monotonic()))

    def ended(self) -> None:
        """Take note that it is gone."""
        self._process = None

    async def take(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(1)
            if self._process is None:
                continue
            try:
                point = (self._process.memory_info().rss, self._process.num_fds())
            except psutil.Error:
                continue
            life = self.lives[-1]
            life.points.append((time.monotonic() - life.began, *point))
