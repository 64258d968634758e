"""Fetching over several connections."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    Client,
    ClientOptions,
    Progress,
    Refused,
    StreamFailed,
    UsageError,
    connect,
)
from ackline.proto.checksums import crc32c
from tests.client.processes import ROOT, command, running_server
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from tests.client.processes import ServerProcess

MIB = 2**20
CHUNK = 65_536
DATA = os.urandom(3 * MIB + 12_345)
SLOW = LinkOptions(to_client=Way(bandwidth=8e6), socket_buffer=65_536)


@pytest.mark.parametrize("algorithm", ["crc32c", "sha256"])
@pytest.mark.parametrize(("parallel", "size"), [(4, len(DATA)), (16, 100_000), (3, 0)])
async def test_the_parts_are_the_object(
    server: ServerProcess, tmp_path: Path, name: str, parallel: int, size: int,
    algorithm: str,
) -> None:  # fmt: skip
    data = DATA[:size]
    target = tmp_path / "copy"
    seen: list[Progress] = []
    async with (
        Link(target_port=server.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        await client.upload(data, name, algorithm=algorithm, metadata={"n": 1})
        result = await client.fetch(
            name, target, parallel=parallel, chunk_size=CHUNK, on_progress=seen.append
        )
        parts = -(-size // CHUNK)
        assert link.counters.connections == max(1, min(parallel, parts))
    assert target.read_bytes() == data
    assert (result.size, result.crc) == (size, crc32c(data))
    if algorithm == "sha256":
        assert result.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert result.metadata == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    if size:
        assert seen[-1].done == seen[-1].total == size


@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (1000, None), (70_000, 1_000_000), (5, 10**9)]
)
async def test_ranges_and_memory_are_fetched_in_parts_too(
    client: Client, name: str, start: int, length: int | None
) -> None:
    await client.upload(DATA, name)
    result = await client.fetch(
        name, start=start, length=length, parallel=3, chunk_size=CHUNK
    )
    part = DATA[start:] if length is None else DATA[start : start + length]
    assert result.data == part
    assert result.object_size == len(DATA)
    assert result.digest == f"crc32c:{crc32c(part):08x}"


async def stopped(client: Client, name: str, target: Path, parallel: int) -> None:
    """Begin a fetch and stop when a third of it is there."""
    there = asyncio.Event()

    def look(progress: Progress) -> None:
        if progress.done >= MIB:
            there.set()

    task = asyncio.create_task(
        client.fetch(
            name, target, parallel=parallel, chunk_size=CHUNK, on_progress=look
        )
    )
    await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 1), (1, 4), (2, 5)])
async def test_what_is_there_of_each_part_is_not_fetched_again(
    server: ServerProcess, tmp_path: Path, name: str, before: int, after: int
) -> None:
    target = tmp_path / "copy"
    async with Link(target_port=server.port, options=SLOW) as link:
        url = f"ackline://127.0.0.1:{link.port}"
        async with connect(url) as client:
            await client.upload(DATA, name)
            await stopped(client, name, target, before)
            assert not target.exists()
            moved = link.counters.bytes_to_client
            seen: list[Progress] = []
            result = await client.fetch(
                name,
                target,
                parallel=after,
                chunk_size=CHUNK,
                on_progress=seen.append,
            )
            moved = link.counters.bytes_to_client - moved
    assert target.read_bytes() == DATA
    assert seen[0].began >= MIB
    assert moved < len(DATA) - seen[0].began + MIB / 2
    assert result.resumes >= 1


async def test_a_part_is_continued_inside_the_chunk_that_was_cut(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "copy"
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        await client.upload(DATA, name)
        fetch = asyncio.create_task(
            client.fetch(name, target, parallel=2, chunk_size=2 * MIB)
        )
        async with asyncio.timeout(50):
            while link.counters.bytes_to_client < 2 * MIB:
                await asyncio.sleep(0.01)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        before = link.counters.bytes_to_client
        await client.fetch(name, target, parallel=2, chunk_size=2 * MIB)
        assert link.counters.bytes_to_client - before < len(DATA) - MIB
    assert target.read_bytes() == DATA


async def test_parts_that_are_something_else_are_fetched_again(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "copy"
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        await client.upload(DATA, name)
        await stopped(client, name, target, 4)
    with (tmp_path / "copy.part").open("r+b") as file:
        file.seek(10)
        file.write(b"something else")
    async with connect(server.url) as client:
        await client.fetch(name, target, parallel=4, chunk_size=CHUNK)
    assert target.read_bytes() == DATA


async def test_an_object_that_was_replaced_meanwhile_is_fetched_from_its_beginning(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    target, other = tmp_path / "copy", os.urandom(MIB)
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        await client.upload(DATA, name)
        await stopped(client, name, target, 4)
    async with connect(server.url) as client:
        await client.upload(other, name, existing="replace")
        await client.fetch(name, target, parallel=4, chunk_size=CHUNK)
    assert target.read_bytes() == other


async def test_an_object_deleted_between_two_parts_fails_the_fetch(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "copy"
    there = asyncio.Event()
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        connect(server.url) as direct,
    ):
        await direct.upload(DATA, name)
        task = asyncio.create_task(
            client.fetch(
                name,
                target,
                parallel=2,
                chunk_size=CHUNK,
                on_progress=lambda _: there.set(),
            )
        )
        await there.wait()
        await direct.delete(f"objects/{name}")
        with pytest.raises(Refused, match="was deleted or replaced"):
            await task
    assert not target.exists()


async def test_lost_connections_are_resumed_each_for_itself(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "copy"
    dies = LinkOptions(
        to_client=Way(bandwidth=2e7, cut_every=300_000), socket_buffer=65_536
    )
    async with connect(server.url) as direct:
        await direct.upload(DATA, name)
    async with Link(target_port=server.port, options=dies) as link:
        url = f"ackline://127.0.0.1:{link.port}"
        async with connect(url, options=ClientOptions(heartbeat=1.0)) as client:
            await client.fetch(name, target, parallel=3, chunk_size=CHUNK)
    assert target.read_bytes() == DATA


async def test_connections_that_are_refused_are_done_without(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path / "data", arguments=("--max-connections=2",)) as server,
        connect(server.url) as client,
    ):
        await client.upload(DATA, "a")
        await client.fetch("a", tmp_path / "copy", parallel=8, chunk_size=CHUNK)
    assert (tmp_path / "copy").read_bytes() == DATA


async def test_wrong_bytes_are_never_made_visible(
    server: ServerProcess, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.client.parallel.combine", lambda *_: 1)
    async with connect(server.url) as client:
        await client.upload(DATA, name)
        with pytest.raises(StreamFailed, match="digest_mismatch"):
            await client.fetch(name, tmp_path / "copy", parallel=2, chunk_size=CHUNK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parallel", [0, 17, -1])
async def test_how_many_are_possible_is_told(
    client: Client, tmp_path: Path, parallel: int
) -> None:
    with pytest.raises(UsageError, match="1 to 16"):
        await client.fetch("x", tmp_path / "x", parallel=parallel)


async def test_a_pipe_cannot_be_written_in_parts(client: Client) -> None:
    with pytest.raises(UsageError, match="in order"):
        await client.fetch("x", io.BytesIO(), parallel=2)


FETCH = """\
import asyncio, sys
from ackline.client import connect

async def main(url, name, target):
    async with connect(url) as client:
        await client.fetch(name, target, parallel=3, chunk_size=65_536)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_was_killed_is_continued_by_the_command(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    slow = LinkOptions(to_client=Way(bandwidth=1e6), socket_buffer=65_536)
    target, state = tmp_path / "copy", tmp_path / "state"
    async with connect(server.url) as direct:
        await direct.upload(DATA, name)
    async with Link(target_port=server.port, options=slow) as link:
        # The command takes the server for the same if it has the same address.
        url = f"ackline://127.0.0.1:{link.port}"
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FETCH, url, name, str(target),
            cwd=ROOT, env={**os.environ, "XDG_STATE_HOME": str(state)},
        )  # fmt: skip
        async with asyncio.timeout(50):
            while written(state) < CHUNK:
                await asyncio.sleep(0.02)
        running.kill()
        await running.wait()
        kept = written(state)
        moved = link.counters.bytes_to_client
        done = await command(
            f"--server={url}",
            "fetch",
            name,
            str(target),
            "--parallel=8",
            folder=tmp_path,
        )
        moved = link.counters.bytes_to_client - moved
    assert done.code == 0, done.errors
    assert target.read_bytes() == DATA
    assert moved < len(DATA) - kept + MIB / 4
    wrong = await command("fetch", "--parallel=3", name, "-", folder=tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert "no --parallel" in wrong.errors


def written(state: Path) -> int:
    """Return how many bytes a process has noted to be written."""
    for file in (state / "ackline" / "fetches").glob("*.json"):
        noted = json.loads(file.read_bytes()).get("written", "")
        return sum(int(each) for each in noted.split())
    return 0
