"""The server program of the demo: one source, ten lines."""

from __future__ import annotations

import asyncio
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
