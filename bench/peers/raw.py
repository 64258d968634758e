"""The practical limit: frames over TCP with the trivial parser and no guarantees.

`raw` computes no checksum; `raw-crc` computes the CRC-32C of every body on both sides.
Nothing is resumed, repeated, multiplexed fairly or limited.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import cast

from ackline.proto.checksums import crc32c
from bench.certificates import client_context, make_certificate, server_context
from bench.data import bodies, crc_of, cycle
from bench.latency import Latencies, due_body
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.specs import Fanout, Fetch, Many, Publish, Spec, Subscribe, Upload

peer = Peer(
    title=f"raw uvloop {version('uvloop')} TCP",
    settings=(
        "One frame of 24 bytes header a chunk or an event. Chunks are received in place"
        " and written on the loop; synced: a thread syncs what was written, then all of"
        " it is acknowledged. Events are written in pieces of 64 KiB."
    ),
    options=("", "crc"),
    tls=True,
    able=lambda spec: getattr(spec, "digest", "crc32c") == "crc32c",
)

HEADER = struct.Struct("!IBBHIQI")
"""Length of the body, type, flags, fragment, stream, number, CRC-32C: as Ackline's."""
ACK = struct.Struct("!Q")
WINDOW = 16
"""Chunks that may be on their way."""
PIECE = 64 << 10


# Chunks


class Receiver(asyncio.BufferedProtocol):
    """Writes chunks to a file and acknowledges each; an empty one is the end."""

    def __init__(self, path: Path, chunk_size: int, *, crc: bool, synced: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._header = bytearray(HEADER.size)
        self._chunk = memoryview(bytearray(chunk_size))
        self._into = memoryview(self._header)
        self._at = 0
        self._crc = crc
        self._synced = synced
        self._written = 0
        self._offset = 0
        self._syncing: asyncio.Task[None] | None = None
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("closed"))
        os.close(self._fd)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._into[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._at < len(self._into):
            return
        self._at = 0
        length, *_, number, crc = HEADER.unpack(self._header)
        if len(self._into) == HEADER.size:
            if length == 0:
                self.ended.set_result(self._offset)
                return
            self._into = self._chunk[:length]
            return
        body, self._into = self._into, memoryview(self._header)
        if self._crc and crc32c(body) != crc:
            self.transport.abort()
        os.pwrite(self._fd, body, self._offset)
        self._offset += length
        self._written = number + 1
        if not self._synced:
            self.transport.write(ACK.pack(self._written))
        elif self._syncing is None:
            self._syncing = asyncio.ensure_future(self._sync())

    async def _sync(self) -> None:
        synced = 0
        while synced < self._written:
            written = self._written
            await asyncio.to_thread(os.fdatasync, self._fd)
            synced = written
            self.transport.write(ACK.pack(synced))
        self._syncing = None


class Sender(asyncio.Protocol):
    """Sends a file; knows what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._received = b""
        self._paused = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=1, low=0)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        whole = len(self._received) // ACK.size * ACK.size
        if whole:
            (self.acknowledged,) = ACK.unpack_from(self._received, whole - ACK.size)
            self._received = self._received[whole:]
            self._changed.set()

    async def send(self, path: Path, chunk_size: int, *, crc: bool) -> None:
        """Send all of the file and wait until all of it is acknowledged."""
        buffers = [memoryview(bytearray(chunk_size)) for _ in range(2)]
        number = 0
        with path.open("rb", buffering=0) as file:
            while filled := file.readinto(buffers[number % 2]):
                body = buffers[number % 2][:filled]
                checksum = crc32c(body) if crc else 0
                await self.ready()
                if number >= self.acknowledged + WINDOW:
                    await self.wait_for(number - WINDOW + 1)
                header = HEADER.pack(filled, 0, 0, 0, 1, number, checksum)
                self.transport.writelines((header, body))
                number += 1
        await self.wait_for(number)
        self.transport.write(HEADER.pack(0, 0, 0, 0, 1, number, 0))

    async def ready(self) -> None:
        """Return when what was written has left."""
        while self._paused:
            self._changed.clear()
            await self._changed.wait()

    async def wait_for(self, number: int) -> None:
        """Return when so many chunks or records are acknowledged."""
        while self.acknowledged < number:
            self._changed.clear()
            await self._changed.wait()


@peer.server(Upload)
async def serve_upload(spec: Upload, job: Job, ready: Ready) -> None:
    """Write what comes to a file."""
    path = job.folder / "object"

    def receiver() -> Receiver:
        return Receiver(
            path,
            spec.chunk_size,
            crc=job.option == "crc",
            synced=spec.durability == "synced",
        )

    await _listen(receiver, ready, spec, job, path)


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Send the file."""
    loop = asyncio.get_running_loop()
    _, sender = await loop.create_connection(
        Sender, "127.0.0.1", job.server.port, ssl=client_context(job)
    )
    with job.clock:
        await sender.send(job.source, spec.chunk_size, crc=job.option == "crc")
    sender.transport.close()
    stored = Path(job.server.extra["path"])
    check(crc_of(stored) == job.crc, "the file that was stored differs")
    return Measured(units=spec.size, checked="CRC-32C of the stored file, afterwards")


@peer.server(Fetch)
async def serve_fetch(spec: Fetch, job: Job, ready: Ready) -> None:
    """Send a file to whoever connects."""
    path = job.folder / "object"
    await asyncio.to_thread(shutil.copyfile, job.source, path)

    class Serving(Sender):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            sending = self.send(path, spec.chunk_size, crc=job.option == "crc")
            self.sending = asyncio.ensure_future(sending)

        def connection_lost(self, error: Exception | None) -> None:
            self.sending.cancel()

    await _listen(Serving, ready, spec, job)


@peer.client(Fetch)
async def fetch(spec: Fetch, job: Job) -> Measured:
    """Write what comes to a file."""
    path = job.folder / "fetched"
    loop = asyncio.get_running_loop()

    def receiver() -> Receiver:
        crc = job.option == "crc"
        return Receiver(path, spec.chunk_size, crc=crc, synced=False)

    with job.clock:
        made = await loop.create_connection(receiver, "127.0.0.1", job.server.port)
        await made[1].ended
    made[0].close()
    check(crc_of(path) == job.crc, "the file that was fetched differs")
    return Measured(units=spec.size, checked="CRC-32C of the fetched file, afterwards")


# Events


class Events(asyncio.BufferedProtocol):
    """Takes frames of one event each from what was received."""

    def __init__(self) -> None:
        self._buffer = bytearray(256 << 10)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self.taken: list[tuple[int, int, bytes]] = []
        self._more = asyncio.Event()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._more.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        buffer, at, end = self._buffer, 0, self._filled + nbytes
        take, unpack = self.taken.append, HEADER.unpack_from
        while end - at >= 24:
            length, _, _, _, stream, number, _ = unpack(buffer, at)
            stop = at + 24 + length
            if stop > end:
                break
            take((stream, number, bytes(buffer[at + 24 : stop])))
            at = stop
        self._view[: end - at] = self._view[at:end]
        self._filled = end - at
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[tuple[int, int, bytes]]:
        while not self.closed:
            await self._more.wait()
            self._more.clear()
            taken, self.taken = self.taken, []
            for event in taken:
                yield event


class Writer(asyncio.Protocol):
    """Writes, and waits while the peer does not take it."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


@peer.server(Subscribe)
async def serve_events(spec: Subscribe, job: Job, ready: Ready) -> None:
    """Send what an async generator yields."""
    crc = job.option == "crc"

    async def generate() -> AsyncIterator[bytes]:
        for body in cycle(spec.size, spec.events):
            yield body

    class Serving(Writer):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.sending = asyncio.ensure_future(self.send())

        async def send(self) -> None:
            number, parts = 0, list[bytes]()
            step = max(1, PIECE // (24 + spec.size))
            async for body in generate():
                checksum = crc32c(body) if crc else 0
                parts.append(HEADER.pack(len(body), 1, 0, 0, 1, number, checksum))
                parts.append(body)
                number += 1
                if number % step == 0:
                    self.transport.write(b"".join(parts))
                    parts.clear()
                    await self.writable.wait()
            self.transport.write(b"".join(parts))

    await _listen(Serving, ready, spec, job)


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events one by one."""
    loop = asyncio.get_running_loop()
    expected, count = bodies(spec.size), 0
    made = await loop.create_connection(
        Events, "127.0.0.1", job.server.port, ssl=client_context(job)
    )
    with job.clock:
        async for _, number, body in made[1]:
            if number != count or body != expected[count % 1000]:
                break
            count += 1
            if count == spec.events:
                break
    check(count == spec.events, f"event {count} is missing or another")
    made[0].close()
    return Measured(units=count, checked="number and bytes of every event")


@peer.server(Publish)
async def serve_publish(spec: Publish, job: Job, ready: Ready) -> None:
    """Append what comes to a file; acknowledge what is synced."""
    path = job.folder / "log"

    class Log(Events):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._appending = asyncio.ensure_future(self._append())

        async def _append(self) -> None:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            while not self.closed:
                await self._more.wait()
                self._more.clear()
                taken, self.taken = self.taken, []
                if taken:
                    os.write(fd, b"".join([body for _, _, body in taken]))
                    await asyncio.to_thread(os.fdatasync, fd)
                    self.transport.write(ACK.pack(taken[-1][1] + 1))
            os.close(fd)

    await _listen(Log, ready, spec, job, path)


@peer.client(Publish)
async def publish(spec: Publish, job: Job) -> Measured:
    """Send the records and wait for the last ACK."""
    loop = asyncio.get_running_loop()
    _, sender = await loop.create_connection(Sender, "127.0.0.1", job.server.port)
    crc, step = job.option == "crc", max(1, PIECE // (24 + spec.size))
    with job.clock:
        parts: list[bytes] = []
        for number, body in enumerate(cycle(spec.size, spec.events)):
            checksum = crc32c(body) if crc else 0
            parts.append(HEADER.pack(len(body), 1, 0, 0, 1, number, checksum))
            parts.append(body)
            if number % step == step - 1:
                await sender.ready()
                sender.transport.write(b"".join(parts))
                parts.clear()
        sender.transport.write(b"".join(parts))
        await sender.wait_for(spec.events)
    sender.transport.close()
    stored = Path(job.server.extra["path"])
    whole = await asyncio.to_thread(stored.read_bytes)
    check(
        whole == b"".join(cycle(spec.size, spec.events)),
        "the records that were stored differ",
    )
    return Measured(units=spec.events, checked="the bytes stored, afterwards")


# Many streams


@peer.server(Many)
async def serve_many(spec: Many, job: Job, ready: Ready) -> None:
    """Send to every stream when its event is due."""
    writers: list[Writer] = []
    all_here = asyncio.Event()

    class Serving(Writer):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            writers.append(self)
            if len(writers) == spec.connections:
                all_here.set()

    async def produce() -> None:
        await all_here.wait()
        crc = job.option == "crc"
        if spec.producers == "one":
            await _to_all(spec, writers, crc=crc)
        else:
            of = (_to_one(spec, writers, n, crc=crc) for n in range(spec.streams))
            await asyncio.gather(*of)

    producing = asyncio.ensure_future(produce())
    try:
        await _listen(Serving, ready, spec, job)
    finally:
        producing.cancel()


async def _to_all(spec: Many, writers: list[Writer], *, crc: bool) -> None:
    start = time.monotonic() + 0.2
    of = [range(i, spec.streams, spec.connections) for i in range(len(writers))]
    for number in range(int(spec.seconds * spec.rate)):
        due = start + number / spec.rate
        await asyncio.sleep(due - time.monotonic())
        for writer, streams in zip(writers, of, strict=True):
            body = due_body(due, spec.size)
            frames = [_frame(stream, number, body, crc=crc) for stream in streams]
            writer.transport.write(b"".join(frames))


async def _to_one(spec: Many, writers: list[Writer], stream: int, *, crc: bool) -> None:
    writer = writers[stream % spec.connections]
    start = time.monotonic() + 0.2 + stream / spec.streams / spec.rate
    for number in range(int(spec.seconds * spec.rate)):
        due = start + number / spec.rate
        await asyncio.sleep(due - time.monotonic())
        body = due_body(due, spec.size)
        writer.transport.write(_frame(stream, number, body, crc=crc))


def _frame(stream: int, number: int, body: bytes, *, crc: bool) -> bytes:
    checksum = crc32c(body) if crc else 0
    return HEADER.pack(len(body), 1, 0, 0, stream, number, checksum) + body


@peer.client(Many)
async def many(spec: Many, job: Job) -> Measured:
    """Take the events of all streams."""
    loop = asyncio.get_running_loop()
    latencies = Latencies()
    next_of = [0] * spec.streams
    events = int(spec.seconds * spec.rate)

    async def consume(connection: Events, count: int) -> None:
        async for stream, number, body in connection:
            latencies.take(body)
            check(number == next_of[stream], f"stream {stream} lost its place")
            next_of[stream] += 1
            count -= 1
            if not count:
                return

    connections = []
    for _ in range(spec.connections):
        made = await loop.create_connection(Events, "127.0.0.1", job.server.port)
        connections.append(made[1])
    per = spec.streams // spec.connections * events
    with job.clock:
        await asyncio.gather(*(consume(c, per) for c in connections))
    check(next_of == [events] * spec.streams, "events are missing")
    for connection in connections:
        connection.transport.close()
    return Measured(
        units=events * spec.streams,
        checked="number and order on every stream",
        latency=latencies.summary(),
    )


# One log, many subscribers


@peer.server(Fanout)
async def serve_fanout(spec: Fanout, job: Job, ready: Ready) -> None:
    """Send what comes on one connection to all others."""
    subscribers: set[Events] = set()

    class Serving(Events):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            subscribers.add(self)

        def buffer_updated(self, nbytes: int) -> None:
            subscribers.discard(self)  # it is who publishes
            super().buffer_updated(nbytes)
            taken, self.taken = self.taken, []
            if taken:
                frames = [_frame(0, n, body, crc=crc) for _, n, body in taken]
                data = b"".join(frames)
                for subscriber in subscribers:
                    subscriber.transport.write(data)

    crc = job.option == "crc"
    await _listen(Serving, ready, spec, job)


@peer.client(Fanout)
async def fanout(spec: Fanout, job: Job) -> Measured:
    """Publish on one connection; take what comes on the others."""
    loop = asyncio.get_running_loop()
    latencies, events = Latencies(), int(spec.seconds * spec.rate)
    crc = job.option == "crc"

    async def consume(connection: Events) -> None:
        expected = 0
        async for _, number, body in connection:
            latencies.take(body)
            check(number == expected, f"event {expected} is missing")
            expected += 1
            if expected == events:
                return

    async def produce(transport: asyncio.Transport) -> None:
        start = time.monotonic() + 0.2
        for number in range(events):
            due = start + number / spec.rate
            await asyncio.sleep(due - time.monotonic())
            transport.write(_frame(0, number, due_body(due, spec.size), crc=crc))

    connections = []
    for _ in range(1 + spec.subscribers):
        made = await loop.create_connection(Events, "127.0.0.1", job.server.port)
        connections.append(made[1])
    publisher, *subscribers = connections
    with job.clock:
        await asyncio.gather(
            produce(publisher.transport), *(consume(each) for each in subscribers)
        )
    for connection in connections:
        connection.transport.close()
    return Measured(
        units=events * spec.subscribers,
        checked="number and order at every subscriber",
        latency=latencies.summary(),
    )


async def _listen(
    protocol: Callable[[], asyncio.BaseProtocol],
    ready: Ready,
    spec: Spec,
    job: Job,
    path: Path | None = None,
) -> None:
    """Serve; `path` is where what comes is stored, for its check."""
    loop = asyncio.get_running_loop()
    extra = {} if path is None else {"path": str(path)}
    context = None
    if getattr(spec, "tls", False):
        pem, ca = make_certificate(job.folder)
        context, extra["ca"] = server_context(pem), str(ca)
    server = await loop.create_server(
        protocol, "127.0.0.1", 0, backlog=4096, ssl=context
    )
    port = server.sockets[0].getsockname()[1]
    await ready(Address(port=port, extra=extra))
    async with server:
        await server.serve_forever()
