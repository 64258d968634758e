"""Ackline when its connection is cut and comes back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ackline.client import ConnectionPhase, Event, connect
from bench.cut_link import cut_link
from bench.peer import Job, Measured, check

if TYPE_CHECKING:
    from ackline.client import ConnectionState, Subscription
    from bench.cut_link import Seen
    from bench.specs import Resume

__all__ = ["resume"]

CHUNK_SIZE = 4 << 20


async def resume(spec: Resume, job: Job) -> Measured:
    """Lose the connection, and go on."""
    if spec.what == "upload":
        return await _upload(spec, job)
    return await _streams(spec, job)


async def _upload(spec: Resume, job: Job) -> Measured:
    async with cut_link(job.server.port, spec.cut_at) as link:
        async with connect(f"ackline://127.0.0.1:{link.port}") as client:
            with job.clock:
                result = await client.upload(
                    job.source, "object", chunk_size=CHUNK_SIZE, state=False
                )
        seen = await link.seen()
    check(result.crc == job.crc, "the server stored another file")
    check(len(seen.accepted) == 2, f"{len(seen.accepted)} connections")
    extra = {"first_unit_ms": (seen.first_unit - seen.accepted[1]) * 1e3}
    extra |= _again(seen, spec.size)
    check(extra["acknowledged_again"] == 0, "acknowledged chunks were sent again")
    check(extra["resent_bytes"] <= extra["unacknowledged"], "too much was sent again")
    return Measured(
        units=spec.size,
        checked="crc32c, by the server before the commit; what the link saw sent again",
        extra=extra,
    )


def _again(seen: Seen, size: int) -> dict[str, float]:
    acknowledged = {n for first, end in seen.acknowledged for n in range(first, end)}
    resent = 0
    for number, bytes_again in seen.again.items():
        whole = min(CHUNK_SIZE, size - number * CHUNK_SIZE)
        resent += max(0, seen.sent.get(number, 0) + bytes_again - whole)
    return {
        "resent_bytes": resent,
        "unacknowledged": sum(
            sent for number, sent in seen.sent.items() if number not in acknowledged
        ),
        "acknowledged_again": len(acknowledged & seen.again.keys()),
    }


async def _streams(spec: Resume, job: Job) -> Measured:
    direct = f"ackline://127.0.0.1:{job.server.port}"
    resumed: list[float] = []
    back = asyncio.Event()

    def on_state(state: ConnectionState) -> None:
        if state.phase is ConnectionPhase.RESUMED:
            resumed.append(time.monotonic())
            back.set()

    # The link last: who leaves without a connection waits for one.
    async with cut_link(job.server.port) as link, AsyncExitStack() as stack:
        source = await stack.enter_async_context(connect(direct))
        publisher = await stack.enter_async_context(source.publish("log"))
        client = await stack.enter_async_context(
            connect(f"ackline://127.0.0.1:{link.port}", on_state=on_state)
        )
        streams = await asyncio.gather(
            *(
                stack.enter_async_context(client.subscribe("logs/log"))
                for _ in range(spec.streams)
            )
        )
        await publisher.send(b"before")
        await _each(streams, b"before")
        with job.clock:
            link.now()
            await back.wait()
            await publisher.send(b"after")
            await _each(streams, b"after")
        await stack.aclose()
        seen = await link.seen()
    check(len(resumed) == 1, f"resumed {len(resumed)} times")
    check(len(seen.accepted) == 2, f"{len(seen.accepted)} connections")
    return Measured(
        units=0,
        checked="the records before and after, on every stream",
        extra={
            "answered_ms": (seen.resumed - seen.accepted[1]) * 1e3,
            "resumed_ms": (resumed[0] - seen.accepted[1]) * 1e3,
        },
    )


async def _each(streams: list[Subscription], expected: bytes) -> None:
    for stream in streams:
        event = await anext(aiter(stream))
        assert isinstance(event, Event)
        check(event.data == expected, f"{event.data!r} is not the next record")
