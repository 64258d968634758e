"""SIGKILL of server, client and link at any moment of publishing and subscribing."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.processes import lines, run_client, running, send, start_client
from tests.link import Link

if TYPE_CHECKING:
    from pathlib import Path


def written(output: Path) -> list[dict[str, Any]]:
    """Return the whole lines of an output file."""
    return lines(output.read_bytes()) if output.exists() else []


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_run_is_seen_once_and_in_order_whatever_is_killed(
    tmp_path: Path, seed: int
) -> None:
    """The client stores its position with its output; the work starts once."""
    chance = random.Random(seed)
    output = tmp_path / "out.jsonl"
    notes = tmp_path / "notes"
    notes.mkdir()
    arguments = (
        "subscribe",
        "sources/count",
        "--key=one",
        "--param=events=600",
        "--param=pause=0.005",
        f"--param=notes={notes}",
        f"--output={output}",
    )
    kills = 0
    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port) as link,
    ):
        for _ in range(60):
            client = await start_client(link.port, tmp_path / "state", *arguments)
            waiting = asyncio.ensure_future(client.communicate())
            while kills < 12 and not await settle(waiting, chance):
                kills += 1
                if kills == 4:
                    (notes / "end").touch()
                if chance.random() < 0.5:
                    send(client, signal.SIGKILL)
                    break
                await link.cut()
            _out, errors = await waiting
            if client.returncode == 0:
                break
            # Killed, or started while the server was down: as a user, try again.
            assert client.returncode in (-9, 4), errors.decode()
    found = [line for line in written(output) if "id" in line]
    assert [line["id"] for line in found] == list(range(600))
    assert [line["data"] for line in found] == [f"event {n}" for n in range(600)]
    assert kills >= 4
    assert len(list(notes.glob("started.*"))) == 1
    assert len(list(notes.glob("finished.*"))) == 1


async def test_a_log_is_read_once_though_the_server_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    source = tmp_path / "lines.txt"
    source.write_text("".join(f"line {n}\n" for n in range(5000)))
    chance = random.Random(3)
    async with running(tmp_path / "data") as server:
        await run_client(server.port, tmp_path / "s", "publish", "app", str(source))
        client = await start_client(
            server.port,
            tmp_path / "state",
            "subscribe",
            "logs/app",
            "--from=first",
            f"--output={output}",
        )
        async with asyncio.timeout(50):
            while not written(output):
                await asyncio.sleep(0.02)
        for part in range(3):
            await asyncio.sleep(chance.uniform(0.2, 0.5))
            await server.kill()
            await server.start()
            more = tmp_path / f"more{part}.txt"
            more.write_text("".join(f"more {part} {n}\n" for n in range(1000)))
            await run_client(server.port, tmp_path / "s", "publish", "app", str(more))
        async with asyncio.timeout(50):
            while len(written(output)) < 8000:
                await asyncio.sleep(0.1)
        send(client, signal.SIGKILL)
        await client.communicate()
    found = written(output)
    assert [line["id"] for line in found] == list(range(8000))
    expected = [f"line {n}" for n in range(5000)]
    expected += [f"more {part} {n}" for part in range(3) for n in range(1000)]
    assert [line["data"] for line in found] == expected


async def test_a_run_in_memory_ends_as_failed_when_its_server_dies(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "data") as server:
        client = await start_client(
            server.port,
            tmp_path / "state",
            "subscribe",
            "sources/count",
            "--param=events=100000",
            "--param=pause=0.01",
        )
        assert client.stdout is not None
        for _ in range(10):
            await client.stdout.readline()
        await server.kill()
        await server.start()
        out, errors = await client.communicate()
        last = json.loads(out.splitlines()[-1])
        assert client.returncode == 1, errors.decode()
        assert last["outcome"] == "failed"
        assert last["code"] == "producer_lost"


async def test_a_durable_run_is_whole_up_to_where_its_server_died(
    tmp_path: Path,
) -> None:
    """What was delivered is there again, and the end after the last synced event."""
    async with running(tmp_path / "data") as server:
        client = await start_client(
            server.port,
            tmp_path / "state",
            "subscribe",
            "sources/kept",
            "--key=one",
            "--param=events=100000",
            "--param=pause=0.001",
        )
        assert client.stdout is not None
        seen = [await client.stdout.readline() for _ in range(50)]
        await server.kill()
        await server.start()
        out, errors = await client.communicate()
        assert client.returncode == 1, errors.decode()
        found = lines(b"".join(seen) + out)
        assert found[-1]["outcome"] == "failed"
        assert found[-1]["code"] == "producer_lost"
        assert found[-1]["position"] == len(found) - 1
        await server.kill()
        await server.start()
        again = await run_client(
            server.port,
            tmp_path / "state",
            "subscribe",
            "sources/kept",
            "--key=one",
            "--param=events=100000",
            "--param=pause=0.001",
            code=1,
        )
        assert again[:-1] == found[:-1]
        assert [line["id"] for line in found[:-1]] == list(range(len(found) - 1))


@pytest.mark.parametrize("source", ["steps", "kept-steps"])
async def test_a_run_that_can_be_computed_goes_on_whatever_is_killed(
    tmp_path: Path, source: str
) -> None:
    """Each of two viewers gets every event once, through three deaths of the server."""
    notes = tmp_path / "notes"
    notes.mkdir()
    chance = random.Random(5)
    async with running(tmp_path / "data") as server:
        viewers = [
            await start_client(
                server.port,
                tmp_path / f"state{number}",
                "subscribe",
                f"sources/{source}",
                "--key=one",
                "--param=events=600",
                "--param=pause=0.003",
                f"--param=notes={notes}",
            )
            for number in range(2)
        ]
        firsts = []
        for viewer in viewers:
            assert viewer.stdout is not None
            firsts.append(await viewer.stdout.readline())
        waiting = [asyncio.ensure_future(viewer.communicate()) for viewer in viewers]
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.3, 0.5))
            await server.kill()
            await server.start()
        (notes / "end").touch()
        for viewer, first, ending in zip(viewers, firsts, waiting, strict=True):
            out, errors = await ending
            assert viewer.returncode == 0, (errors + out[-2000:]).decode()
            found = lines(first + out)
            assert found[-1]["outcome"] == "completed"
            assert [line["id"] for line in found[:-1]] == list(range(600))
            assert [line["data"] for line in found[:-1]] == [
                f"event {n}" for n in range(600)
            ]
    begun = {path.name.partition(".")[0] for path in notes.glob("from-*")}
    assert "from-0" in begun
    assert len(begun) > 1, "it was computed from its first event on every time"


async def settle(waiting: asyncio.Future[Any], chance: random.Random) -> bool:
    """Wait a moment; return whether the client ended by itself."""
    await asyncio.wait([waiting], timeout=chance.uniform(0.25, 0.6))
    return waiting.done()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_published_file_is_in_the_log_once_whatever_is_killed(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    count = 120_000
    source = tmp_path / "lines.txt"
    source.write_text("".join(f"line {n} {'x' * 80}\n" for n in range(count)))
    kills = 0
    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port) as link,
    ):
        for _ in range(60):
            client = await start_client(
                link.port, tmp_path / "state", "publish", "app", str(source)
            )
            waiting = asyncio.ensure_future(client.communicate())
            while kills < 8 and not await settle(waiting, chance):
                kills += 1
                match chance.choice(["client", "link", "server"]):
                    case "client":
                        send(client, signal.SIGKILL)
                        break
                    case "link":
                        await link.cut()
                    case _:
                        await server.kill()
                        await server.start()
            _out, errors = await waiting
            if client.returncode == 0:
                break
            # Killed, or started while the server was down: as a user, try again.
            assert client.returncode in (-9, 4), errors.decode()
        output = tmp_path / "out.jsonl"
        reader = await start_client(
            server.port,
            tmp_path / "s2",
            "subscribe",
            "logs/app",
            "--from=first",
            f"--output={output}",
        )
        async with asyncio.timeout(40):
            while not output.exists() or _lines_in(output) < count:
                await asyncio.sleep(0.2)
        await asyncio.sleep(0.3)
        send(reader, signal.SIGKILL)
        await reader.communicate()
    found = written(output)
    assert len(found) == count
    for number, line in enumerate(found):
        assert line["id"] == number
        assert line["data"].startswith(f"line {number} ")


def _lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n")
