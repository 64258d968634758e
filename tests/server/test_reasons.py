"""STATUS answers why something is not moving, whatever the reason (SPEC.md §19)."""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ackline.proto.frames import FrameType
from ackline.proto.messages import Status, StatusReport
from ackline.server import CommittedObject, Server
from ackline.server.stores import storage
from tests.server.peer import LIMITS, Peer, Work
from tests.server.stores.support import FaultyFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start

CHUNK = 65_536
DATA = bytes(8 * CHUNK)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> FaultyFiles:
    """Return the file system of all servers of a test."""
    files = FaultyFiles()
    monkeypatch.setattr(storage, "Files", lambda: files)
    return files


def session_of(peer: Peer) -> str:
    assert peer.session.session is not None
    return f"sessions/{peer.session.session.session_id}"


async def status(peer: Peer, target: str) -> StatusReport:
    report = await peer.request(FrameType.STATUS, Status(target))
    assert isinstance(report, StatusReport), report
    return report


async def waits(peer: Peer, target: str, *words: str, about: str = "") -> str:
    """Return the sentence once these, in order, are the reasons, and it is about that.

    On a busy machine a run waits for whom it will, for a moment.
    """
    async with asyncio.timeout(50):
        while True:
            report = await status(peer, target)
            why = str(report.facts.get("why", ""))
            if report.reasons == words and about in why:
                return why
            await asyncio.sleep(0.01)


async def stream_waits(peer: Peer, work: Work, text: str) -> None:
    """Wait until the session says so of a stream."""
    fact = f"stream {work.stream.id}"
    async with asyncio.timeout(50):
        while True:
            said = (await status(peer, session_of(peer))).facts.get(fact, "")
            if text in str(said):
                return
            await asyncio.sleep(0.01)


async def lines(count: int = 2000) -> AsyncGenerator[bytes]:
    for number in range(count):
        yield b"%d" % number + bytes(1000)
    await asyncio.Event().wait()


def with_lines() -> Server:
    server = Server()
    server.source("lines")(lines)
    return server


async def test_the_window_of_a_fetch(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA).ended()
        work = peer.fetch("a", take=False)
        await stream_waits(peer, work, "takes no more for now: its window is full")
        await stream_waits(peer, work, "with 1 chunk it has not taken")


async def test_the_window_of_a_subscription(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [bytes(1000)] * 1000).ended()
        work = peer.subscribe("logs/log", take=False, window=10_000)
        await stream_waits(peer, work, "its window is full, with 261 events it has")
        work.go_on()
        await work.events(1000)
        await stream_waits(peer, work, "its client has all there is")


async def test_the_window_of_the_whole_connection(start: Start) -> None:
    small = replace(LIMITS, window_units=4)
    async with (
        start() as serving,
        Peer(serving.port) as peer,
        Peer(serving.port, limits=small) as deaf,
    ):
        await peer.publish("log", [b"x"]).ended()
        work = deaf.subscribe("logs/log")
        await work.events(1)
        assert deaf.pump._transport is not None
        deaf.pump._transport.pause_reading()
        await peer.publish("log", [b"x"] * 10).ended()
        fact, text = f"stream {work.stream.id}", "whole connection is used up"
        async with asyncio.timeout(50):
            while text not in str(
                (await status(peer, session_of(deaf))).facts.get(fact)
            ):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("use", ["upload", "publish"])
async def test_a_disk_that_is_full(start: Start, files: FaultyFiles, use: str) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"x"]).ended()
        if use == "upload":
            files.can_allocate = False
            work = peer.upload("a", DATA, size=None)
            await work.opened()
            files.fail["pwritev"] = errno.ENOSPC
            again = peer.upload("b", DATA, size=None)
            await stream_waits(peer, again, "the disk takes nothing for now: ")
            why = await waits(peer, again.stream.resource, "disk")
            assert "the disk takes nothing for now" in why
        else:
            files.fail["pwritev"] = errno.ENOSPC
            work = peer.publish("log", [b"y"], key="p")
            await stream_waits(peer, work, "the disk takes nothing for now: ")
        files.fail.clear()
        await work.ended()


@pytest.mark.parametrize("use", ["upload", "publish"])
async def test_a_disk_that_is_slow(start: Start, files: FaultyFiles, use: str) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"x"]).ended()
        gate = files.gates["fdatasync"] = threading.Event()
        if use == "upload":
            work = peer.upload("a", DATA)
            await work.opened()
            await waits(peer, work.stream.resource, "disk")
        else:
            work = peer.publish("log", [b"y"], key="p")
            why = await waits(peer, "logs/log", "disk")
            assert why == "1 events are being written to the disk"
        await stream_waits(peer, work, "is being written to the disk, the oldest")
        gate.set()
        await work.ended()


async def test_memory_for_windows(start: Start, files: FaultyFiles) -> None:
    async with (
        start(receive_budget=CHUNK, max_chunk_size=CHUNK, window_bytes=CHUNK) as it,
        Peer(it.port) as peer,
    ):
        gate = files.gates["fdatasync"] = threading.Event()
        first = peer.upload("a", DATA)
        await first.opened()
        await waits(peer, first.stream.resource, "disk")
        second = peer.upload("b", DATA)
        await second.opened()
        why = await waits(peer, second.stream.resource, "memory")
        assert "receive_budget, 65,536 bytes" in why
        gate.set()
        for work in (first, second):
            await work.ended()


async def test_whoever_paused(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False, key="k")
        await up.stored(5)
        target = up.stream.resource
        assert await waits(peer, target, "nothing_to_send") == (
            "its client has sent nothing more"
        )
        up.stream.pause(paused=True)
        assert await waits(peer, target, "paused_by_client") == (
            "its client has paused it"
        )
        await peer.drop()
        async with Peer(serving.port) as other:
            why = await waits(other, target, "disconnected", "paused_by_client")
            assert why.startswith("its client has not been connected for 0 s; its")
            session = await waits(other, session_of(peer), "disconnected")
            assert "in 3600 s it is forgotten" in session


async def test_an_upload_that_nobody_has_open(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False, key="k")
        await up.stored(8)
        target = up.stream.resource
        up.release()
        why = await waits(peer, target, "disconnected")
        assert why == "no client has it open: upload it again to go on"


async def test_the_slowest_consumer_of_a_run(start: Start) -> None:
    server = with_lines()
    async with (
        start(server, run_buffer_events=500) as serving,
        Peer(serving.port) as peer,
        Peer(serving.port) as slow,
    ):
        work = peer.subscribe("sources/lines", key="k")
        await work.events(10)
        stuck = slow.subscribe(work.stream.resource, take=False, window=10_000)
        await stuck.opened()
        name = f"stream {stuck.stream.id} of {session_of(slow)} from 127.0.0.1"
        why = await waits(peer, work.stream.resource, "consumer", about=name)
        assert why.startswith(f"its slowest consumer, {name}")
        assert why.endswith("is 500 events behind")
        # The other one waits for that too.
        await stream_waits(peer, work, "its slowest consumer")
        await slow.drop()
        why = await waits(peer, work.stream.resource, "consumer", about="not connected")
        assert why.endswith("and not connected")


async def test_a_source_that_makes_nothing(start: Start) -> None:
    server = Server()

    @server.source("quiet")
    async def quiet() -> AsyncGenerator[bytes]:
        yield b"one"
        await asyncio.Event().wait()

    async with start(server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/quiet")
        await work.events(1)
        target = work.stream.resource
        why = await waits(peer, target, "producer")
        assert why == "its source has not made event 1 yet"
        await stream_waits(peer, work, why)
        await peer.drop()
        async with Peer(serving.port) as other:
            why = await waits(other, target, "disconnected")
            assert why == "nobody is connected that consumes it"


async def test_a_sink(start: Start) -> None:
    server = Server()

    @server.sink("*", name="thumbs")
    def thumbs(_: CommittedObject) -> None:
        raise ValueError("no picture")

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        async with asyncio.timeout(50):
            while True:
                why = await waits(peer, "objects/a", "sink")
                if "no picture" in why:
                    break
                await asyncio.sleep(0.01)
        assert why.startswith(
            "sink thumbs has not taken it: call failed, last with ValueError: no"
        )
        assert "; it is called again in " in why
