"""SIGKILL of server, client and link at any moment of an upload."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.processes import (
    ServerProcess,
    lines,
    run_client,
    running,
    send,
    start_client,
)
from tests.link import CutMode, Link, LinkOptions, Way

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20


async def fetched(server: ServerProcess, tmp_path: Path, name: str) -> bytes:
    """Fetch an object and return its bytes."""
    target = tmp_path / "fetched.bin"
    await run_client(server.port, tmp_path / "state", "fetch", name, str(target))
    data = target.read_bytes()
    target.unlink()
    return data


async def stored(server: ServerProcess) -> float:
    """Return how many chunks were acknowledged as stored."""
    metrics = await server.metrics()
    return metrics['ackline_ack_latency_seconds_count{use="upload"}']


async def duplicates(server: ServerProcess) -> float:
    metrics = await server.metrics()
    return metrics['ackline_duplicates_total{use="upload"}']


@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", [1, 2])
async def test_the_object_is_whole_whatever_is_killed(
    tmp_path: Path, seed: int
) -> None:
    """Many kills; no acknowledged chunk is sent again; nothing temporary is left."""
    chance = random.Random(seed)
    data = os.urandom(MIB) * 64
    file = tmp_path / "file.bin"
    file.write_bytes(data)
    resent = 0.0
    kills = {"server": 0, "client": 0, "link": 0}
    slow = LinkOptions(to_server=Way(bandwidth=30 * MIB), socket_buffer=2**17)
    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port, options=slow) as link,
    ):
        for _ in range(40):
            client = await start_client(
                link.port, tmp_path / "state", "upload", str(file), "x"
            )
            waiting = asyncio.ensure_future(client.communicate())
            while not waiting.done() and sum(kills.values()) < 8:
                await asyncio.wait([waiting], timeout=chance.uniform(0.3, 0.9))
                victim = chance.choice(["server", "client", "link"])
                if waiting.done():
                    break
                kills[victim] += 1
                if victim == "client":
                    send(client, signal.SIGKILL)
                    break
                if victim == "link":
                    await link.cut()
                else:
                    resent += await duplicates(server)
                    await server.kill()
                    await server.start()
            out, errors = await waiting
            if client.returncode == 0:
                break
            # Killed, or started while the server was down: as a user, try again.
            assert client.returncode in (-9, 4), errors.decode()
        else:
            pytest.fail("it never completes")
        result = lines(out)[-1]
        resent += await duplicates(server)
        assert result["chunks_resent"] == 0
        assert resent == 0
        assert sum(kills.values()) >= 3
        assert await fetched(server, tmp_path, "x") == data
        assert len(server.stored_files()) == 1


async def test_a_chunk_completes_over_a_link_that_dies_every_3_mb(
    tmp_path: Path,
) -> None:
    data = os.urandom(4 * MIB) * 4
    file = tmp_path / "file.bin"
    file.write_bytes(data)
    options = LinkOptions(to_server=Way(cut_every=3_000_000), cut_mode=CutMode.RESET)
    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port, options=options) as link,
    ):
        result = (
            await run_client(link.port, tmp_path / "s", "upload", str(file), "x")
        )[-1]
        assert result["resumes"] >= 5
        assert result["chunks_resent"] == 0
        assert await fetched(server, tmp_path, "x") == data


@pytest.mark.parametrize(
    "size", [0, 1, 4096, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 262_144 + 1]
)
async def test_sizes_around_every_edge_arrive(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    file = tmp_path / "file.bin"
    file.write_bytes(data)
    async with running(tmp_path / "data") as server:
        result = (
            await run_client(server.port, tmp_path / "s", "upload", str(file), "x")
        )[-1]
        assert result["size"] == size
        assert await fetched(server, tmp_path, "x") == data


async def test_a_file_that_shrinks_is_reported_and_nothing_is_committed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(MIB) * 64)
    slow = LinkOptions(to_server=Way(bandwidth=40 * MIB), socket_buffer=2**17)
    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port, options=slow) as link,
    ):
        client = await start_client(
            link.port, tmp_path / "state", "upload", str(file), "x"
        )
        while not server.stored_files():
            await asyncio.sleep(0.01)
        os.truncate(file, 60 * MIB)
        _out, errors = await client.communicate()
        assert client.returncode == 1
        assert "changed" in errors.decode()
        listed = await run_client(server.port, tmp_path / "s", "list", "objects/")
        assert listed == []
        assert server.stored_files() == []


async def test_10000_tiny_chunks_make_one_object(tmp_path: Path) -> None:
    data = os.urandom(10_000 * 1024)
    file = tmp_path / "file.bin"
    file.write_bytes(data)
    async with running(tmp_path / "data") as server:
        result = (
            await run_client(
                server.port,
                tmp_path / "s",
                "upload",
                "--chunk-size=1024",
                str(file),
                "x",
            )
        )[-1]
        assert result["chunks_sent"] == 10_000
        assert await fetched(server, tmp_path, "x") == data


async def test_ctrl_c_says_how_to_continue_and_running_again_continues(
    tmp_path: Path,
) -> None:
    import signal  # noqa: PLC0415

    data = os.urandom(MIB) * 64
    file = tmp_path / "file.bin"
    file.write_bytes(data)
    slow = LinkOptions(to_server=Way(bandwidth=30 * MIB), socket_buffer=2**17)
    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port, options=slow) as link,
    ):
        client = await start_client(
            link.port, tmp_path / "state", "upload", str(file), "x"
        )
        while await stored(server) < 1:
            await asyncio.sleep(0.05)
        client.send_signal(signal.SIGINT)
        _out, errors = await client.communicate()
        assert client.returncode == -signal.SIGINT
        assert "ackline" in errors.decode()
        again = (
            await run_client(link.port, tmp_path / "state", "upload", str(file), "x")
        )[-1]
        assert 0 < again["chunks_sent"] < 16
        assert await duplicates(server) == 0
        assert await fetched(server, tmp_path, "x") == data
