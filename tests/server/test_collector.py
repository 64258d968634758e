"""Garbage: what streams leave behind, and how the rest is collected."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from ackline.client import Refused, connect
from ackline.proto.frames import FrameType
from ackline.proto.messages import Configure
from ackline.server import Server
from ackline.server.collector import STEPS, Collector
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from ackline.server import Emitter
    from tests.server.conftest import Start

ON_THE_WAY = 300
"""Objects of a kind that may be there by chance: one hundred streams have fewer."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Only references free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def of_server() -> Counter[str]:
    """Count the server's objects, and the tasks and generators that it may leave."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(
        kind.__qualname__
        for kind in kinds
        # Of some extension types it is a descriptor.
        if str(kind.__module__).startswith("ackline.server")
        or kind.__name__
        in ("EventBuffer", "EventSender", "Task", "async_generator", "ServerConnection")
    )


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("resource", "streams"),
    [
        ("logs/x", 10_000),
        ("sources/idle", 2_000),
        ("sources/failing", 2_000),
        ("sources/durable", 600),
    ],
)
async def test_streams_that_were_let_go_leave_nothing_to_collect(
    start: Start,
    resource: str,
    streams: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "ackline.server.histories.MOST", 100
    )  # they are kept on purpose
    caplog.set_level(logging.CRITICAL, "ackline.server.run")  # it keeps tracebacks
    server = Server()

    @server.source("durable", durable=True)
    async def durable() -> AsyncGenerator[bytes]:
        yield b"event"

    @server.source("idle")
    async def idle() -> AsyncGenerator[bytes]:
        await asyncio.Event().wait()
        yield b""

    @server.source("failing")
    def failing(_emitter: Emitter) -> None:
        raise RuntimeError("as it has to")

    async with (
        start(server, run_retention=0.01, cleanup_interval=0.2) as serving,
        Peer(serving.port) as peer,
    ):
        await peer.request(FrameType.CONFIGURE, Configure("logs/x", {}))
        for _ in range(streams // 100):
            works = [peer.subscribe(resource) for _ in range(100)]
            for work in works:
                await work.opened()
                if resource != "logs/x":
                    work.cancel(work=True)
                    await work.ended()
                work.release()
            peer.notices.clear()
        async with asyncio.timeout(50):  # what is being written down is on its way
            while any(n > ON_THE_WAY for n in of_server().values()):
                await asyncio.sleep(0.1)


@pytest.fixture(params=["disk", "memory"])
def in_memory(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """A folder in memory, where chunks are written as they come; None on the disk."""
    if request.param == "disk":
        yield None
    elif not Path("/dev/shm").is_dir():
        pytest.skip("there is no file system in memory")
    else:
        with TemporaryDirectory(dir="/dev/shm") as folder:
            yield Path(folder, "data")


@pytest.mark.usefixtures("uncollected")
async def test_transfers_and_connections_leave_nothing_to_collect(
    start: Start, monkeypatch: pytest.MonkeyPatch, in_memory: Path | None
) -> None:
    monkeypatch.setattr("ackline.server.histories.MOST", 10)
    monkeypatch.setattr("ackline.server.lately.KEPT", 10)
    chosen: dict[str, Any] = {"session_ttl": 0.01, "cleanup_interval": 0.2}
    if in_memory:
        chosen["data_dir"] = in_memory
    async with start(**chosen) as serving:
        url = f"ackline://127.0.0.1:{serving.port}"
        for _ in range(4):
            async with connect(url) as client:
                for _ in range(25):
                    await client.upload(b"x" * 5000, "object", existing="replace")
                    assert (await client.fetch("object")).data == b"x" * 5000
                    with pytest.raises(Refused, match="not_found"):
                        await client.fetch("missing")
                    with pytest.raises(Refused, match="already_exists"):
                        await client.upload(b"y", "object")
        for _ in range(100):
            async with Peer(serving.port):
                pass  # a client that says HELLO
            _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.close()  # one that says nothing
        async with asyncio.timeout(20):
            while any(n > 50 for n in of_server().values()):
                await asyncio.sleep(0.1)


class Loop:
    """Something that only a collection frees, once it is let go."""

    def __init__(self) -> None:
        self.itself = self


def loops() -> int:
    gc.unfreeze()
    return sum(type(each) is Loop for each in gc.get_objects())


def test_what_lives_through_a_full_collection_is_frozen_until_the_end() -> None:
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    with Collector().running():
        before = gc.get_freeze_count()
        kept = [[number] for number in range(20_000)]
        assert gc.get_freeze_count() - before > 10_000
        assert gc.get_threshold() != thresholds
        del kept
    assert gc.get_freeze_count() == 0
    assert (gc.get_threshold(), gc.callbacks) == (thresholds, callbacks)


async def test_frozen_cycles_are_collected_while_no_client_is_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ackline.server.collector.LOOK_SECONDS", 0.01)
    collector, connections = Collector(), 1
    with collector.running():
        looking = asyncio.create_task(collector.look_after(lambda: connections))
        made = [Loop() for _ in range(100)]
        gc.collect()  # freezes them
        made.clear()
        await asyncio.sleep(0.1)
        gc.collect()
        frozen = gc.get_freeze_count()
        connections = 0
        await asyncio.sleep(0.1)
        assert gc.get_freeze_count() <= frozen - 100
        looking.cancel()
    assert loops() == 0


async def test_frozen_cycles_are_collected_once_what_is_frozen_has_doubled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ackline.server.collector.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("ackline.server.collector.ENOUGH", 2)
    collector = Collector()
    with collector.running():
        looking = asyncio.create_task(collector.look_after(lambda: 1))
        base = gc.get_freeze_count()
        made = [Loop() for _ in range(base // 2)]
        for _ in range(STEPS):
            gc.collect()
        made.clear()
        await asyncio.sleep(0.1)
        assert gc.get_freeze_count() > base + base // 3  # not yet
        made = [Loop() for _ in range(base)]
        for _ in range(STEPS):
            gc.collect()
        made.clear()
        await asyncio.sleep(0.1)
        assert gc.get_freeze_count() < base + base // 3
        looking.cancel()
