"""The server program of the demo: two sources, a few lines each."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ackline.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

server = Server()


@server.source("tokens")
async def tokens(count: int = 100) -> AsyncIterator[str]:
    """Say `count` tokens, one every ten milliseconds."""
    for number in range(count):
        yield f"token {number}"
        await asyncio.sleep(0.01)


@server.source("ticks")
async def ticks(pause: float = 0.01) -> AsyncIterator[str]:
    """Say the time at which each event is due, a hundred times a second."""
    due = time.monotonic()
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield repr(due)
        due += pause
