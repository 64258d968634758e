"""Taking events from a generator: in turns, and no more than consumers allow."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from ackline.proto.limits import MAX_EVENT
from ackline.server.events import EVENT_COST, append_event, cost_of_room

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ackline.proto.feed import EventBuffer

__all__ = ["Producing", "produce", "while_attended"]

TURN = 96 * 2**10
TURN_SECONDS = 0.001
"""Bytes and `EVENT_COST`s, and time, that a generator which never waits may take before
others get a turn: 512 events of 64 bytes."""

CLOCK_EVERY = TURN // 32
"""Bytes and `EVENT_COST`s between two looks at the clock: 16 events of 64 bytes."""


class Producing(Protocol):
    """What a generator produces for.

    Attributes:
        buffer: where the events go.
    """

    buffer: EventBuffer

    @property
    def why(self) -> object:
        """Why it was stopped; None while it takes events."""
        ...

    async def attendance(self) -> None:
        """Wait while there is nobody to produce for."""
        ...


async def produce(run: Producing, generator: AsyncGenerator[object]) -> None:
    """Append what the generator yields until it ends, and close it."""
    buffer, append = run.buffer, run.buffer.tail.append
    # What is left until the next look at the clock, and of the turn after that.
    left, turn, due = 0, _turn(buffer), perf_counter() + TURN_SECONDS
    try:
        # 55 ns for each event of 64 bytes, beside 50 for the generator; with calls of
        # `append()` and `full` for each, it was 240.
        async for item in generator:
            if run.why is not None:  # it went on after it was cancelled
                break
            if type(item) is bytes and (size := len(item)) <= MAX_EVENT:
                left -= size + EVENT_COST
                append(item)
                if buffer.idle:
                    buffer.wake()
            else:
                left -= append_event(buffer, item)
            if left > 0:
                continue
            turn += left
            if turn <= 0 or perf_counter() >= due:
                await asyncio.sleep(0)
                if buffer.full:
                    await _room(buffer)
                turn, due = _turn(buffer), perf_counter() + TURN_SECONDS
            left = min(turn, CLOCK_EVERY)
            turn -= left
    finally:
        await generator.aclose()


async def while_attended(
    run: Producing, generator: AsyncGenerator[object]
) -> AsyncGenerator[object]:
    """Ask the generator for nothing while nobody is there."""
    try:
        await run.attendance()
        async for item in generator:
            yield item
            await run.attendance()
    finally:
        await generator.aclose()


def _turn(buffer: EventBuffer) -> int:
    """Return what may be produced in one turn, in bytes and `EVENT_COST`s."""
    return min(TURN, cost_of_room(buffer))


async def _room(buffer: EventBuffer) -> None:
    """Wait until the slowest consumer has gone on."""

    def has_room() -> None:
        if not waiting.done():
            waiting.set_result(None)

    while buffer.full:
        waiting = asyncio.get_running_loop().create_future()
        buffer.on_room(has_room)
        await waiting
