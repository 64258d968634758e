"""gRPC: `grpc.aio` with generic handlers that pass bytes on."""

from __future__ import annotations

import asyncio
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from bench.arrivals import MARK, Arrivals, marked, produce, ticks
from bench.data import bodies, crc_of, cycle
from bench.idling import cost_of_each
from bench.latency import Latencies
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.slow_link import SLOW_RATE, received
from bench.specs import Fetch, Idle, Many, Mixed, Spec, Subscribe, Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _able(spec: Spec) -> bool:
    return (
        getattr(spec, "digest", "crc32c") == "crc32c"
        and getattr(spec, "chunk_size", 4 << 20) == 4 << 20
    )


peer = Peer(
    title=f"gRPC {version('grpcio')}",
    settings=(
        "grpc.aio on uvloop; generic handlers, bytes without a serializer. Files are"
        " streams of messages of 512 KiB, written on the loop; synced: before the one"
        " reply at the end. Many streams are calls on one channel, fed by a queue each."
        " Subscribe has a tenth of the events, idle at most 5,000 streams."
    ),
    extra="bench-grpc",
    able=_able,
)

SHARE = 10
"""Of the events of `subscribe`, one in so many: rates are compared."""
IDLE = 5_000
"""Streams at most: 50,000 take 19 s to open, and cost the same 21 KiB each."""
MESSAGE = 512 << 10
"""The rate rises up to 256 KiB and is within the noise from there to 2 MiB."""
TOKEN_SIZE = 64
TOKEN_SECONDS = 600.0
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1 << 20),
    ("grpc.use_local_subchannel_pool", 1),
)


# Events


@peer.server(Subscribe)
async def serve_events(spec: Subscribe, job: Job, ready: Ready) -> None:
    """Send what an async generator yields."""

    async def generate(request: bytes, context: object) -> AsyncIterator[bytes]:
        for body in cycle(spec.size, spec.events // SHARE):
            yield body

    await _listen(
        {"Events": grpc.unary_stream_rpc_method_handler(generate)}, job, ready
    )


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the messages one by one."""
    expected, count = bodies(spec.size), 0
    async with _channel(job) as channel:
        with job.clock:
            async for body in channel.unary_stream("/bench/Events")(b""):
                if body != expected[count % 1000]:
                    break
                count += 1
    check(count == spec.events // SHARE, f"event {count} is missing or another")
    return Measured(units=count, checked="bytes of every event, and the end")


@peer.server(Many)
async def serve_many(spec: Many, job: Job, ready: Ready) -> None:
    """Send to every stream when its event is due."""
    queues: dict[int, asyncio.Queue[bytes]] = {}
    all_here = asyncio.Event()

    async def stream(request: bytes, context: object) -> AsyncIterator[bytes]:
        queue = queues[int(request)] = asyncio.Queue[bytes]()
        if len(queues) == spec.streams:
            all_here.set()
        while True:
            yield await queue.get()

    async def send() -> None:
        await all_here.wait()
        await produce(spec, [queues[number].put for number in range(spec.streams)])

    sending = asyncio.ensure_future(send())
    try:
        handler = grpc.unary_stream_rpc_method_handler(stream)
        await _listen({"Stream": handler}, job, ready)
    finally:
        sending.cancel()


@peer.client(Many)
async def many(spec: Many, job: Job) -> Measured:
    """Take the events of all streams."""
    arrivals = Arrivals(spec.streams, int(spec.seconds * spec.rate))
    channels = [_channel(job) for _ in range(spec.connections)]
    methods = [channel.unary_stream("/bench/Stream") for channel in channels]

    async def consume(stream: int) -> None:
        async for message in methods[stream % spec.connections](b"%d" % stream):
            arrivals.take(*MARK.unpack_from(message))

    with job.clock:
        consuming = asyncio.gather(*map(consume, range(spec.streams)))
        await arrivals.wait(spec.seconds)
    consuming.cancel()
    return arrivals.measured()


@peer.server(Idle)
async def serve_idle(spec: Idle, job: Job, ready: Ready) -> None:
    """Have nothing to send."""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        yield b""

    await _listen({"Stream": grpc.unary_stream_rpc_method_handler(stream)}, job, ready)


@peer.client(Idle)
async def idle(spec: Idle, job: Job) -> Measured:
    """Open calls, and have nothing to receive."""
    channels: list[Any] = []
    opened = 0

    async def call() -> object:
        nonlocal opened
        if len(channels) < spec.connections:
            channels.append(_channel(job))
        channel = channels[opened % spec.connections]
        opened += 1
        stream = channel.unary_stream("/bench/Stream")(b"")
        await stream.initial_metadata()
        return stream

    return await cost_of_each(min(spec.streams, IDLE), job, call)


# Files


@peer.server(Upload, Fetch, Mixed)
async def serve_files(spec: Upload | Fetch | Mixed, job: Job, ready: Ready) -> None:
    """Write what comes to a file, and send one; send tokens."""
    path, stored = job.folder / "object", job.folder / "stored"
    if not isinstance(spec, Upload):
        await asyncio.to_thread(shutil.copyfile, job.source, stored)

    async def write(messages: AsyncIterator[bytes], context: object) -> bytes:
        await _store(messages, path, synced=_synced(spec))
        return b""

    async def read(request: bytes, context: object) -> AsyncIterator[bytes]:
        async for message in _messages(stored):
            yield message

    async def tokens(request: bytes, context: object) -> AsyncIterator[bytes]:
        assert isinstance(spec, Mixed)
        async for number, due in ticks(spec.rate, TOKEN_SECONDS):
            yield marked(0, number, due, TOKEN_SIZE)

    handlers = {
        "Upload": grpc.stream_unary_rpc_method_handler(write),
        "Fetch": grpc.unary_stream_rpc_method_handler(read),
        "Tokens": grpc.unary_stream_rpc_method_handler(tokens),
    }
    await _listen(handlers, job, ready, {"path": str(path)})


def _synced(spec: Upload | Fetch | Mixed) -> bool:
    return isinstance(spec, Upload) and spec.durability == "synced"


async def _store(messages: AsyncIterator[bytes], path: Path, *, synced: bool) -> None:
    with path.open("wb", buffering=0) as file:
        async for message in messages:
            file.write(message)
        if synced:
            await asyncio.to_thread(os.fdatasync, file.fileno())


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Send the file."""
    async with _channel(job) as channel:
        with job.clock:
            await _upload(channel, job)
    stored = Path(job.server.extra["path"])
    check(crc_of(stored) == job.crc, "the file that was stored differs")
    return Measured(units=spec.size, checked="CRC-32C of the stored file, afterwards")


@peer.client(Fetch)
async def fetch(spec: Fetch, job: Job) -> Measured:
    """Write what comes to a file."""
    async with _channel(job) as channel:
        with job.clock:
            await _fetch(channel, job)
    check(crc_of(job.folder / "fetched") == job.crc, "the fetched file differs")
    return Measured(units=spec.size, checked="CRC-32C of the fetched file, afterwards")


@peer.client(Mixed)
async def mixed(spec: Mixed, job: Job) -> Measured:
    """Transfer a file, with tokens beside it on the same channel."""
    latencies = Latencies()

    async def watch(channel: Any) -> None:
        count = 0
        async for message in channel.unary_stream("/bench/Tokens")(b""):
            _, number, due = MARK.unpack_from(message)
            check(number == count, f"token {count} is missing")
            latencies.arrived(due)
            count += 1

    async with _channel(job) as channel:
        watching = asyncio.ensure_future(watch(channel)) if spec.tokens else None
        await asyncio.sleep(0.5)
        with job.clock:
            latencies.restart()
            before = received()
            if spec.bulk == "upload":
                await _upload(channel, job)
            elif spec.bulk == "fetch":
                await _fetch(channel, job)
            else:
                await asyncio.sleep(3.0)
            carried = received() - before or spec.size
        if watching is not None:
            check(not watching.done(), "the tokens ended")
            watching.cancel()
    if spec.bulk != "none":
        fetched = spec.bulk == "fetch"
        path = job.folder / "fetched" if fetched else Path(job.server.extra["path"])
        check(crc_of(path) == job.crc, "another file was transferred")
    extra = {"tokens": len(latencies.seconds) / job.clock.seconds}
    if spec.link == "slow":
        extra["link_use"] = carried / job.clock.seconds / SLOW_RATE
    return Measured(
        units=0 if spec.bulk == "none" else spec.size,
        checked="the file, afterwards; number and order of the tokens",
        latency=latencies.summary() if spec.tokens else None,
        extra=extra,
    )


async def _messages(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while message := file.read(MESSAGE):
            yield message


async def _upload(channel: Any, job: Job) -> None:
    await channel.stream_unary("/bench/Upload")(_messages(job.source))


async def _fetch(channel: Any, job: Job) -> None:
    with (job.folder / "fetched").open("wb", buffering=0) as file:
        async for message in channel.unary_stream("/bench/Fetch")(b""):
            file.write(message)


# Both


def _channel(job: Job) -> Any:
    address = f"{job.server.host}:{job.server.port}"
    return grpc.aio.insecure_channel(address, options=OPTIONS)


async def _listen(
    handlers: dict[str, Any],
    job: Job,
    ready: Ready,
    extra: dict[str, str] | None = None,
) -> None:
    server = grpc.aio.server(options=OPTIONS)
    service = grpc.method_handlers_generic_handler("bench", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port(f"{job.server.host}:0")
    await server.start()
    try:
        await ready(Address(port=port, extra=dict(extra or {})))
        await server.wait_for_termination()
    finally:
        await server.stop(0)
