"""WebSocket messages with the package `picows`.

`picows` sends one event a message; with `picows-packed` the application packs 100
events into each and unpacks them.
"""

from __future__ import annotations

import asyncio
import struct
from importlib.metadata import version
from typing import TYPE_CHECKING

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
    ws_create_server,
)

from bench.arrivals import MARK, Arrivals, marked, produce, ticks
from bench.data import bodies, cycle
from bench.idling import cost_of_each
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.specs import Fanout, Idle, Many, Subscribe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

peer = Peer(
    title=f"picows {version('picows')}",
    settings=(
        "On uvloop with its default transport (aiofastnet), frames taken in its"
        " callback, the server's read buffer 1 KiB. Where streams share a connection,"
        " the application puts stream and number into the message. `packed`: the"
        " application puts 100 events into a message, their lengths before them."
    ),
    extra="bench-picows",
    options=("", "packed"),
    only={"packed": (Subscribe,)},
    able=lambda spec: (
        not isinstance(spec, Idle)
        or (spec.kind == "log" and spec.streams == spec.connections)
    ),
)

PACK = 100
READ_BUFFER = 1 << 10
"""Bytes that the server has for each client, which sends it nothing: 16 KiB by default,
which is half of what an idle connection costs."""
_COUNT = struct.Struct("!I")


class Serving(WSListener):
    """A connection at the server, which waits while the client does not take it."""

    def __init__(self, connected: Callable[[Serving], None] = lambda _: None) -> None:
        super().__init__()
        self._connected = connected
        self._writable = asyncio.Event()
        self._writable.set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._connected(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def push(self, message: bytes) -> None:
        """Send at once."""
        self._transport.send(WSMsgType.BINARY, message)

    async def send(self, message: bytes) -> None:
        """Send when there is room."""
        self._transport.send(WSMsgType.BINARY, message)
        if not self._writable.is_set():
            await self._writable.wait()


class Receiving(WSListener):
    """A connection at the client."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._take = take

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            self._take(frame.get_payload_as_bytes())


@peer.server(Subscribe)
async def serve_events(spec: Subscribe, job: Job, ready: Ready) -> None:
    """Send what an async generator yields."""

    async def generate() -> AsyncIterator[bytes]:
        for body in cycle(spec.size, spec.events):
            yield body

    async def send(connections: list[Serving]) -> None:
        events = generate()
        if job.option == "packed":
            events = _bundles(events)
        async for message in events:
            await connections[0].send(message)

    await _serve_all(1, send, ready)


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events one by one."""
    expected, count, over = bodies(spec.size), 0, asyncio.Event()

    def take(body: bytes) -> None:
        nonlocal count
        if body != expected[count % 1000]:
            over.set()
            return
        count += 1
        if count == spec.events:
            over.set()

    def take_packed(message: bytes) -> None:
        nonlocal count
        for body in _unpacked(message):
            if body != expected[count % 1000]:
                over.set()
                return
            count += 1
        if count == spec.events:
            over.set()

    with job.clock:
        await _connect(take_packed if job.option == "packed" else take, job)
        await over.wait()
    check(count == spec.events, f"event {count} is missing or another")
    return Measured(units=count, checked="bytes of every event")


@peer.server(Many)
async def serve_many(spec: Many, job: Job, ready: Ready) -> None:
    """Send to every stream when its event is due."""

    async def send(connections: list[Serving]) -> None:
        of = [connections[n % spec.connections] for n in range(spec.streams)]
        await produce(spec, [connection.send for connection in of])

    await _serve_all(spec.connections, send, ready)


@peer.client(Many)
async def many(spec: Many, job: Job) -> Measured:
    """Take the events of all streams."""
    arrivals = Arrivals(spec.streams, int(spec.seconds * spec.rate))

    def take(message: bytes) -> None:
        arrivals.take(*MARK.unpack_from(message))

    made = [await _connect(take, job) for _ in range(spec.connections)]
    with job.clock:
        await arrivals.wait(spec.seconds)
    check(len(made) == spec.connections, "connections are missing")
    return arrivals.measured()


@peer.server(Fanout)
async def serve_fanout(spec: Fanout, job: Job, ready: Ready) -> None:
    """Send every event to all."""

    async def send(connections: list[Serving]) -> None:
        async for number, due in ticks(spec.rate, spec.seconds):
            message = marked(0, number, due, spec.size)
            for connection in connections:
                connection.push(message)

    await _serve_all(spec.subscribers, send, ready)


@peer.client(Fanout)
async def fanout(spec: Fanout, job: Job) -> Measured:
    """Take the same events on every connection."""
    arrivals = Arrivals(spec.subscribers, int(spec.seconds * spec.rate))

    def taking(subscriber: int) -> Callable[[bytes], None]:
        def take(message: bytes) -> None:
            _, number, due = MARK.unpack_from(message)
            arrivals.take(subscriber, number, due)

        return take

    made = [await _connect(taking(n), job) for n in range(spec.subscribers)]
    with job.clock:
        await arrivals.wait(spec.seconds)
    check(len(made) == spec.subscribers, "connections are missing")
    return arrivals.measured()


@peer.server(Idle)
async def serve_idle(spec: Idle, job: Job, ready: Ready) -> None:
    """Have nothing to send."""
    await _listen(Serving, ready)


@peer.client(Idle)
async def idle(spec: Idle, job: Job) -> Measured:
    """Connect, and have nothing to receive."""

    def take(message: bytes) -> None:
        raise AssertionError(message)

    return await cost_of_each(spec.connections, job, lambda: _connect(take, job))


async def _bundles(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    bundle: list[bytes] = []
    async for body in events:
        bundle.append(body)
        if len(bundle) == PACK:
            yield _packed(bundle)
            bundle.clear()
    if bundle:
        yield _packed(bundle)


def _packed(bundle: list[bytes]) -> bytes:
    lengths = struct.pack(f"!{len(bundle)}I", *map(len, bundle))
    return b"".join((_COUNT.pack(len(bundle)), lengths, *bundle))


def _unpacked(message: bytes) -> Iterator[bytes]:
    (count,) = _COUNT.unpack_from(message)
    at = _COUNT.size + 4 * count
    for length in struct.unpack_from(f"!{count}I", message, _COUNT.size):
        yield message[at : at + length]
        at += length


async def _connect(take: Callable[[bytes], None], job: Job) -> WSTransport:
    url = f"ws://127.0.0.1:{job.server.port}"
    transport, _ = await ws_connect(lambda: Receiving(take), url)
    return transport


async def _listen(listener: Callable[[], Serving], ready: Ready) -> None:
    server = await ws_create_server(
        lambda _: listener(),
        "127.0.0.1",
        0,
        backlog=4096,
        read_buffer_init_size=READ_BUFFER,
    )
    await ready(Address(port=server.sockets[0].getsockname()[1]))
    async with server:
        await server.serve_forever()


async def _serve_all(
    count: int, send: Callable[[list[Serving]], Awaitable[None]], ready: Ready
) -> None:
    """Listen, and begin to send when `count` connections are here."""
    connections: list[Serving] = []
    all_here = asyncio.Event()

    def connected(connection: Serving) -> None:
        connections.append(connection)
        if len(connections) == count:
            all_here.set()

    async def send_to_all() -> None:
        await all_here.wait()
        await send(connections)

    sending = asyncio.ensure_future(send_to_all())
    try:
        await _listen(lambda: Serving(connected), ready)
    finally:
        sending.cancel()
