"""What a disk that is full, stalls or fails means to clients (SPEC.md §13, §14)."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

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
from ackline.server import Server, commits, deliveries, publishes, runlog, uploads
from ackline.server.stores import storage
from ackline.server.stores.records import Records
from tests.server.peer import Peer, Work
from tests.server.stores.support import FaultyFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from ackline.server import CommittedObject
    from ackline.server.stores.files import Files
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
    for module in (uploads, publishes, commits, runlog):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    return files


class FaultyRecords(sqlite3.Connection):
    """A database whose commits fail while there is an error."""

    error: int | None = None

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and FaultyRecords.error is not None:
            raised = sqlite3.OperationalError("disk I/O error")
            raised.sqlite_errorcode = FaultyRecords.error
            raise raised
        return super().execute(sql, *arguments)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FaultyRecords]]:
    """Return the database of all servers of a test."""

    def faulty(path: Path, files: Files, **_: object) -> Records:
        return Records(path, files, factory=FaultyRecords)

    monkeypatch.setattr(storage, "Records", faulty)
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(deliveries, "FIRST_RETRY", 0.05)
    yield FaultyRecords
    FaultyRecords.error = None


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


@pytest.mark.parametrize("failing", ["pwritev", "fdatasync", "sync_directory"])
async def test_a_small_upload_is_refused_until_the_disk_is_back(
    start: Starter, files: FaultyFiles, failing: str
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        files.fail[failing] = errno.EIO
        refused = (await _small(peer).refused()).message
        assert refused.code == Code.STORAGE_FAILED
        assert refused.retry_after > 0
        files.fail.clear()
        outcome = await _small(peer).ended()
        assert outcome.outcome is OutcomeKind.COMPLETED


async def test_a_small_upload_is_refused_until_it_can_be_recorded(
    start: Starter, records: type[FaultyRecords]
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("first", b"x").ended()
        records.error = sqlite3.SQLITE_IOERR_FSYNC
        assert (await _small(peer).refused()).message.code == Code.STORAGE_FAILED
        records.error = None
        outcome = await _small(peer).ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert outcome.object is not None
        assert outcome.object.version == 1


def _small(peer: Peer) -> Work:
    return peer.upload("a", b"hello", key="k", early=True)


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


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
async def test_a_durable_run_goes_on_when_the_disk_does(
    start: Starter, files: FaultyFiles, fault: int, call: str
) -> None:
    server = Server()
    go_on = asyncio.Event()

    @server.source("job", durable=True)
    async def job() -> AsyncGenerator[bytes]:
        yield b"0"
        await go_on.wait()
        for number in range(1, 200):
            yield str(number).encode()

    @server.source("ticker")
    async def ticker() -> AsyncGenerator[bytes]:
        for number in range(50):
            yield str(number).encode()

    async with start(server) as serving, Peer(serving.port) as peer:
        run = peer.subscribe("sources/job")
        await run.events(1)
        files.fail[call] = fault
        failed = files.calls[call]
        go_on.set()
        # What is in memory only does not wait for the disk.
        other = peer.subscribe("sources/ticker")
        assert (await other.ended()).position == 50
        async with asyncio.timeout(5):
            while files.calls[call] == failed:
                await asyncio.sleep(0.01)
        assert run.received[1:] == []
        files.fail.clear()
        outcome = await run.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 200)
        expected = [str(number).encode() for number in range(200)]
        assert [each[2] for each in run.received] == expected


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (sqlite3.SQLITE_FULL, Code.INSUFFICIENT_STORAGE),
        (sqlite3.SQLITE_IOERR, Code.STORAGE_FAILED),
    ],
)
async def test_records_that_cannot_be_written_hold_up_what_needs_them(
    start: Starter,
    records: type[FaultyRecords],
    files: FaultyFiles,
    fault: int,
    code: Code,
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("before", DATA).ended()
        publisher = peer.publish("log", LINES[:10], end=False)
        await publisher.stored(10)
        up = peer.upload("a", DATA, end=False)
        await up.stored(2)
        records.error = fault
        refused = (await peer.upload("b", DATA).refused()).message
        assert (refused.code, refused.retry) == (code, True)
        # Events need no records, and reading needs no disk that can be written.
        sender = publisher.stream.sender
        assert isinstance(sender, EventSender)
        sender.feed.append(b"more")  # type: ignore[attr-defined]
        await publisher.stored(11)
        records.error = None
        again = peer.upload("b", DATA)
        assert (await again.ended()).outcome is OutcomeKind.COMPLETED


async def test_a_commit_waits_for_records_that_can_be_written(
    start: Starter, records: type[FaultyRecords], files: FaultyFiles
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA)
        await up.opened()
        records.error = sqlite3.SQLITE_IOERR
        await told(up)
        records.error = None
        assert (await up.ended()).outcome is OutcomeKind.COMPLETED
        down = peer.fetch("a")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == DATA


async def test_a_sink_is_called_until_its_records_can_be_written(
    start: Starter, records: type[FaultyRecords], files: FaultyFiles
) -> None:
    server = Server()
    calls: list[str] = []

    @server.sink("*")
    async def index(taken: CommittedObject) -> None:
        calls.append(taken.name)
        if len(calls) == 1:
            records.error = sqlite3.SQLITE_FULL  # that it was taken cannot be noted

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        async with asyncio.timeout(5):
            while records.error is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert calls == ["a"]  # not while that cannot be noted either
            records.error = None
            while calls != ["a", "a"]:
                await asyncio.sleep(0.01)
        await peer.upload("b", b"x").ended()
        async with asyncio.timeout(5):
            while "b" not in calls:
                await asyncio.sleep(0.01)


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
