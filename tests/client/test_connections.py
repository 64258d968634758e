from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    Client,
    ClientOptions,
    Code,
    ConnectionLost,
    ConnectionPhase,
    ConnectionState,
    Refused,
    StreamFailed,
    TakenOver,
    UsageError,
    connect,
)
from tests.client.processes import running_server
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.processes import ServerProcess


async def test_nobody_there_is_told_at_once() -> None:
    with pytest.raises(ConnectionLost, match="cannot connect"):
        async with connect("ackline://127.0.0.1:1"):
            pass


async def test_something_else_there_is_told() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    async with other:
        with pytest.raises(ConnectionLost, match="is not an Ackline server"):
            async with connect(f"ackline://127.0.0.1:{port}"):
                pass


async def test_silence_is_no_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    async with other:
        with pytest.raises(ConnectionLost, match="did not answer"):
            async with connect(
                f"ackline://127.0.0.1:{port}",
                options=ClientOptions(connect_timeout=0.2),
            ):
                pass


async def test_a_server_that_comes_later_is_waited_for_if_wanted(
    server: ServerProcess,
) -> None:
    async with Link(target_port=server.port) as link:
        link.down()
        asyncio.get_running_loop().call_later(0.3, link.up)
        async with connect(
            f"ackline://127.0.0.1:{link.port}",
            options=ClientOptions(wait_for_server=True, give_up_after=10),
        ) as client:
            assert client.connected
            assert await client.ping() < 1.0


async def test_the_callers_exception_is_not_wrapped(server: ServerProcess) -> None:
    with pytest.raises(LookupError):
        async with connect(server.url):
            raise LookupError


async def test_a_second_connection_with_the_session_takes_it_over(
    server: ServerProcess,
) -> None:
    states: list[ConnectionState] = []
    async with (
        connect(server.url, on_state=states.append) as first,
        connect(server.url) as thief,
    ):
        async with first.subscribe("sources/endless") as run:
            # As a copy of the process would do after being thawed.
            thief._supervisor.session.session = first._supervisor.session.session
            pump = thief._supervisor._pump
            assert pump is not None
            pump.abort()
            with pytest.raises(TakenOver):
                async for _ in run:
                    pass
        frames: set[int] = set()
        for _ in range(3):
            with pytest.raises(TakenOver) as raised:
                await first.ping()
            frames.add(len(raised.traceback))
        assert len(frames) == 1  # the traceback does not grow with each
    assert states[-1].phase is ConnectionPhase.CLOSED


async def test_a_draining_server_is_left_and_found_again(
    tmp_path: Path, name: str
) -> None:
    async with (
        running_server(tmp_path / "data") as old,
        Link(target_port=old.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        client.publish(name) as publisher,
    ):
        for number in range(100):
            await publisher.send(str(number))
        async with running_server(tmp_path / "other") as _unused:
            pass
        old.process.send_signal(signal.SIGTERM)
        await old.process.wait()
        async with running_server(tmp_path / "data") as new:
            link.target_port = new.port
            for number in range(100, 200):
                await publisher.send(str(number))
            await publisher.flush()
            assert publisher.acknowledged == 200
            await publisher.finish()


async def test_one_flipped_bit_costs_a_connection_and_nothing_else(
    server: ServerProcess, name: str
) -> None:
    data = bytes(500_000)
    options = LinkOptions(to_server=Way(flip_at=(200_000,)))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        result = await client.upload(data, name, chunk_size=65_536)
        assert link.counters.flips == 1
        assert result.resumes == 1
        assert (await client.fetch(name)).data == data


async def test_a_unit_that_breaks_every_connection_fails_its_stream_only(
    server: ServerProcess, name: str
) -> None:
    """SPEC.md §20: no endless loop."""
    options = LinkOptions(to_server=Way(flip_at=(2_000,), flip_every=True))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(
            f"ackline://127.0.0.1:{link.port}",
            options=ClientOptions(backoff_first=0.01),
        ) as client,
    ):
        with pytest.raises(StreamFailed) as raised:
            await client.upload(bytes(500_000), name, chunk_size=65_536)
        assert raised.value.outcome.code in (Code.BAD_CRC, Code.BAD_FRAME)
        assert link.counters.flips <= 5
        assert await client.ping() < 1


async def test_requests_wait_for_the_next_connection(
    server: ServerProcess, name: str
) -> None:
    async with (
        Link(target_port=server.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        await client.upload(b"x", name)
        link.down()
        await link.cut()
        listing = asyncio.create_task(_resources(client, f"objects/{name}"))
        await asyncio.sleep(0.1)
        link.up()
        assert await listing == [f"objects/{name}"]


async def test_the_resources_of_a_server_are_listed_described_and_deleted(
    server: ServerProcess, name: str
) -> None:
    async with connect(server.url) as client:
        for number in range(5):
            await client.upload(b"x" * number, f"{name}/{number}")
        found = [entry async for entry in client.list(f"objects/{name}")]
        assert [entry.size for entry in found] == [0, 1, 2, 3, 4]
        report = await client.status(f"objects/{name}/3")
        assert report.target == f"objects/{name}/3"
        await client.delete(f"objects/{name}/3")
        assert len(await _resources(client, f"objects/{name}")) == 4
        with pytest.raises(Refused) as raised:
            await client.delete(f"objects/{name}/3")
        assert raised.value.code == Code.NOT_FOUND
        with pytest.raises(UsageError):
            await client.status("nothing")
        await client.configure(name, retention_seconds=60.0)
        assert await _resources(client, f"logs/{name}") == [f"logs/{name}"]


async def test_a_closed_client_says_so(server: ServerProcess, name: str) -> None:
    async with connect(server.url) as client:
        pass
    with pytest.raises(ConnectionLost, match="closed"):
        await client.upload(b"x", name)
    with pytest.raises(ConnectionLost, match="closed"):
        await client.ping()


async def _resources(client: Client, prefix: str) -> list[str]:
    return [entry.resource async for entry in client.list(prefix)]
