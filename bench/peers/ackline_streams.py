"""Ackline with many streams, and with many subscribers of one log."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ackline.client import Client, Event, Outcome, connect, merged
from bench.latency import Latencies, due_body
from bench.peer import Job, Measured, check

if TYPE_CHECKING:
    from ackline.client import Subscription
    from ackline.client.merging import Merged
    from bench.specs import Fanout, Many

__all__ = ["fanout", "many"]


async def many(spec: Many, job: Job) -> Measured:
    """Consume all streams in one loop, as the other peers' clients do."""
    latencies, events = Latencies(), int(spec.seconds * spec.rate)
    source = "pushed" if spec.producers == "one" else "each"
    async with AsyncExitStack() as stack:
        clients = await _clients(stack, job, spec.connections)
        streams: list[Subscription] = []
        for number in range(spec.streams):
            subscription = clients[number % spec.connections].subscribe(
                f"sources/{source}",
                params={
                    "number": number,
                    "streams": spec.streams,
                    "rate": spec.rate,
                    "size": spec.size,
                    "seconds": spec.seconds,
                },
            )
            streams.append(await stack.enter_async_context(subscription))
        with job.clock:
            consumed = await _consume_all(streams, latencies, 0, events)
        async for _, item in consumed:
            _check_completed(item)
    check(len(latencies.seconds) == events * spec.streams, "events are missing")
    return Measured(
        units=events * spec.streams,
        checked="id and order on every stream, and that each ended",
        latency=latencies.summary(),
    )


async def fanout(spec: Fanout, job: Job) -> Measured:
    """Publish on one connection, consume on many."""
    latencies, events = Latencies(), int(spec.seconds * spec.rate)
    async with AsyncExitStack() as stack:
        source, *clients = await _clients(stack, job, 1 + spec.subscribers)
        publisher = await stack.enter_async_context(source.publish("log"))
        await publisher.send(b"the log is there")
        await publisher.flush()
        streams = [
            await stack.enter_async_context(client.subscribe("logs/log", start=1))
            for client in clients
        ]

        async def produce() -> None:
            start = time.monotonic() + 0.2
            for number in range(events):
                due = start + number / spec.rate
                await asyncio.sleep(due - time.monotonic())
                await publisher.send(due_body(due, spec.size))

        with job.clock:
            await asyncio.gather(produce(), _consume_all(streams, latencies, 1, events))
    return Measured(
        units=events * spec.subscribers,
        checked="id and order at every subscriber",
        latency=latencies.summary(),
    )


async def _consume_all(
    streams: list[Subscription], latencies: Latencies, first: int, events: int
) -> Merged:
    """Take `events` events of each, the first of which has the id `first`."""
    take, left = latencies.take, len(streams) * events
    expected = dict.fromkeys(streams, first)
    consumed = merged(streams)
    async for stream, event in consumed:
        if isinstance(event, Outcome):  # of one whose events are all in
            _check_completed(event)
            continue
        assert isinstance(event, Event)
        take(event.data)
        wanted = expected[stream]
        if event.id != wanted:  # the text for each event would be the peer's time
            check(False, f"event {wanted} is missing")
        expected[stream] = wanted + 1
        left -= 1
        if not left:
            return consumed
    check(False, f"{left} events are missing")
    return consumed


def _check_completed(item: object) -> None:
    completed = isinstance(item, Outcome) and item.outcome.name == "COMPLETED"
    check(completed, f"{item} is one too many")


async def _clients(stack: AsyncExitStack, job: Job, count: int) -> list[Client]:
    url = f"ackline://127.0.0.1:{job.server.port}"
    return [await stack.enter_async_context(connect(url)) for _ in range(count)]
