"""The sources that Ackline's server has in the benchmarks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import cache

from ackline.server import Emitter, Server
from bench.data import cycle
from bench.latency import due_body

server = Server()

LEAD_SECONDS = 0.2
"""Between the arrival of the last stream and the first event."""


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
    """Yield nothing, and do not end.

    It waits with the least there is: an `asyncio.Event` of its own, or a sleep, would
    be 1.4 KB of the program's, beside what is measured.
    """
    await asyncio.get_running_loop().create_future()
    yield b""


class Start:
    """When the streams of `many` begin: once all of them are there."""

    def __init__(self) -> None:
        self.here = 0
        self.at = asyncio.get_running_loop().create_future()

    def arrived(self, streams: int) -> None:
        """Count a stream; after the last one, all begin a little later."""
        self.here += 1
        if self.here == streams:
            self.at.set_result(time.monotonic() + LEAD_SECONDS)


@cache
def start() -> Start:
    """Return the one start of this process, which serves one measurement."""
    return Start()


@server.source("each")
async def each(
    number: int, streams: int, rate: float, size: int, seconds: float
) -> AsyncIterator[bytes]:
    """Be one of `streams` generators that each sleep until their own event is due."""
    start().arrived(streams)
    begin = await asyncio.shield(start().at) + number / streams / rate
    for event in range(int(seconds * rate)):
        due = begin + event / rate
        await asyncio.sleep(due - time.monotonic())
        yield due_body(due, size)


emitters: list[Emitter] = []
producing: set[asyncio.Task[None]] = set()


@server.source("pushed")
def pushed(
    emitter: Emitter, number: int, streams: int, rate: float, size: int, seconds: float
) -> None:
    """Be one of `streams` that one producer sends to."""
    emitters.append(emitter)
    start().arrived(streams)
    if start().here == streams:
        producing.add(asyncio.ensure_future(_to_all(rate, size, seconds)))


async def _to_all(rate: float, size: int, seconds: float) -> None:
    begin = await start().at
    for event in range(int(seconds * rate)):
        due = begin + event / rate
        await asyncio.sleep(due - time.monotonic())
        body = due_body(due, size)
        for emitter in emitters:
            emitter.emit(body)
    for emitter in emitters:
        emitter.complete()
