"""Cancelling, slow consumers and sizes, through the client library."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ackline.client
from ackline.client import Client, Event
from ackline.proto.errors import StreamCancelled, StreamFailed
from tests.acceptance.processes import run_client, running, start_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ackline.proto.values import Value

MIB = 2**20


async def appears(folder: Path, pattern: str, *, within: float) -> bool:
    """Wait for a file to appear."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while loop.time() < end:
        if list(folder.glob(pattern)):
            return True
        await asyncio.sleep(0.01)
    return False


async def drain(client: Client, resource: str, got: list[str]) -> None:
    """Read a subscription to its end; what came before a failure stays in `got`."""
    async with client.subscribe(resource) as subscription:
        async for event in subscription:
            assert isinstance(event, Event)
            got.append(event.text)


async def test_cancelling_the_work_runs_its_finally(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
    ):
        parameters: dict[str, Value] = {
            "events": 10_000,
            "pause": 0.005,
            "notes": str(tmp_path),
        }
        async with client.subscribe("sources/count", params=parameters) as subscription:
            seen = 0
            async for event in subscription:
                seen = event.id
                if seen == 20:
                    break
            outcome = await subscription.cancel(work=True)
        assert await appears(tmp_path, "finished.*", within=1.0)
        assert outcome.outcome.name == "CANCELLED"
        assert outcome.position >= seen
        assert subscription.resource.startswith("runs/")
        with pytest.raises(StreamCancelled) as info:
            await drain(client, subscription.resource, [])
        assert info.value.outcome.outcome.name == "CANCELLED"


async def test_a_closed_socket_cancels_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server:
        client = await start_client(
            server.port,
            tmp_path / "state",
            "subscribe",
            "sources/count",
            "--key=k",
            "--param=events=1000",
            "--param=pause=0.005",
            f"--param=notes={tmp_path}",
        )
        assert client.stdout is not None
        await client.stdout.readline()
        client.kill()
        await client.communicate()
        await asyncio.sleep(1.0)
        assert not list(tmp_path.glob("finished.*"))


async def test_cancelling_an_upload_deletes_what_was_stored(tmp_path: Path) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield os.urandom(256 * 1024)
            await asyncio.sleep(0.01)

    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
    ):
        task = asyncio.ensure_future(
            client.upload(trickle(), "x", chunk_size=512 * 1024, key="k")
        )
        while not server.stored_files():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        uploads = [entry.resource async for entry in client.list("uploads/")]
        assert len(uploads) == 1
        outcome = await client.cancel(uploads[0])
        with pytest.raises(StreamCancelled) as info:
            await asyncio.wait_for(task, 2)
        assert info.value.outcome.position == outcome.position
        assert server.stored_files() == []


async def test_every_end_and_kind_arrives(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
    ):
        async with client.subscribe("sources/nothing") as nothing:
            assert [event async for event in nothing] == []
        async with client.subscribe("sources/kinds") as kinds:
            found = [event async for event in kinds]
        assert found == [
            Event(0, "", b"plain"),
            Event(1, "token", b"first"),
            Event(2, "usage", b"last"),
        ]
        async with client.subscribe("sources/largest") as largest:
            assert [e async for e in largest] == [Event(0, "", b"x" * 262_136)]
        got: list[str] = []
        with pytest.raises(StreamFailed, match="out of memory"):
            await drain(client, "sources/broken", got)
        assert got == ["one", "two"]


async def test_a_consumer_that_stops_reading_costs_no_memory_and_no_speed(
    tmp_path: Path,
) -> None:
    """Both processes stay bounded; a neighbour on the connection keeps moving."""
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(MIB) * 256)
    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
        client.subscribe("sources/flood") as flood,
    ):
        stalled = aiter(flood)
        await anext(stalled)
        await asyncio.sleep(1.0)
        before = server.memory()
        result = await client.upload(file, "x")
        assert result.size == 256 * MIB
        await asyncio.sleep(1.0)
        assert server.memory() - before < 64 * MIB
        assert server.memory() < 256 * MIB
        await flood.cancel(work=True)


async def test_2000_streams_on_one_connection_all_end(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
    ):

        async def follow() -> int:
            async with client.subscribe(
                "sources/count", params={"events": 3}
            ) as subscription:
                return len([event async for event in subscription])

        counts = await asyncio.gather(*(follow() for _ in range(2000)))
        assert counts == [3] * 2000


async def test_2000_uploads_share_a_connection_with_the_smallest_windows(
    tmp_path: Path,
) -> None:
    async with (
        running(
            tmp_path / "data",
            "--max-chunk-size=1024",
            "--window-bytes=1024",
            "--window-units=1",
            "--initial-bytes=1024",
            "--initial-units=1",
        ) as server,
        ackline.client.connect(server.url) as client,
    ):
        body = os.urandom(2500)
        results = await asyncio.gather(
            *(client.upload(body, f"x{n}", chunk_size=1024) for n in range(2000))
        )
        assert {result.size for result in results} == {2500}
        assert len(server.stored_files()) == 2000


async def test_tokens_arrive_in_order_while_a_file_goes_up(tmp_path: Path) -> None:
    """How late they are is measured by `make demo`."""
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(MIB) * 128)
    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
        client.subscribe("sources/ticks", params={"events": 100}) as ticks,
    ):
        upload = asyncio.ensure_future(client.upload(file, "x"))
        seen = [event.id async for event in ticks]
        assert seen == list(range(100))
        assert (await upload).size == 128 * MIB


async def test_unknown_names_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server:
        for arguments in (
            ("fetch", "nothing", str(tmp_path / "x")),
            ("subscribe", "sources/unknown"),
            ("subscribe", "runs/unknown"),
            ("status", "uploads/unknown"),
        ):
            await run_client(server.port, tmp_path / "state", *arguments, code=3)


async def test_a_late_question_gets_the_same_outcome(tmp_path: Path) -> None:
    """Cancel racing completion: one outcome, and it stays."""
    async with (
        running(tmp_path / "data") as server,
        ackline.client.connect(server.url) as client,
    ):
        for pause in (0.0, 0.002, 0.01):
            subscription = client.subscribe(
                "sources/count", params={"events": 3, "pause": pause}
            )
            async with subscription:
                await anext(aiter(subscription))
                outcome = await subscription.cancel(work=True)
            status = await client.status(subscription.resource)
            assert status.state == outcome.outcome.name
            later = client.subscribe(subscription.resource)
            with contextlib.suppress(StreamCancelled):
                async with later:
                    assert len([event async for event in later]) >= outcome.position
            assert later.outcome is not None
            assert later.outcome.outcome is outcome.outcome
            assert later.outcome.code == outcome.code
