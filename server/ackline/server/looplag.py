"""How late the event loop is: what everybody feels and no single stream shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ackline.server.counters import Histogram

__all__ = ["watch_loop"]

INTERVAL = 0.25
"""Seconds between two looks: a pause of that length is seen, and looking costs
nothing that could be measured."""


async def watch_loop(lag: Histogram) -> None:
    """Measure until cancelled how late a timer is called, in seconds."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        lag.observe(max(0.0, loop.time() - due))
