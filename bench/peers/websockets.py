"""WebSocket messages with the package `websockets`: one event a message."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen

from bench.arrivals import MARK, Arrivals, marked, produce, ticks
from bench.data import bodies, cycle
from bench.idling import cost_of_each
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.specs import Fanout, Idle, Many, Subscribe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

peer = Peer(
    title=f"websockets {version('websockets')}",
    settings=(
        "Its asyncio implementation on uvloop, without compression and keepalive,"
        " `max_queue=1024`. Where streams share a connection, the application puts"
        " stream and number into the message. Fan-out is its `broadcast`. Subscribe has"
        " a quarter of the events."
    ),
    extra="bench-websockets",
    able=lambda spec: (
        not isinstance(spec, Idle)
        or (spec.kind == "log" and spec.streams == spec.connections)
    ),
)

QUEUE = 1_024
"""Messages that the client holds before it stops reading: 16 by default."""
SHARE = 4
"""Of the events of `subscribe`, one in so many: rates are compared."""


@peer.server(Subscribe)
async def serve_events(spec: Subscribe, job: Job, ready: Ready) -> None:
    """Send what an async generator yields."""

    async def generate() -> AsyncIterator[bytes]:
        for body in cycle(spec.size, spec.events // SHARE):
            yield body

    async def send(connection: ServerConnection) -> None:
        async for body in generate():
            await connection.send(body)
        await connection.wait_closed()

    await _listen(send, ready)


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the messages one by one."""
    expected, count, events = bodies(spec.size), 0, spec.events // SHARE
    with job.clock:
        async for body in await _connect(job):
            if body != expected[count % 1000]:
                break
            count += 1
            if count == events:
                break
    check(count == events, f"event {count} is missing or another")
    return Measured(units=count, checked="bytes of every event")


@peer.server(Many)
async def serve_many(spec: Many, job: Job, ready: Ready) -> None:
    """Send to every stream when its event is due."""

    async def send(connections: list[ServerConnection]) -> None:
        of = [connections[n % spec.connections] for n in range(spec.streams)]
        await produce(spec, [connection.send for connection in of])

    await _serve_all(spec.connections, send, ready)


@peer.server(Fanout)
async def serve_fanout(spec: Fanout, job: Job, ready: Ready) -> None:
    """Send every event to all."""

    async def send(connections: list[ServerConnection]) -> None:
        async for number, due in ticks(spec.rate, spec.seconds):
            broadcast(connections, marked(0, number, due, spec.size))

    await _serve_all(spec.subscribers, send, ready)


@peer.client(Many)
async def many(spec: Many, job: Job) -> Measured:
    """Take the events of all streams."""
    arrivals = Arrivals(spec.streams, int(spec.seconds * spec.rate))
    connections = [await _connect(job) for _ in range(spec.connections)]

    async def consume(connection: ClientConnection) -> None:
        async for message in connection:
            assert isinstance(message, bytes)
            arrivals.take(*MARK.unpack_from(message))

    with job.clock:
        consuming = asyncio.gather(*map(consume, connections))
        await arrivals.wait(spec.seconds)
    consuming.cancel()
    return arrivals.measured()


@peer.client(Fanout)
async def fanout(spec: Fanout, job: Job) -> Measured:
    """Take the same events on every connection."""
    arrivals = Arrivals(spec.subscribers, int(spec.seconds * spec.rate))
    connections = [await _connect(job) for _ in range(spec.subscribers)]

    async def consume(subscriber: int, connection: ClientConnection) -> None:
        async for message in connection:
            assert isinstance(message, bytes)
            _, number, due = MARK.unpack_from(message)
            arrivals.take(subscriber, number, due)

    with job.clock:
        consuming = asyncio.gather(*(consume(*each) for each in enumerate(connections)))
        await arrivals.wait(spec.seconds)
    consuming.cancel()
    return arrivals.measured()


@peer.server(Idle)
async def serve_idle(spec: Idle, job: Job, ready: Ready) -> None:
    """Have nothing to send."""
    await _listen(ServerConnection.wait_closed, ready)


@peer.client(Idle)
async def idle(spec: Idle, job: Job) -> Measured:
    """Connect, and have nothing to receive."""
    return await cost_of_each(spec.connections, job, lambda: _connect(job))


async def _connect(job: Job) -> ClientConnection:
    return await connect(
        f"ws://127.0.0.1:{job.server.port}",
        compression=None,
        max_queue=QUEUE,
        ping_interval=None,
        proxy=None,
    )


async def _listen(
    handler: Callable[[ServerConnection], Awaitable[None]], ready: Ready
) -> None:
    async with listen(
        handler,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        backlog=4096,
    ) as server:
        await ready(Address(port=server.sockets[0].getsockname()[1]))
        await server.serve_forever()


async def _serve_all(
    count: int,
    send: Callable[[list[ServerConnection]], Awaitable[None]],
    ready: Ready,
) -> None:
    """Listen, and begin to send when `count` connections are here."""
    connections: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        connections.append(connection)
        if len(connections) == count:
            await send(connections)
        await connection.wait_closed()

    await _listen(handler, ready)
