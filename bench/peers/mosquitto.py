"""Mosquitto, through an MQTT 5 client."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gmqtt import Client
from gmqtt.storage import PersistentStorage

from bench.data import bodies, cycle
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.programs import free_port, running, version_of
from bench.specs import Publish, Subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

peer = Peer(
    title=(
        "Mosquitto"
        f" {version_of('mosquitto', '-h', before='version ', after=chr(10))} MQTT 5"
    ),
    settings=(
        f"gmqtt {version('gmqtt')} (aiomqtt makes a task for each"
        " message). A fifth of the events, as they take long. Subscribe: it stores"
        " nothing, so a producer on the server's processor sends packets that it has"
        " encoded before, QoS 0, while a callback takes them; nothing is dropped: no"
        " limit of queued messages. Publish: QoS 1, at most 1000 on their way; default"
        " durability: in memory."
    ),
    programs={"mosquitto": "mosquitto"},
)

PART = 5
PENDING = 1_000
TOPIC = "events"
CONFIG = """
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 0
max_inflight_messages 0
log_type error
"""


@peer.server(Subscribe, Publish)
async def serve(spec: Subscribe | Publish, job: Job, ready: Ready) -> None:
    """Run the broker; send the events when somebody says that he is there."""
    port, config = free_port(), job.folder / "mosquitto.conf"
    config.write_text(CONFIG.format(port=port))
    command = ("mosquitto", "-c", str(config))
    async with running(*command, port=port, folder=job.folder) as broker:
        started = asyncio.Event()
        client = await _connected(port, "producer", lambda _: started.set())
        client.subscribe("start")
        packets = b""
        if isinstance(spec, Subscribe):
            events = cycle(spec.size, spec.events // PART)
            packets = b"".join(map(_packet, events))
        await ready(Address(port=port, pids=[broker.pid]))
        await started.wait()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03raw")
        writer.write(packets)
        await broker.wait()


def _packet(body: bytes) -> bytes:
    """Return a PUBLISH with QoS 0 and no properties; its length is below 16384."""
    topic = TOPIC.encode()
    rest = len(topic).to_bytes(2, "big") + topic + b"\0" + body
    length = bytes((len(rest) % 128 | 0x80, len(rest) // 128))
    return b"\x30" + length + rest


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events in a callback."""
    expected, count, events = bodies(spec.size), 0, spec.events // PART
    over = asyncio.Event()

    def take(body: bytes) -> None:
        nonlocal count
        if body != expected[count % 1000]:
            over.set()
        count += 1
        if count == events:
            over.set()

    client = await _connected(job.server.port, "consumer", take)
    client.subscribe(TOPIC)
    await asyncio.sleep(0.2)
    with job.clock:
        client.publish("start", b"")
        await over.wait()
    check(count == events, f"event {count} is missing or another")
    await client.disconnect()
    return Measured(units=count, checked="bytes and order of every event")


@peer.client(Publish)
async def publish(spec: Publish, job: Job) -> Measured:
    """Publish the records; wait until all are acknowledged."""
    count, pending = spec.events // PART, Pending()
    client = await _connected(job.server.port, "publisher", _nothing, pending)
    with job.clock:
        for number, body in enumerate(cycle(spec.size, count)):
            client.publish(TOPIC, body, qos=1)
            if number % (PENDING // 2) == 0:
                await pending.at_most(PENDING // 2)
        await pending.at_most(0)
    check(pending.acknowledged == count, "not all are acknowledged")
    await client.disconnect()
    return Measured(units=count, checked="the number of acknowledgements")


class Pending(PersistentStorage):  # type: ignore[misc]
    """Knows what is not acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self._published = self.acknowledged = 0
        self._fewer = asyncio.Event()

    def push_message(self, mid: int, raw_package: bytes) -> None:
        super().push_message(mid, raw_package)
        self._published += 1

    def remove_message_by_mid(self, mid: int) -> None:
        super().remove_message_by_mid(mid)
        self.acknowledged += 1
        self._fewer.set()

    async def at_most(self, count: int) -> None:
        """Return when no more are not acknowledged."""
        while self._published - self.acknowledged > count:
            self._fewer.clear()
            await self._fewer.wait()


async def _connected(
    port: int,
    name: str,
    take: Callable[[bytes], None],
    pending: Pending | None = None,
) -> Client:
    def on_message(_client: Client, _topic: str, body: bytes, *_: Any) -> int:
        take(body)
        return 0

    client = Client(name, persistent_storage=pending)
    client.on_message = on_message
    await client.connect("127.0.0.1", port)
    return client


def _nothing(_: bytes) -> None:
    """Take no message."""
