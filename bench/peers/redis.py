"""Redis Streams, through the asyncio client with its parser in C."""

from __future__ import annotations

from importlib.metadata import version
from itertools import islice

from redis.asyncio import Redis

from bench.data import bodies, cycle
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.programs import free_port, running, version_of
from bench.specs import Publish, Subscribe

peer = Peer(
    title=f"Redis {version_of('redis-server', '-v', before='v=', after=' ')} Streams",
    settings=(
        f"redis-py {version('redis')} for asyncio with hiredis {version('hiredis')}."
        " Subscribe: the events are stored before; XREAD with COUNT 1000 from the first"
        " to the last. Publish: XADD in pipelines of 1000 without transactions; a fifth"
        " of the events, as it takes long; Redis's default durability: memory, with"
        " snapshots at intervals."
    ),
    programs={"redis-server": "redis-server"},
)

BATCH = 1_000
PART = 5
STREAM = "events"
FILL = """
for number = 1, #ARGV do
    redis.call('XADD', KEYS[1], '*', 'body', ARGV[number])
end
"""


@peer.server(Subscribe, Publish)
async def serve(spec: Subscribe | Publish, job: Job, ready: Ready) -> None:
    """Run Redis; the events to read are there already."""
    port = free_port()
    command = ("redis-server", "--bind", "127.0.0.1", "--port", str(port))
    async with running(*command, port=port, folder=job.folder) as redis:
        if isinstance(spec, Subscribe):
            events = cycle(spec.size, spec.events)
            async with Redis(port=port) as client:
                while batch := list(islice(events, BATCH)):
                    await client.eval(FILL, 1, STREAM, *batch)
        await ready(Address(port=port, pids=[redis.pid]))
        await redis.wait()


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Read the stream."""
    async with Redis(port=job.server.port, protocol=2) as client:
        with job.clock:
            await _read(client, spec.size, spec.events)
    return Measured(
        units=spec.events, checked="bytes and order of every event, and their count"
    )


@peer.client(Publish)
async def publish(spec: Publish, job: Job) -> Measured:
    """Add the records; each pipeline waits for its replies."""
    count = spec.events // PART
    bodies_left = cycle(spec.size, count)
    async with Redis(port=job.server.port, protocol=2) as client:
        with job.clock:
            while batch := list(islice(bodies_left, BATCH)):
                pipeline = client.pipeline(transaction=False)
                for body in batch:
                    pipeline.xadd(STREAM, {"body": body})
                await pipeline.execute()
        await _read(client, spec.size, count)
    return Measured(units=count, checked="every record, read again from the stream")


async def _read(client: Redis, size: int, events: int) -> None:
    expected, count, last = bodies(size), 0, b"0"
    while count < events:
        entries = (await client.xread({STREAM: last}, count=BATCH))[0][1]
        for _, fields in entries:
            if fields[b"body"] != expected[count % 1000]:
                check(False, f"event {count} is missing or another")
            count += 1
        last = entries[-1][0]
    check(await client.xlen(STREAM) == events, "the stream has more")
