from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.errors import Corrupt, NotFound, StoreFailed
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import Clock, Publisher, crash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ackline.server.stores.seams import Log
    from tests.server.stores.support import FaultyFiles

OPTIONS = StorageOptions(reserve=0, segment_size=2000)


@pytest.fixture
async def storage(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> AsyncIterator[Storage]:
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        yield storage


async def fill(log: Log, count: int, size: int = 300) -> None:
    state = log.publisher("producer")
    publisher = Publisher(log, position=state.position if state else 0)
    for _ in range(count):
        log.append(publisher.batch(b"x" * size))
    await log.flush()


def segments(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("data/logs/*/*.log"))


async def test_log_is_made_once(storage: Storage, clock: Clock) -> None:
    with pytest.raises(NotFound):
        await storage.logs.open("events", create=False)
    one, two = await asyncio.gather(
        storage.logs.open("events"), storage.logs.open("events")
    )
    assert one is two
    assert one.record.created == clock.now
    assert one.record.generation == int(one.record.log_id[:16], 16)
    assert await storage.logs.logs() == [one.record]


async def test_logs_are_listed_by_prefix_in_pages(storage: Storage) -> None:
    for name in ("b/2", "a", "b/1", "b/3", "c"):
        await storage.logs.open(name)
    assert [r.name for r in await storage.logs.logs()] == [
        "a",
        "b/1",
        "b/2",
        "b/3",
        "c",
    ]
    assert [r.name for r in await storage.logs.logs("b/", limit=2)] == ["b/1", "b/2"]
    page = await storage.logs.logs("b/", after="b/2")
    assert [r.name for r in page] == ["b/3"]


async def test_old_segments_go_when_all_in_them_is_too_old(
    storage: Storage, clock: Clock
) -> None:
    await storage.logs.configure("events", retention_seconds=100, retention_bytes=None)
    log = await storage.logs.open("events")
    await fill(log, 20)
    clock.now += 60
    await fill(log, 20)
    assert await storage.logs.trim() == 0
    clock.now += 60
    assert await storage.logs.trim() > 0
    assert 16 <= log.first_id <= 20
    (batch,) = await log.load(20, 1)
    assert batch.first_id == 20


async def test_newest_segment_of_an_idle_log_goes_too(
    storage: Storage, clock: Clock, tmp_path: Path
) -> None:
    await storage.logs.configure("events", retention_seconds=100, retention_bytes=None)
    log = await storage.logs.open("events")
    await fill(log, 20)
    sums, state = log.sums, log.publisher("producer")
    clock.now += 101
    assert await storage.logs.trim() > 0
    assert (log.first_id, log.next_id) == (20, 20)
    assert len(segments(tmp_path)) == 1
    assert await storage.logs.trim() == 0
    log = await storage.logs.open("events")
    assert (log.sums, log.publisher("producer")) == (sums, state)
    await fill(log, 1)
    assert log.next_id == 21


async def test_trimmed_log_begins_there_after_a_restart(
    tmp_path: Path, clock: Clock
) -> None:
    options = replace(OPTIONS, segment_size=2**20)
    async with Storage.open(tmp_path / "data", options, clock=clock) as storage:
        await storage.logs.configure(
            "events", retention_seconds=1000, retention_bytes=2**20
        )
        log = await storage.logs.open("events")
        await fill(log, 12, size=2**19)
        before = log.size
        assert await storage.logs.trim() > 0
        assert 2**20 <= log.size < before
        first, last = log.first_id, log.next_id
    async with Storage.open(tmp_path / "data", options, clock=clock) as storage:
        log = await storage.logs.open("events")
        assert (log.first_id, log.next_id) == (first, last)
        assert log.record.retention_seconds == 1000
        assert log.record.retention_bytes == 2**20
        clock.now += 1001
        assert await storage.logs.trim() > 0
        assert log.first_id == last


async def test_log_without_retention_keeps_everything(
    storage: Storage, clock: Clock
) -> None:
    log = await storage.logs.open("events")
    await fill(log, 30)
    clock.now += 10**9
    assert await storage.logs.trim() == 0
    assert log.first_id == 0
    await fill(log, 30)  # its file was closed meanwhile
    assert log.next_id == 60


async def test_log_that_fails_does_not_stop_the_others_from_being_trimmed(
    storage: Storage, clock: Clock, tmp_path: Path
) -> None:
    for name in ("bad", "good"):
        await storage.logs.configure(name, retention_seconds=10, retention_bytes=None)
        await fill(await storage.logs.open(name), 20)
    bad = await storage.logs.open("bad")
    clock.now += 100
    log_folder = tmp_path / "data" / "logs" / bad.record.log_id
    await storage.logs.trim()
    for path in log_folder.iterdir():
        path.unlink()
    log_folder.rmdir()
    await fill(await storage.logs.open("good"), 20)
    clock.now += 100
    assert await storage.logs.trim() > 0


async def test_a_segment_that_cannot_be_deleted_leaves_no_hole(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> None:
    data = tmp_path / "data"
    async with Storage.open(data, OPTIONS, clock=clock, files=files) as storage:
        await storage.logs.configure(
            "events", retention_seconds=9, retention_bytes=None
        )
        await fill(await storage.logs.open("events"), 40)
        clock.now += 10
        gone: list[Path] = []

        def unlink(path: Path) -> None:
            if len(gone) == 1:  # the second cannot go, so neither can the third
                raise OSError(errno.EIO, "no")
            gone.append(path)
            path.unlink()

        files.unlink = unlink  # type: ignore[method-assign]
        assert await storage.logs.trim() > 2
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        log = await storage.logs.open("events")
        assert 0 < log.first_id < 20
        position = log.first_id
        while position < log.next_id:
            position = (await log.load(position, 1000))[-1].next_id
        assert await storage.logs.trim() > 0
        assert log.first_id == 40


async def test_folder_without_a_record_is_deleted_at_the_start(
    tmp_path: Path, clock: Clock
) -> None:
    data = tmp_path / "data"
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        await fill(await storage.logs.open("events"), 1)
    leftover = data / "logs" / "0123"
    leftover.mkdir()
    (leftover / f"{0:020}.log").write_bytes(b"x")
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        assert storage.stats.leftovers == 1
        assert not leftover.exists()
        assert (await storage.logs.open("events")).next_id == 1


async def test_closing_stores_what_was_appended(tmp_path: Path, clock: Clock) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        log = await storage.logs.open("events")
        publisher = Publisher(log)
        tickets = [log.append(publisher.batch(b"x")) for _ in range(10)]
    assert all(ticket.done.done() for ticket in tickets)
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        assert (await storage.logs.open("events")).next_id == 10


async def test_log_that_nobody_uses_is_let_go(storage: Storage, clock: Clock) -> None:
    """Unused is: nobody watches, and nobody asked for it between two cleanings."""
    for name in ("used", "watched", "unused"):
        await storage.logs.configure(name, retention_seconds=100, retention_bytes=None)
        await fill(await storage.logs.open(name), 20)
    opened = {n: await storage.logs.open(n) for n in ("used", "watched", "unused")}
    heard: list[None] = []
    opened["watched"].watch(lambda: heard.append(None))
    await storage.logs.trim()
    await storage.logs.open("used")
    await storage.logs.trim()
    await storage.logs.open("used")
    await storage.logs.trim()
    assert await storage.logs.open("used") is opened["used"]
    assert await storage.logs.open("watched") is opened["watched"]
    again = await storage.logs.open("unused")
    assert again is not opened["unused"]
    assert (again.sums, again.next_id) == (opened["unused"].sums, 20)
    with pytest.raises(StoreFailed, match="closed"):
        await fill(opened["unused"], 1)
    await fill(again, 1)
    assert again.next_id == 21


async def test_retention_looks_at_a_log_that_was_let_go_when_something_is_due(
    storage: Storage, clock: Clock, files: FaultyFiles, tmp_path: Path
) -> None:
    await storage.logs.configure("events", retention_seconds=100, retention_bytes=None)
    await fill(await storage.logs.open("events"), 20)
    for _ in range(2):
        await storage.logs.trim()
    reads = files.calls["preadv"]
    clock.now += 99
    assert await storage.logs.trim() == 0
    assert files.calls["preadv"] == reads
    clock.now += 2
    assert await storage.logs.trim() > 0
    (left,) = segments(tmp_path)
    assert int(left.stem) == 20
    for _ in range(2):
        await storage.logs.trim()
    reads = files.calls["preadv"]
    clock.now += 10**6
    assert await storage.logs.trim() == 0
    assert files.calls["preadv"] == reads


@pytest.mark.parametrize("noted_by", ["closing", "cleaning"])
async def test_newest_events_that_are_gone_are_missed(
    tmp_path: Path, clock: Clock, noted_by: str
) -> None:
    data = tmp_path / "data"
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        await fill(await storage.logs.open("events"), 20)
        if noted_by == "cleaning":
            await storage.logs.trim()
            data = crash(data, tmp_path / "copy")
    newest = max(data.glob("logs/*/*.log"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        with pytest.raises(Corrupt, match="lacks events 19 to 19"):
            await storage.logs.open("events")
    assert newest.read_bytes() == content
    newest.unlink()
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        with pytest.raises(Corrupt, match="lacks events"):
            await storage.logs.open("events")
        await storage.logs.delete("events")
        assert (await storage.logs.open("events")).next_id == 0
