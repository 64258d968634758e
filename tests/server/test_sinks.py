"""Sinks: called with every committed object, at least once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ackline.proto.frames import FrameType
from ackline.proto.messages import Delete, Status, StatusReport
from ackline.server import CommittedObject, Server, deliveries, tasks
from ackline.server.deliveries import LONGEST_RETRY, retry_delay
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.conftest import Start

DATA = os.urandom(100_000)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call sinks again soon."""
    monkeypatch.setattr(deliveries, "FIRST_RETRY", 0.05)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.sleep(0.005)


async def wait_for(seen: list[str], count: int) -> None:
    await until(lambda: len(seen) >= count)


async def status(peer: Peer, target: str) -> StatusReport:
    report = await peer.request(FrameType.STATUS, Status(target))
    assert isinstance(report, StatusReport)
    return report


async def taken(peer: Peer, target: str) -> None:
    """Wait until no sink is to take an object."""
    async with asyncio.timeout(50):
        while (await status(peer, target)).reasons:
            await asyncio.sleep(0.005)


async def test_a_sink_gets_the_objects_of_its_names(start: Start) -> None:
    server = Server()
    seen: list[str] = []

    @server.sink("videos/*")
    async def take(video: CommittedObject) -> None:
        assert await video.read() == DATA
        assert await video.read(10, 20) == DATA[10:30]
        assert video.path is not None
        assert video.path.read_bytes() == DATA
        assert video.digest == hashlib.sha256(DATA).digest()
        assert video.metadata == {"by": "me"}
        assert video.attempt == 1
        seen.append(video.name)

    @server.sink("*")
    def blocking(thing: CommittedObject) -> None:
        seen.append(f"sync {thing.name} {thing.size} {thing.version}")

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload(
            "videos/a", DATA, algorithm="sha256", parameters={"by": "me"}
        ).ended()
        await wait_for(seen, 2)
        assert sorted(seen) == ["sync videos/a 100000 1", "videos/a"]
        await peer.upload("other", b"x").ended()
        await wait_for(seen, 3)
        assert seen[2] == "sync other 1 1"


async def test_a_sink_that_raises_is_called_again(start: Start) -> None:
    server = Server()
    attempts: list[int] = []

    @server.sink("*", name="index")
    async def take(thing: CommittedObject) -> None:
        attempts.append(thing.attempt)
        if len(attempts) == 1:
            raise RuntimeError("not yet")

    before = time.time()
    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        async with asyncio.timeout(50):
            while not (report := await status(peer, "objects/a")).facts["sink_error"]:
                await asyncio.sleep(0.005)
        assert report.reasons == ("sink",)
        assert report.facts["sinks"] == "index"
        assert report.facts["sink_attempts"] == 1
        assert report.facts["sink_error"] == "RuntimeError: not yet"
        next_try = report.facts["sink_next_try"]
        assert isinstance(next_try, float)
        assert before + 0.5 <= next_try <= time.time() + 1
        await until(lambda: len(attempts) == 2)
        assert time.time() >= next_try
        await taken(peer, "objects/a")
        assert "sink_error" not in (await status(peer, "objects/a")).facts
    assert attempts == [1, 2]


def test_the_backoff_doubles_up_to_its_bound_and_is_spread() -> None:
    for attempt, longest in ((1, 1.0), (4, 8.0), (20, LONGEST_RETRY), (10**6, 300.0)):
        delays = {retry_delay(attempt) for _ in range(50)}
        assert len(delays) > 40
        assert all(longest / 2 <= delay <= longest for delay in delays)


@pytest.mark.usefixtures("soon")
async def test_one_that_always_raises_keeps_nothing_from_others(start: Start) -> None:
    server = Server()
    seen: list[str] = []

    @server.sink("*")
    async def broken(_thing: CommittedObject) -> None:
        raise OSError("the index is gone")

    @server.sink("*")
    async def works(thing: CommittedObject) -> None:
        seen.append(thing.name)

    async with start(server) as serving, Peer(serving.port) as peer:
        for number in range(30):
            await peer.upload(f"a{number}", b"x").ended()
        await wait_for(seen, 30)
        report = await status(peer, "objects/a0")
        assert report.facts["sinks"] == "broken"
    assert sorted(seen) == sorted(f"a{number}" for number in range(30))


@pytest.mark.parametrize("blocking", [False, True])
async def test_one_that_hangs_keeps_nothing_from_others(
    start: Start, monkeypatch: pytest.MonkeyPatch, *, blocking: bool
) -> None:
    monkeypatch.setattr("ackline.server.server.SETTLE_SECONDS", 0.05)
    server = Server()
    hung: list[str] = []
    seen: list[str] = []
    for_ever = threading.Event()

    if blocking:

        @server.sink("*", concurrency=2)
        def hangs(thing: CommittedObject) -> None:
            hung.append(thing.name)
            for_ever.wait(20)

    else:

        @server.sink("*", concurrency=2)
        async def hangs_too(thing: CommittedObject) -> None:
            hung.append(thing.name)
            await asyncio.Event().wait()

    @server.sink("*")
    def works(thing: CommittedObject) -> None:
        seen.append(thing.name)

    begin = time.monotonic()
    async with start(server) as serving, Peer(serving.port) as peer:
        for number in range(20):
            await peer.upload(f"a{number}", b"x").ended()
        await wait_for(seen, 20)
        assert len(hung) == 2
        report = await status(peer, f"objects/{hung[0]}")
        assert report.reasons == ("sink",)
        assert report.facts["sinks_called"] == report.facts["sinks"]
    # Nor does it keep the server from ending.
    assert time.monotonic() - begin < 5
    for_ever.set()


@pytest.mark.usefixtures("soon")
async def test_a_call_that_takes_too_long_has_failed(start: Start) -> None:
    server = Server()
    attempts: list[int] = []

    @server.sink("*", timeout=0.05)
    async def slow(thing: CommittedObject) -> None:
        attempts.append(thing.attempt)
        if thing.attempt == 1:
            await asyncio.Event().wait()

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await until(lambda: len(attempts) == 2)
        await taken(peer, "objects/a")
    assert attempts == [1, 2]


@pytest.mark.usefixtures("soon")
async def test_a_sink_that_cancels_itself_has_failed(start: Start) -> None:
    server = Server()
    attempts: list[int] = []

    @server.sink("*")
    async def take(thing: CommittedObject) -> None:
        attempts.append(thing.attempt)
        if thing.attempt == 1:
            raise asyncio.CancelledError

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await until(lambda: len(attempts) == 2)
        await taken(peer, "objects/a")


@pytest.mark.usefixtures("soon")
async def test_whatever_a_thread_raises_is_a_failed_call(start: Start) -> None:
    server = Server()
    attempts: list[int] = []
    raised = [StopIteration(), SystemExit(3), TimeoutError("its own"), KeyError("k")]

    @server.sink("*")
    def take(thing: CommittedObject) -> None:
        attempts.append(thing.attempt)
        if raised:
            raise raised.pop(0)

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await until(lambda: len(attempts) == 5)
        await taken(peer, "objects/a")


async def test_a_sink_that_did_not_finish_is_called_after_a_restart(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not after the pause of one that failed."""
    monkeypatch.setattr(deliveries, "FIRST_RETRY", 3600.0)
    monkeypatch.setattr(deliveries, "LONGEST_RETRY", 3600.0)
    monkeypatch.setattr("ackline.server.server.SETTLE_SECONDS", 0.05)
    seen: list[str] = []
    first = Server()

    @first.sink("*", name="take")
    async def hang(thing: CommittedObject) -> None:
        seen.append(f"first {thing.name} {thing.attempt}")
        await asyncio.Event().wait()

    second = Server()

    @second.sink("*")
    async def take(thing: CommittedObject) -> None:
        seen.append(f"second {thing.name} {thing.attempt}")

    async with start(first) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await wait_for(seen, 1)
    async with start(second) as serving, Peer(serving.port) as peer:
        await wait_for(seen, 2)
        await taken(peer, "objects/a")
    async with start(second) as serving, Peer(serving.port) as peer:
        assert (await status(peer, "objects/a")).reasons == ()
    assert seen == ["first a 1", "second a 2"]


async def test_a_call_that_runs_when_the_server_stops_is_waited_for(
    start: Start,
) -> None:
    server = Server()
    begun, ended = threading.Event(), threading.Event()

    @server.sink("*")
    def take(_thing: CommittedObject) -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await until(begun.is_set)
    assert ended.is_set()
    async with start(server) as serving, Peer(serving.port) as peer:
        assert (await status(peer, "objects/a")).reasons == ()


async def test_a_sink_that_ignores_being_cancelled_is_left_behind(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ackline.server.server.SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(tasks, "STUBBORN_SECONDS", 0.05)
    server = Server()
    begun, release = asyncio.Event(), asyncio.Event()

    @server.sink("*")
    async def take(_thing: CommittedObject) -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await begun.wait()
    assert "does not end" in caplog.text
    release.set()
    await asyncio.sleep(0)


async def test_what_waits_for_a_sink_that_is_gone_is_told_and_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deliveries, "FIRST_RETRY", 0.01)
    first = Server()
    called = asyncio.Event()

    @first.sink("*", name="old")
    async def fails(_thing: CommittedObject) -> None:
        called.set()
        raise RuntimeError("no")

    async with start(first) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await called.wait()
    async with start(Server()) as serving, Peer(serving.port) as peer:
        assert (await status(peer, "objects/a")).facts["sinks"] == "old"
    assert "1 objects wait for a sink 'old'" in caplog.text


async def test_an_object_that_is_deleted_is_asked_for_no_more(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    called, go = asyncio.Event(), asyncio.Event()

    @server.sink("*", concurrency=1)
    async def take(thing: CommittedObject) -> None:
        called.set()
        await go.wait()
        assert await thing.read() == b"x"

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await called.wait()
        await peer.upload("b", b"y").ended()
        await peer.request(FrameType.DELETE, Delete("objects/a"))
        await peer.request(FrameType.DELETE, Delete("objects/b"))
        called.clear()
        go.set()
        await peer.upload("c", b"x").ended()
        await called.wait()
        await taken(peer, "objects/c")
    assert "failed" not in caplog.text


def test_a_name_belongs_to_one_function() -> None:
    server = Server()

    def take(_thing: CommittedObject) -> None: ...

    server.sink("a/*")(take)
    server.sink("b/*")(take)
    assert [sink.patterns for sink in server.sinks] == [["a/*", "b/*"]]
    assert server.sinks[0].takes("b/1")
    with pytest.raises(ValueError, match="another sink 'take'"):
        server.sink("*", name="take")(lambda _thing: None)
    with pytest.raises(ValueError, match="above 0"):
        server.sink("*", concurrency=0)
    with pytest.raises(ValueError, match="above 0"):
        server.sink("*", timeout=0)
