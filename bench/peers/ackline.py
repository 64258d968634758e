"""Ackline itself: its own command as the server, its own client."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from typing import TYPE_CHECKING

from ackline.client import Client, Event, connect
from bench.certificates import client_context, make_certificate
from bench.data import bodies, crc_of, cycle
from bench.latency import Latencies
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.peers.ackline_folder import folder
from bench.peers.ackline_idle import idle, start
from bench.peers.ackline_resume import resume
from bench.peers.ackline_streams import fanout, many
from bench.slow_link import SLOW_RATE, received
from bench.specs import (
    Fanout,
    Fetch,
    Folder,
    Idle,
    Many,
    Mixed,
    Publish,
    Resume,
    Spec,
    Start,
    Subscribe,
    Upload,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ackline.client import UploadResult

peer = Peer(
    title="Ackline",
    settings=(
        "`ackline-server` and `ackline.client` as they come; durability as the workload"
        " says, `synced` where it says nothing. Metrics are on."
    ),
    tls=True,
)

peer.client(Folder)(folder)
peer.client(Many)(many)
peer.client(Fanout)(fanout)
peer.client(Resume)(resume)
peer.client(Idle)(idle)
peer.client(Start)(start)

_ADDRESS = re.compile(r"acklines?://[^\s:]+:(\d+)")
TOKEN_SIZE = 64
WARM_UP = 4 << 20


@peer.server(
    Upload, Fetch, Folder, Subscribe, Publish, Many, Fanout, Mixed, Idle, Resume, Start
)
async def serve(spec: Spec, job: Job, ready: Ready) -> None:
    """Run `ackline-server`."""
    durability = getattr(spec, "durability", "synced")
    extra: dict[str, str] = {}
    arguments: list[str] = []
    if getattr(spec, "tls", False):
        pem, ca = make_certificate(job.folder)
        arguments.append(f"--tls-cert={pem}")
        extra["ca"] = str(ca)
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ackline.server",
        "--app=bench.app:server",
        f"--listen={job.server.host}:0",
        "--allow-anonymous=*",
        "--metrics=127.0.0.1:0",
        f"--data-dir={job.folder / 'data'}",
        f"--durability={durability}",
        "--log-level=warning",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        async for line in server.stdout:
            if found := _ADDRESS.search(line.decode()):
                port = int(found[1])
                await ready(Address(port=port, pids=[server.pid], extra=extra))
        await server.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Upload the file."""
    async with connect(_url(job), tls=client_context(job)) as client:
        with job.clock:
            result = await _upload(spec, job, client)
    _check_upload(result, job)
    return Measured(
        units=spec.size,
        checked=f"{result.digest.partition(':')[0]}, by the server before the commit",
    )


@peer.client(Fetch)
async def fetch(spec: Fetch, job: Job) -> Measured:
    """Upload the file, then fetch it."""
    path = job.folder / "fetched"
    async with connect(_url(job)) as client:
        await client.upload(job.source, "object", state=False)
        with job.clock:
            result = await client.fetch(
                "object", path, chunk_size=spec.chunk_size, state=False
            )
    check(result.crc == job.crc == crc_of(path), "the fetched file differs")
    return Measured(units=spec.size, checked="CRC-32C, by the client at the end")


@peer.client(Subscribe)
async def subscribe(spec: Subscribe, job: Job) -> Measured:
    """Take the events of a generator one by one."""
    expected, count = bodies(spec.size), 0
    params = {"count": spec.events, "size": spec.size}
    async with connect(_url(job), tls=client_context(job)) as client:
        with job.clock:
            async with client.subscribe("sources/events", params=params) as stream:
                async for event in stream:
                    assert isinstance(event, Event)
                    if event.id != count or event.data != expected[count % 1000]:
                        break
                    count += 1
    check(count == spec.events, f"event {count} is missing or another")
    return Measured(units=count, checked="id and bytes of every event, and the end")


@peer.client(Publish)
async def publish(spec: Publish, job: Job) -> Measured:
    """Publish the records, and wait until all are stored."""
    async with connect(_url(job)) as client:
        with job.clock:
            async with client.publish("log") as publisher:
                for body in cycle(spec.size, spec.events):
                    await publisher.send(body)
        check(publisher.acknowledged >= spec.events, "records are not acknowledged")
        expected, count = bodies(spec.size), 0
        async with client.subscribe("logs/log", start="first") as stored:
            async for event in stored:
                assert isinstance(event, Event)
                check(event.data == expected[count % 1000], f"record {count} differs")
                count += 1
                if count == spec.events:
                    break
    return Measured(units=count, checked="every record, read again from the log")


@peer.client(Mixed)
async def mixed(spec: Mixed, job: Job) -> Measured:
    """Transfer a file, with tokens beside it on the same connection."""
    latencies = Latencies()
    async with connect(_url(job)) as client:
        if spec.bulk == "fetch":
            await client.upload(job.source, "object", state=False)
        watching = asyncio.ensure_future(_watch(client, spec, latencies))
        await asyncio.sleep(0.5)
        extra: dict[str, float] = {}
        if spec.link == "slow":
            extra["cold_p99_ms"] = await _warm_up(client, spec, latencies)
        with job.clock:
            latencies.restart()
            began, before = time.perf_counter(), received()
            await _bulk(spec, job, client)
            taken = time.perf_counter() - began
            carried = received() - before or spec.size
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    extra["tokens"] = len(latencies.seconds) / taken
    if spec.link == "slow":
        extra["link_use"] = carried / taken / SLOW_RATE
    return Measured(
        units=0 if spec.bulk == "none" else spec.size,
        checked="the digest; id and order of the tokens",
        latency=latencies.summary() if spec.tokens else None,
        extra=extra,
    )


def _url(job: Job) -> str:
    scheme = "acklines" if "ca" in job.server.extra else "ackline"
    return f"{scheme}://{job.server.host}:{job.server.port}"


def _upload(
    spec: Upload, job: Job, client: Client
) -> Coroutine[None, None, UploadResult]:
    return client.upload(
        job.source,
        "object",
        chunk_size=spec.chunk_size,
        algorithm=spec.digest,
        durability=spec.durability,
        state=False,
    )


def _check_upload(result: UploadResult, job: Job) -> None:
    check(result.crc == job.crc, "the server stored another file")
    check(result.chunks_repeated == 0, "chunks were sent twice")


async def _bulk(spec: Mixed, job: Job, client: Client) -> None:
    if spec.bulk == "upload":
        _check_upload(await client.upload(job.source, "object", state=False), job)
    elif spec.bulk == "fetch":
        fetched = await client.fetch("object", job.folder / "fetched", state=False)
        check(fetched.crc == job.crc, "another file was fetched")
    else:
        await asyncio.sleep(3.0)


async def _warm_up(client: Client, spec: Mixed, latencies: Latencies) -> float:
    """Fetch until TCP knows the link; return p99 of the tokens meanwhile, in ms."""
    latencies.restart()
    await client.fetch("object", length=min(WARM_UP, spec.size), state=False)
    return latencies.summary().p99


async def _watch(client: Client, spec: Mixed, latencies: Latencies) -> None:
    if not spec.tokens:
        return
    params = {"rate": spec.rate, "size": TOKEN_SIZE, "seconds": 600.0}
    count = 0
    async with client.subscribe("sources/tokens", params=params) as stream:
        async for event in stream:
            assert isinstance(event, Event)
            check(event.id == count, f"token {count} is missing")
            latencies.take(event.data)
            count += 1
