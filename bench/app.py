"""The sources that Ackline's server has in the benchmarks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from ackline.server import Server
from bench.data import cycle
from bench.latency import due_body

server = Server()


@server.source("events")
async def events(count: int, size: int) -> AsyncIterator[bytes]:
    """Yield `count` events of `size` bytes as fast as they are taken."""
    for body in cycle(size, count):
        yield body


@server.source("tokens")
async def tokens(rate: float, size: int, seconds: float) -> AsyncIterator[bytes]:
    """Yield an event each `1 / rate` seconds, with the time when it was due."""
    start = time.monotonic() + 0.2
    for number in range(int(seconds * rate)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield due_body(due, size)


@server.source("idle")
async def idle() -> AsyncIterator[bytes]:
    """Yield nothing, and do not end."""
    await asyncio.Event().wait()
    yield b""
