"""What happened to a thing is told by STATUS, after a restart too (SPEC.md §19)."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import Status, StatusReport
from ackline.server import Server, histories
from ackline.server.histories import FIRST, LAST, Histories
from ackline.server.stores.storage import Storage
from ackline.server.tasks import Tasks
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.server.conftest import Start


async def history(peer: Peer, target: str) -> list[str]:
    """Return the texts, without their times."""
    report = await peer.request(FrameType.STATUS, Status(target))
    assert isinstance(report, StatusReport)
    for line in report.history:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line), line
    return [line.split(" ", 1)[1] for line in report.history]


async def test_the_history_of_an_upload_goes_on_over_connections_and_restarts(
    start: Start,
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        work = peer.upload("a", b"x" * 70_000, key="k", end=False)
        await work.stored(1)
        resource = work.stream.resource
        work.stream.pause(paused=True, text="lunch")
        await peer.request(FrameType.STATUS, Status(resource))
        await peer.drop()
        await peer.connect()
        found = await history(peer, resource)
        session = peer.session.session
        assert session is not None
        of_session = await history(peer, f"sessions/{session.session_id}")
    me = f"{session.session_id}/{work.stream.id}"
    host = r"127\.0\.0\.1:\d+"
    wanted = [
        rf"{me} opened by anonymous from {host}, at 0",
        rf"{me} paused \(by its client\): lunch",
        rf"{me} lost its connection, at [12]",
        rf"{me} resumed from {host}, at [12]",
    ]
    assert len(found) == len(wanted), found
    for line, pattern in zip(found, wanted, strict=True):
        assert re.fullmatch(pattern, line)
    assert re.fullmatch(rf"begun by anonymous from {host}", of_session[0])
    assert any(f"stream {work.stream.id} {resource} paused" in e for e in of_session)
    async with start() as serving:
        other = await Peer(serving.port).connect()
        again = other.upload("a", b"x" * 70_000, key="k")
        await again.ended()
        later = await history(other, resource)
        await other.drop()
    assert later[: len(found)] == found
    assert "opened again by anonymous" in later[-2]
    assert later[-1].endswith("completed at 2")


async def test_it_is_told_where_a_client_left_and_what_it_let_go(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        released, left = (
            peer.upload(name, b"x" * 70_000, key=name, end=False) for name in "ab"
        )
        for work in (released, left):
            await work.stored(1)
        released.release()
        peer.core.go_away(Code.OK)
        peer.pump.close()
        await peer.pump.closed
        async with Peer(serving.port) as other, asyncio.timeout(30):
            for work, why in (
                (released, "its client let it go"),
                (left, "its client left"),
            ):
                wanted = re.compile(rf".*/{work.stream.id} {why}, at [12]")
                while not wanted.fullmatch(
                    (await history(other, work.stream.resource))[-1]
                ):
                    pass


async def test_an_object_tells_how_it_came_and_who_fetched_it(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        await peer.fetch("a").ended()
        found = await history(peer, "objects/a")
    assert [line.split()[1] for line in found] == [
        "opened",
        "completed",
        "opened",
        "completed",
    ]


async def test_an_upload_without_trouble_writes_no_history(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "SAVE_SECONDS", 1000.0)  # it may be slow here
    async with start() as serving, Peer(serving.port) as peer:
        work = peer.upload("a", b"x")
        await work.ended()
        found = await history(peer, work.stream.resource)
    assert [line.split()[1] for line in found] == ["opened", "completed"]
    with closing(sqlite3.connect(tmp_path / "data" / "records.sqlite3")) as records:
        assert records.execute("SELECT count(*) FROM histories").fetchone() == (0,)


async def test_what_happens_is_on_the_disk_soon(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "SAVE_SECONDS", 0.01)
    async with start() as serving, Peer(serving.port) as peer:
        work = peer.upload("a", b"x" * 70_000, key="k", end=False)
        await work.stored(1)
        with closing(sqlite3.connect(tmp_path / "data" / "records.sqlite3")) as disk:
            async with asyncio.timeout(50):
                while not disk.execute("SELECT * FROM histories").fetchall():
                    await asyncio.sleep(0.01)


async def test_the_end_of_an_upload_that_went_on_after_a_restart_is_on_the_disk(
    tmp_path: Path,
) -> None:
    async with Storage.open(tmp_path / "data") as storage:
        store = storage.histories
        told = Histories(store, Tasks())
        told.begin("uploads/a")
        told.note("uploads/a", "opened", lasting=True)
        await told.save()
        told = Histories(store, Tasks())  # of the next process
        told.note("uploads/a", "completed", lasting=True, over=True)
        await told.save()
        kept = await store.load("uploads/a")
    assert [line.split()[-1] for line in kept] == ["opened", "completed"]


async def test_the_history_of_a_run_tells_who_consumed_it(start: Start) -> None:
    server = Server()

    @server.source("fails")
    async def fails() -> AsyncGenerator[str]:
        yield "1"
        raise RuntimeError("no model")

    async with start(server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/fails")
        await work.ended()
        found = await history(peer, work.stream.resource)
    assert found[0] == "started for anonymous"
    assert any("opened by anonymous" in line for line in found)
    assert any("failed after 1 events: RuntimeError: no model" in f for f in found)


async def test_a_history_keeps_how_it_began_and_the_newest(tmp_path: Path) -> None:
    async with Storage.open(tmp_path / "data") as storage:
        store = storage.histories
        told = Histories(store, Tasks())
        for number in range(1000):
            told.note("uploads/a", f"step {number}", lasting=True)
        found = [int(line.split()[-1]) for line in await told.of("uploads/a")]
        assert found == [*range(FIRST), *range(1000 - LAST, 1000)]
        await told.save()
        told = Histories(store, Tasks())  # of the next process
        for number in range(1000, 1000 + LAST):
            told.note("uploads/a", f"step {number}", lasting=True)
        await told.save()
        kept = [int(line.split()[-1]) for line in await store.load("uploads/a")]
        assert kept == [*range(FIRST), *range(1000, 1000 + LAST)]
        await told.expire(time.time() + 1)
        assert await store.load("uploads/a") == []
