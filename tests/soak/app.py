"""The program of the server under load: a source of each way to resume."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ackline.server import Event, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

server = Server()


async def numbers(start: int, events: int, pause: float) -> AsyncIterator[Event]:
    """Say numbers, of ten keys in turn for those who merge."""
    for number in range(start, events):
        yield Event(b"%d:%s" % (number, b"x" * (number % 300)), kind=f"k{number % 10}")
        if pause and not number % 10:
            await asyncio.sleep(pause)


@server.source("memory")
async def memory(events: int, pause: float) -> AsyncIterator[Event]:
    async for event in numbers(0, events, pause):
        yield event


@server.source("kept", durable=True)
async def kept(events: int, pause: float) -> AsyncIterator[Event]:
    async for event in numbers(0, events, pause):
        yield event


@server.source("steps", resumes="recompute", kinds=[f"k{n}" for n in range(10)])
async def steps(events: int, pause: float, *, start: int) -> AsyncIterator[Event]:
    async for event in numbers(start, events, pause):
        yield event


@server.source("kept-steps", resumes="recompute", durable=True)
async def kept_steps(events: int, pause: float, *, start: int) -> AsyncIterator[Event]:
    async for event in numbers(start, events, pause):
        yield event
