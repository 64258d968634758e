"""What a disk that is full, stalls or fails means to clients (SPEC.md §13, §14)."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    End,
    Intent,
    OutcomeKind,
    Start,
    Status,
    StatusReport,
)
from ackline.server import commits, publishes, uploads
from ackline.server.stores import storage
from tests.server.peer import Peer, Work
from tests.server.stores.support import FaultyFiles

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start as Starter

DATA = os.urandom(400_000)
LINES = [f"line {number}".encode() * 50 for number in range(2000)]


@pytest.fixture(params=["disk", "memory"])
def files(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> FaultyFiles:
    """Return the file system of all servers of a test."""
    files = FaultyFiles()
    files.of_memory = request.param == "memory"
    monkeypatch.setattr(storage, "Files", lambda: files)
    for module in (uploads, publishes, commits):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    return files


async def told(work: Work) -> None:
    """Wait until the server has said that it is short of something."""
    sender = work.stream.sender
    assert sender is not None
    async with asyncio.timeout(50):
        while not sender.held_until:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
async def test_an_upload_goes_on_when_the_disk_does(
    start: Starter, files: FaultyFiles, fault: int
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        files.can_allocate = False
        up = peer.upload("a", DATA, size=None)
        await up.opened()
        files.fail["pwritev"] = fault
        again = peer.upload("b", DATA, size=None)
        await told(again)
        files.fail.clear()
        for work in (up, again):
            assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        down = peer.fetch("b")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == DATA


async def test_a_failed_sync_promises_nothing_that_is_not_there(
    start: Starter, files: FaultyFiles
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False)
        await up.stored(7)
        files.fail["fdatasync"] = errno.EIO
        failing = peer.upload("b", DATA)
        await told(failing)
        files.fail.clear()
        assert (await failing.ended()).outcome is OutcomeKind.COMPLETED
        down = peer.fetch("b")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == DATA


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
async def test_a_publisher_goes_on_when_the_disk_does(
    start: Starter, files: FaultyFiles, fault: int, call: str
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"first"]).ended()
        files.fail[call] = fault
        work = peer.publish("log", LINES, key="p")
        await told(work)
        files.fail.clear()
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        reader = peer.subscribe("logs/log", Start.ID, 1)
        received = await reader.events(len(LINES))
        assert [each[2] for each in received] == LINES


async def test_an_upload_that_does_not_fit_is_refused_at_once(
    start: Starter, files: FaultyFiles
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        files.space = 100_000
        files.can_allocate = False
        up = peer.upload("a", DATA)
        refused = (await up.refused()).message
        assert (refused.code, refused.retry) == (Code.INSUFFICIENT_STORAGE, True)
        assert refused.retry_after > 0


async def test_a_stalled_disk_is_told_and_holds_only_its_own(
    start: Starter, files: FaultyFiles
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"x"] * 100).ended()
        gate = files.gates["fdatasync"] = threading.Event()
        up = peer.upload("a", DATA)
        await up.opened()
        async with asyncio.timeout(50):
            while not files.calls["pwritev"]:
                await asyncio.sleep(0.01)
        reader = peer.subscribe("logs/log")
        await reader.events(100)
        async with asyncio.timeout(50):
            while True:
                report = await peer.request(
                    FrameType.STATUS, Status(up.stream.resource)
                )
                assert isinstance(report, StatusReport)
                if "disk" in report.reasons:
                    break
                await asyncio.sleep(0.02)
        # Its memory stays within its window.
        assert up.stream.sender is not None
        assert up.stream.sender.sent_units <= 4
        gate.set()
        del files.gates["fdatasync"]
        assert (await up.ended()).outcome is OutcomeKind.COMPLETED


async def test_an_object_that_cannot_be_read_fails_its_fetch(
    start: Starter, files: FaultyFiles
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA).ended()
        files.fail["preadv"] = errno.EIO
        down = peer.fetch("a")
        outcome = await down.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.STORAGE_FAILED,
        )


async def test_a_chunk_that_is_gone_after_a_restart_is_not_hidden(
    start: Starter, tmp_path: Path
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, end=False)
        await up.stored(7)
        await peer.drop()
    upload_id = up.stream.resource.removeprefix("uploads/")
    with (tmp_path / "data" / "objects" / upload_id).open("r+b") as file:
        file.seek(70_000)
        file.write(b"\0" * 1000)
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        assert (await up.broken()).code == Code.POSITION_LOST
        await peer.drop()


async def test_a_batch_whose_sync_failed_and_that_is_there_is_there_once(
    start: Starter, files: FaultyFiles
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        work = peer.publish("log", LINES[:5], end=False)
        await work.stored(5)
        files.fail["fdatasync"] = errno.EIO
        sender = work.stream.sender
        assert isinstance(sender, EventSender)
        sender.feed.append(b"kept")  # type: ignore[attr-defined]
        await told(work)
        files.fail.clear()
        await work.stored(6)
        sender.finish(End(Intent.COMPLETED, 0, "", size=6))
        assert (await work.ended()).position == 6
        report = await peer.request(FrameType.STATUS, Status("logs/log"))
        assert isinstance(report, StatusReport)
        assert report.facts["next"] == 6


async def test_events_that_the_disk_lost_are_told_to_all_who_count_on_them(
    start: Starter, files: FaultyFiles, tmp_path: Path
) -> None:
    """Publishers with nothing on its way, and subscribers who have seen them."""
    async with start() as serving, Peer(serving.port) as peer:
        idle = peer.publish("log", LINES[:10], end=False)
        await idle.stored(10)
        reader = peer.subscribe("logs/log", Start.FIRST)
        await reader.events(10)
        (segment,) = (tmp_path / "data").glob("logs/*/*.log")
        os.truncate(segment, segment.stat().st_size - 1)
        files.fail["pwritev"] = errno.EIO
        other = peer.publish("log", [b"other"], key="other")
        await told(other)
        files.fail.clear()
        assert (await other.ended()).outcome is OutcomeKind.COMPLETED
        for work in (idle, reader):
            outcome = await work.ended()
            assert (outcome.outcome, outcome.code) == (
                OutcomeKind.FAILED,
                Code.POSITION_LOST,
            )


async def test_damage_found_after_a_failure_is_not_hidden(
    start: Starter, files: FaultyFiles, tmp_path: Path
) -> None:
    async with start(cleanup_interval=0.05) as serving, Peer(serving.port) as peer:
        await peer.publish("log", LINES[:10]).ended()
        # Or the log is let go of, and the damage found when it is opened again.
        await peer.subscribe("logs/log", Start.FIRST).events(10)
        records = sqlite3.connect(tmp_path / "data" / "records.sqlite3")
        async with asyncio.timeout(50):
            while records.execute("SELECT synced_to FROM logs").fetchone() != (10,):
                await asyncio.sleep(0.02)
        records.close()
        (segment,) = (tmp_path / "data").glob("logs/*/*.log")
        os.truncate(segment, segment.stat().st_size - 1)
        files.fail["pwritev"] = errno.EIO
        work = peer.publish("log", [b"other"])
        assert (await work.ended()).code == Code.POSITION_LOST
