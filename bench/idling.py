"""What a connection on which nothing happens costs its server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.peer import Job, Measured
from bench.processes import resident_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["cost_of_each"]

FIRST = 50
"""Opened before the memory is read: they make what all of them share."""
AT_ONCE = 50
SETTLING_SECONDS = 1.0


async def cost_of_each(
    count: int, job: Job, opened: Callable[[], Awaitable[object]]
) -> Measured:
    """Open `count` of them and return how much the server's memory grew for each.

    Args:
        count: how many.
        job: of the client's role.
        opened: opens one, and returns what keeps it open.
    """
    kept = [await opened() for _ in range(FIRST)]
    await asyncio.sleep(SETTLING_SECONDS)
    before = resident_memory(job.clock.server())
    with job.clock:
        for _ in range(0, count, AT_ONCE):
            kept += await asyncio.gather(*(opened() for _ in range(AT_ONCE)))
    await asyncio.sleep(SETTLING_SECONDS)
    after = resident_memory(job.clock.server())
    return Measured(
        units=len(kept) - FIRST,
        checked="that each was accepted",
        extra={"bytes_each": (after - before) / (len(kept) - FIRST)},
    )
