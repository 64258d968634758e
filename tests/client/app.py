"""The server program of these tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ackline.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

server = Server()


@server.source("count")
async def count(events: int = 10, delay: float = 0.0) -> AsyncGenerator[str, None]:
    """Say numbers."""
    for number in range(events):
        yield f"event {number}"
        if delay:
            await asyncio.sleep(delay)


@server.source("broken")
async def broken(events: int = 3) -> AsyncGenerator[str, None]:
    """Say some numbers and raise."""
    for number in range(events):
        yield str(number)
    message = "the model is gone"
    raise RuntimeError(message)


@server.source("endless")
async def endless(mark: str = "") -> AsyncGenerator[str, None]:
    """Go on until cancelled, and leave a mark then."""
    number = 0
    try:
        while True:
            yield str(number)
            number += 1
            await asyncio.sleep(0.002)
    finally:
        if mark:
            with open(mark, "w") as file:  # noqa: ASYNC230, PTH123 - a test's mark
                file.write(str(number))


@server.source("kept", durable=True)
async def kept(events: int = 3, delay: float = 0.0) -> AsyncGenerator[str, None]:
    """Say numbers that are on the disk."""
    for number in range(events):
        yield str(number)
        await asyncio.sleep(delay)


@server.source("square", resumes="recompute")
async def square(events: int = 10, *, start: int) -> AsyncGenerator[str, None]:
    """Say squares, from any number on."""
    for number in range(start, events):
        yield str(number * number)


@server.source("volatile", resumes="none")
async def volatile() -> AsyncGenerator[str, None]:
    """Say something that is gone at once, and go on."""
    yield "now"
    await asyncio.Event().wait()
