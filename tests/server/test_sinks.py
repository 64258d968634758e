"""Sinks: called with every committed object, at least once."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from ackline.proto.frames import FrameType
from ackline.proto.messages import Status, StatusReport
from ackline.server import CommittedObject, Server, sinks
from tests.server.peer import Peer

if TYPE_CHECKING:
    from tests.server.conftest import Start

DATA = os.urandom(100_000)


async def wait_for(seen: list[str], count: int) -> None:
    async with asyncio.timeout(10):
        while len(seen) < count:
            await asyncio.sleep(0.01)


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
        seen.append(video.name)

    @server.sink("*")
    def blocking(thing: CommittedObject) -> None:
        seen.append(f"sync {thing.name} {thing.size} {thing.version}")

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload(
            "videos/a", DATA, algorithm="sha256", parameters={"by": "me"}
        ).ended()
        await wait_for(seen, 2)
        assert seen == ["videos/a", "sync videos/a 100000 1"]
        await peer.upload("other", b"x").ended()
        await wait_for(seen, 3)
        assert seen[2] == "sync other 1 1"


async def test_a_sink_that_raises_is_called_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "FIRST_RETRY", 0.3)
    server = Server()
    seen: list[str] = []

    @server.sink("*")
    async def take(thing: CommittedObject) -> None:
        seen.append(thing.name)
        if len(seen) == 1:
            raise RuntimeError("not yet")

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await wait_for(seen, 1)
        await asyncio.sleep(0.1)
        report = await peer.request(FrameType.STATUS, Status("objects/a"))
        assert isinstance(report, StatusReport)
        assert report.reasons == ("sink",)
        assert report.facts["sink_error"] == "RuntimeError: not yet"
        await wait_for(seen, 2)


async def test_a_sink_that_did_not_finish_is_called_after_a_restart(
    start: Start,
) -> None:
    seen: list[str] = []
    first = Server()

    @first.sink("*")
    async def hang(thing: CommittedObject) -> None:
        seen.append(f"first {thing.name}")
        await asyncio.Event().wait()

    second = Server()

    @second.sink("*")
    async def take(thing: CommittedObject) -> None:
        seen.append(f"second {thing.name}")

    async with start(first) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await wait_for(seen, 1)
    async with start(second):
        await wait_for(seen, 2)
    async with start(second):
        await asyncio.sleep(0.1)
    assert seen == ["first a", "second a"]
