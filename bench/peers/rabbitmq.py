"""RabbitMQ Streams, through its plugin's own protocol."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rstream import (
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    Producer,
)

from bench.data import bodies, cycle
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.programs import free_port, running
from bench.specs import Publish, Subscribe

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rstream import ConfirmationStatus


def _version() -> str:
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return found[-1].name.partition("-")[2] if found else ""


SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"

peer = Peer(
    title=f"RabbitMQ {_version()} Streams",
    settings=(
        f"rstream {version('rstream')}; bodies are stored as they are, without AMQP's"
        " encoding. Subscribe: the events are stored before; a callback for each; 100"
        " chunks may be on their way. Publish: send_batch with 1000 records, at most 20"
        " batches unconfirmed; default durability: in the page cache."
    ),
    programs={SCRIPT: "rabbitmq-server", "epmd": "erlang-base"},
)

BATCH = 1_000
UNCONFIRMED = 20 * BATCH
CREDIT = 100
FIRST = ConsumerOffsetSpecification(OffsetType.FIRST, None)
NAME = "events"
GUEST = {"username": "guest", "password": "guest"}
CONFIG = """
listeners.tcp = none
stream.listeners.tcp.1 = 127.0.0.1:{port}
stream.advertised_host = 127.0.0.1
stream.advertised_port = {port}
log.file = false
log.console = true
log.console.level = error
"""


@peer.server(Subscribe, Publish)
async def serve(spec: Subscribe | Publish, job: Job, ready: Ready) -> None:
    """Run a broker with the plugin; the events to read are there already."""
    port, names, folder = free_port(), free_port(), job.folder
    (folder / "plugins").write_text("[rabbitmq_stream].")
    (folder / "rabbitmq.conf").write_text(CONFIG.format(port=port))
    environment = {
        "HOME": str(folder),  # for the cookie
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "flags"),
    }
    # Its register of names would outlive it if it started one itself.
    register = running("epmd", port=names, folder=folder, environment=environment)
    broker = running(SCRIPT, port=port, folder=folder, environment=environment)
    async with register, broker as process:
        await _create(port)
        if isinstance(spec, Subscribe):
            await _publish(port, spec.size, spec.events, nullcontext())
        await ready(Address(port=port, pids=[process.pid]))
        await process.wait()


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events in a callback."""
    await _read(job.server.port, spec.size, spec.events, job.clock)
    return Measured(units=spec.events, checked="offset and bytes of every event")


@peer.client(Publish)
async def publish(spec: Publish, job: Job) -> Measured:
    """Publish the records; wait until all are confirmed."""
    await _publish(job.server.port, spec.size, spec.events, job.clock)
    await _read(job.server.port, spec.size, spec.events, nullcontext())
    return Measured(units=spec.events, checked="every record, read again")


async def _create(port: int) -> None:
    async with Producer("127.0.0.1", port, **GUEST) as made:
        await made.create_stream(NAME)


async def _publish(
    port: int, size: int, events: int, clock: AbstractContextManager[object]
) -> None:
    confirmed = 0
    more = asyncio.Event()

    def confirm(status: ConfirmationStatus) -> None:
        nonlocal confirmed
        check(status.is_confirmed, "a record was refused")
        confirmed += 1
        more.set()

    records, sent = cycle(size, events), 0
    async with Producer("127.0.0.1", port, **GUEST) as made:
        with clock:
            while batch := list(islice(records, BATCH)):
                await made.send_batch(NAME, batch, on_publish_confirm=confirm)
                sent += len(batch)
                while confirmed < (events if sent == events else sent - UNCONFIRMED):
                    more.clear()
                    await more.wait()


async def _read(
    port: int, size: int, events: int, clock: AbstractContextManager[object]
) -> None:
    expected, count = bodies(size), 0
    over = asyncio.Event()

    def take(body: bytes, context: MessageContext) -> None:
        nonlocal count
        if body != expected[count % 1000] or context.offset != count:
            over.set()
        count += 1
        if count == events:
            over.set()

    async with Consumer("127.0.0.1", port, **GUEST) as made:
        with clock:
            await made.subscribe(
                NAME,
                take,
                decoder=bytes,
                offset_specification=ConsumerOffsetSpecification(
                    OffsetType.FIRST, None
                ),
                initial_credit=CREDIT,
            )
            await over.wait()
    check(count == events, f"event {count} is missing or another")
