"""Events that are due at times: sending them, and whether all of them came."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from typing import TYPE_CHECKING

from bench.latency import Latencies
from bench.peer import Measured, check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from bench.specs import Many

__all__ = ["GRACE", "MARK", "Arrivals", "marked", "produce", "ticks"]

GRACE = 5.0
"""Seconds that a peer may be late at the end; what is not there then is undelivered."""

MARK = struct.Struct("<IQd")
"""Stream, number, due time: what an application puts before an event where the peer has
no streams and numbers of its own. The due time counts as part of the event."""


async def ticks(
    rate: float, seconds: float, *, offset: float = 0.0
) -> AsyncIterator[tuple[int, float]]:
    """Yield the number and the due time of each event when it is due.

    Args:
        rate: events a second.
        seconds: how long.
        offset: seconds after which the first is due.
    """
    start = time.monotonic() + 0.2 + offset
    for number in range(int(seconds * rate)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield number, due


def marked(stream: int, number: int, due: float, size: int) -> bytes:
    """Return an event of `size` bytes with stream and number before it."""
    return MARK.pack(stream, number, due).ljust(MARK.size - 8 + size, b".")


async def produce(
    spec: Many,
    senders: Sequence[Callable[[bytes], Awaitable[None]]],
    message: Callable[[int, int, float, int], bytes] = marked,
) -> None:
    """Send to every stream when its event is due.

    Args:
        spec: how many, how often, by whom.
        senders: what sends a message, for each stream.
        message: makes it from stream, number, due time and size.
    """

    async def to_all() -> None:
        async for number, due in ticks(spec.rate, spec.seconds):
            for stream, send in enumerate(senders):
                await send(message(stream, number, due, spec.size))

    async def to_one(stream: int) -> None:
        send, offset = senders[stream], stream / spec.streams / spec.rate
        async for number, due in ticks(spec.rate, spec.seconds, offset=offset):
            await send(message(stream, number, due, spec.size))

    if spec.producers == "one":
        await to_all()
    else:
        await asyncio.gather(*map(to_one, range(spec.streams)))


class Arrivals:
    """What came on `streams` streams of `events` events each."""

    def __init__(self, streams: int, events: int) -> None:
        self._all = self._missing = streams * events
        self._next = [0] * streams
        self._wrong = ""
        self._over = asyncio.Event()
        self._latencies = Latencies()

    def take(self, stream: int, number: int, due: float) -> None:
        """Take note that an event is here now."""
        self._latencies.seconds.append(time.monotonic() - due)
        if number != self._next[stream]:
            self._wrong = f"stream {stream}: {number} instead of {self._next[stream]}"
            self._over.set()
        self._next[stream] += 1
        self._missing -= 1
        if not self._missing:
            self._over.set()

    async def wait(self, seconds: float) -> None:
        """Return when all are here, one is wrong, or they are too late.

        Args:
            seconds: in which they are sent.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds + GRACE)

    def measured(self) -> Measured:
        """Return what came.

        A peer that is saturated has not delivered all: then the latencies, of what
        came, are too good, and `undelivered` says so.
        """
        check(not self._wrong, self._wrong)
        return Measured(
            units=self._all - self._missing,
            checked="number and order on every stream",
            latency=self._latencies.summary(),
            extra={"undelivered": self._missing} if self._missing else {},
        )
