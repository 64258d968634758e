"""Data folders of servers that work, and are killed: copies and what is left of them.

`ackline-server check` must find nothing damaged in either, whatever was on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from ackline.client import ClientOptions, connect
from ackline.proto.errors import AcklineError
from tests.client.processes import ROOT, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SMALL = ("--log-segment-bytes=64K", "--cleanup-interval=0.1")


async def administer(*words: object) -> str:
    """Run a command of the server that must find everything well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ackline.server", *map(str, words)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"nothing is damaged" in out
    return out.decode()


async def upload(url: str) -> None:
    """Upload, and replace, until there is no server."""
    async with connect(url, options=ClientOptions(give_up_after=2.0)) as client:
        for number in range(1_000_000):
            data = os.urandom((10, 100_000, 500_000)[number % 3])
            name = f"objects/{number % 5}"
            await client.upload(data, name, existing="replace", chunk_size=65_536)


async def publish(url: str) -> None:
    """Publish to a log that keeps little, until there is no server."""
    async with connect(url, options=ClientOptions(give_up_after=2.0)) as client:
        await client.configure("log", retention_bytes=200_000)
        async with client.publish("log", key="p") as publisher:
            while True:
                for _ in range(50):
                    await publisher.send(os.urandom(1000))
                await publisher.flush()


@contextlib.asynccontextmanager
async def busy(url: str) -> AsyncIterator[None]:
    """Keep a server busy, however it ends."""
    tasks = [asyncio.create_task(work(url)) for work in (upload, upload, publish)]
    try:
        yield
    finally:
        for task in tasks:
            with contextlib.suppress(AcklineError):
                await task


async def until_stored(url: str) -> None:
    async with connect(url) as client:
        async with asyncio.timeout(50):
            while True:
                objects = [entry async for entry in client.list("objects/")]
                if len(objects) > 2:
                    report = await client.status("logs/log")
                    if int(report.facts["next"] or 0) > 200:
                        return
                await asyncio.sleep(0.02)


async def test_copies_and_what_a_killed_server_leaves_are_sound(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with running_server(data, arguments=SMALL) as server, busy(server.url):
        await until_stored(server.url)
        await administer("backup", copy, "--data-dir", data)
        await server.kill()
    await administer("check", "--data-dir", data)
    async with running_server(data) as server, connect(server.url) as client:
        assert len([entry async for entry in client.list("objects/")]) > 2
    await administer("check", "--data-dir", data)
    async with running_server(copy) as server, connect(server.url) as client:
        async for entry in client.list("objects/"):
            result = await client.fetch(entry.resource.removeprefix("objects/"))
            assert len(result.data or b"") == entry.size
        await client.seal("log")
        async with client.subscribe("logs/log") as events:
            count = sum([len(batch) async for batch in events.batches()])
        assert count > 100
    await administer("check", "--data-dir", copy)
