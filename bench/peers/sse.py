"""Server-Sent Events: uvicorn with a plain ASGI application, and an HTTP client."""

from __future__ import annotations

import asyncio
import logging
import socket
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import uvicorn
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from bench.arrivals import Arrivals, produce, ticks
from bench.data import bodies, cycle
from bench.idling import cost_of_each
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.specs import Fanout, Idle, Many, Spec, Subscribe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import ClientResponse

    Message: TypeAlias = dict[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
    Sender: TypeAlias = Callable[[bytes], Awaitable[None]]


def _able(spec: Spec) -> bool:
    if isinstance(spec, Many):
        return spec.streams == spec.connections
    if isinstance(spec, Idle):
        return spec.kind == "log" and spec.streams == spec.connections
    return True


peer = Peer(
    title=f"SSE, uvicorn {version('uvicorn')}",
    settings=(
        "uvicorn with httptools on uvloop and a plain ASGI application; the client is"
        f" aiohttp {version('aiohttp')} with a parser of lines. One event a `data:`"
        " line; a stream has a connection of its own."
    ),
    extra="bench-sse",
    able=_able,
)


@peer.server(Subscribe)
async def serve_events(spec: Subscribe, job: Job, ready: Ready) -> None:
    """Send what an async generator yields."""

    async def generate() -> AsyncIterator[bytes]:
        for body in cycle(spec.size, spec.events):
            yield body

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        sender = await _started(send)
        async for body in generate():
            await sender(b"data: %b\n\n" % body)
        await send({"type": "http.response.body"})

    await _listen(application, ready)


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events one by one."""
    expected, count = bodies(spec.size), 0
    async with _session() as session:
        with job.clock:
            async for body in _events(await _opened(session, job, 0)):
                if body != expected[count % 1000]:
                    break
                count += 1
    check(count == spec.events, f"event {count} is missing or another")
    return Measured(units=count, checked="bytes of every event, and the end")


@peer.server(Many)
async def serve_many(spec: Many, job: Job, ready: Ready) -> None:
    """Send to every stream when its event is due."""

    async def send(senders: list[Sender]) -> None:
        await produce(spec, senders, _text)

    await _serve_all(spec.streams, send, ready)


@peer.server(Fanout)
async def serve_fanout(spec: Fanout, job: Job, ready: Ready) -> None:
    """Send every event to all."""

    async def send(senders: list[Sender]) -> None:
        async for number, due in ticks(spec.rate, spec.seconds):
            message = _text(0, number, due, spec.size)
            for sender in senders:
                await sender(message)

    await _serve_all(spec.subscribers, send, ready)


@peer.client(Many)
async def many(spec: Many, job: Job) -> Measured:
    """Take the events of all streams."""
    return await _arrived(spec.streams, spec, job)


@peer.client(Fanout)
async def fanout(spec: Fanout, job: Job) -> Measured:
    """Take the same events on every connection."""
    return await _arrived(spec.subscribers, spec, job)


@peer.server(Idle)
async def serve_idle(spec: Idle, job: Job, ready: Ready) -> None:
    """Have nothing to send."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await _started(send)
        await _gone(receive)

    await _listen(application, ready)


@peer.client(Idle)
async def idle(spec: Idle, job: Job) -> Measured:
    """Connect, and have nothing to receive."""
    session = _session()
    return await cost_of_each(spec.connections, job, lambda: _opened(session, job, 0))


async def _arrived(streams: int, spec: Many | Fanout, job: Job) -> Measured:
    arrivals = Arrivals(streams, int(spec.seconds * spec.rate))
    session = _session()
    responses = [await _opened(session, job, n) for n in range(streams)]

    async def consume(stream: int, response: ClientResponse) -> None:
        async for body in _events(response):
            number, due = body.split(maxsplit=1)
            arrivals.take(stream, int(number), float(due))

    with job.clock:
        consuming = asyncio.gather(*(consume(*each) for each in enumerate(responses)))
        await arrivals.wait(spec.seconds)
    consuming.cancel()
    return arrivals.measured()


def _text(stream: int, number: int, due: float, size: int) -> bytes:
    """Return an event: SSE has lines of UTF-8 only."""
    return b"data: %b\n\n" % f"{number} {due!r}".encode().ljust(size)


# Client


def _session() -> ClientSession:
    return ClientSession(
        connector=TCPConnector(limit=0),
        timeout=ClientTimeout(total=None),
        headers={"Accept": "text/event-stream", "Cache-Control": "no-store"},
        auto_decompress=False,
    )


async def _opened(session: ClientSession, job: Job, stream: int) -> ClientResponse:
    response = await session.get(f"http://127.0.0.1:{job.server.port}/{stream}")
    check(response.status == 200, f"status {response.status}")
    return response


async def _events(response: ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of each event."""
    data: list[bytes] = []
    async for line in response.content:
        if line.startswith(b"data: "):
            data.append(line[6:-1])
        elif line == b"\n":
            yield b"\n".join(data)
            data.clear()


# Server


async def _started(send: Send) -> Sender:
    """Begin the response and return what sends a part of its body."""
    headers = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def sender(part: bytes) -> None:
        await send({"type": "http.response.body", "body": part, "more_body": True})

    return sender


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _listen(application: Application, ready: Ready) -> None:
    logging.disable()
    config = uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        backlog=4096,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        serving = asyncio.ensure_future(server.serve([listening]))
        try:
            while not server.started:  # noqa: ASYNC110 - it tells in no other way
                await asyncio.sleep(0.01)
            await ready(Address(port=listening.getsockname()[1]))
            await serving
        finally:
            serving.cancel()


async def _serve_all(
    count: int, send_all: Callable[[list[Sender]], Awaitable[None]], ready: Ready
) -> None:
    """Listen, and begin to send when `count` streams, by number, are here."""
    senders: dict[int, Sender] = {}
    all_here = asyncio.Event()

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        senders[int(scope["path"][1:])] = await _started(send)
        if len(senders) == count:
            all_here.set()
        await _gone(receive)

    async def send_to_all() -> None:
        await all_here.wait()
        await send_all([senders[stream] for stream in range(count)])

    sending = asyncio.ensure_future(send_to_all())
    try:
        await _listen(application, ready)
    finally:
        sending.cancel()
