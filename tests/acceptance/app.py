"""The program that the servers under test run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.server import Event, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

server = Server()


def note(folder: str, name: str) -> None:
    """Leave a file that says that something happened, once for each time."""
    if folder:
        number = len(list(Path(folder).glob(f"{name}.*")))
        Path(folder, f"{name}.{number}").write_text(str(os.getpid()))


async def permitted(notes: str) -> None:
    """Wait for the file that says that the last event may come."""
    while notes and not Path(notes, "end").exists():
        await asyncio.sleep(0.01)


@server.source("count")
async def count(
    events: int = 100, pause: float = 0.0, notes: str = ""
) -> AsyncIterator[str]:
    """Count, and note when the work begins and when it is over."""
    note(notes, "started")
    try:
        for number in range(events):
            if number == events - 1:
                await permitted(notes)
            yield f"event {number}"
            if pause:
                await asyncio.sleep(pause)
    finally:
        note(notes, "finished")


@server.source("nothing")
async def nothing() -> AsyncIterator[str]:
    """End at once."""
    never: list[str] = []
    for item in never:
        yield item


@server.source("kinds")
async def kinds() -> AsyncIterator[Event]:
    """Say events of several kinds."""
    yield Event(b"plain")
    yield Event(b"first", kind="token")
    yield Event(b"last", kind="usage")


@server.source("largest")
async def largest() -> AsyncIterator[bytes]:
    """Say one event of the largest size."""
    yield b"x" * 262_136


@server.source("broken")
async def broken() -> AsyncIterator[str]:
    """Fail after two events."""
    yield "one"
    yield "two"
    message = "the model is out of memory"
    raise RuntimeError(message)


@server.source("flood")
async def flood(size: int = 10_000) -> AsyncIterator[bytes]:
    """Say more than anyone can take."""
    body = b"x" * size
    while True:
        yield body


@server.source("ticks")
async def ticks(events: int = 500, pause: float = 0.01) -> AsyncIterator[str]:
    """Say the time at which each event is due."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(events):
        due = begin + number * pause
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield repr(due)


@server.source("kept", durable=True)
async def kept(
    events: int = 100, pause: float = 0.0, notes: str = ""
) -> AsyncIterator[str]:
    """Count into a log of its own."""
    async for event in count(events, pause, notes):
        yield event


@server.source("steps", resumes="recompute")
async def steps(
    events: int = 100, pause: float = 0.0, notes: str = "", *, start: int
) -> AsyncIterator[str]:
    """Count from any number on."""
    async for event in counted(start, events, pause, notes):
        yield event


@server.source("kept-steps", resumes="recompute", durable=True)
async def kept_steps(
    events: int = 100, pause: float = 0.0, notes: str = "", *, start: int
) -> AsyncIterator[str]:
    """Count from any number on, into a log."""
    async for event in counted(start, events, pause, notes):
        yield event


async def counted(
    start: int, events: int, pause: float, notes: str
) -> AsyncIterator[str]:
    """Count, and note where each process began."""
    note(notes, f"from-{start}")
    for number in range(start, events):
        if number == events - 1:
            await permitted(notes)
        yield f"event {number}"
        await asyncio.sleep(pause)
