from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from ackline.server.stores.errors import (
    Corrupt,
    Fenced,
    NotFound,
    PositionTrimmed,
    Sealed,
    StorageFull,
    StoreFailed,
    Unsupported,
)
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import Clock, Publisher, crash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ackline.server.stores.entities import StoredBatch
    from ackline.server.stores.seams import Log
    from tests.server.stores.support import FaultyFiles

OPTIONS = StorageOptions(reserve=0)
SMALL = replace(OPTIONS, segment_size=2000, tail_budget=0)


@pytest.fixture
async def storage(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> AsyncIterator[Storage]:
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        yield storage


@pytest.fixture
async def log(storage: Storage) -> Log:
    return await storage.logs.open("events")


async def fill(log: Log, count: int, *, size: int = 200, first: int = 0) -> None:
    """Append batches of one event; each payload begins with its number."""
    publisher = Publisher(log, position=first)
    for number in range(first, first + count):
        log.append(publisher.batch(payload(number, size)))
    await log.flush()


def payload(number: int, size: int = 200) -> bytes:
    return f"{number:06}".encode().ljust(size, b".")


async def everything(log: Log, position: int | None = None) -> list[StoredBatch]:
    """Read a log from the disk to its end."""
    position = log.first_id if position is None else position
    batches: list[StoredBatch] = []
    while position < log.next_id:
        batches += await log.load(position, 1000)
        position = batches[-1].next_id
    return batches


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "logs").glob("*/*.log"))


def newest(folder: Path) -> Path:
    return segments(folder)[-1]


async def test_ids_are_given_at_once_and_in_order(log: Log, clock: Clock) -> None:
    publisher = Publisher(log)
    tickets = [log.append(publisher.batch(b"x" * n, count=n)) for n in (3, 1, 5)]
    assert [(t.first_id, t.next_id) for t in tickets] == [(0, 3), (3, 4), (4, 9)]
    assert (log.assigned_id, log.next_id) == (9, 0)
    assert log.cached(0, 1000) == []
    assert await tickets[1] == 3
    await log.flush()
    assert (log.first_id, log.next_id) == (0, 9)
    batches = log.cached(0, 1000)
    assert batches == await log.load(0, 1000)
    assert batches is not None
    assert [(b.first_id, b.count, b.payload) for b in batches] == [
        (0, 3, b"xxx"), (3, 1, b"x"), (4, 5, b"xxxxx")
    ]  # fmt: skip
    assert {b.time for b in batches} == {int(clock.now * 1000)}


async def test_events_are_visible_only_when_synced(
    log: Log, files: FaultyFiles
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    ticket = log.append(Publisher(log).batch(b"event"))
    await asyncio.sleep(0.05)
    assert not ticket.done.done()
    assert log.next_id == 0
    assert await log.load(0, 100) == []
    gate.set()
    await ticket
    assert log.next_id == 1


async def test_appends_during_a_sync_share_the_next(
    storage: Storage, log: Log, files: FaultyFiles
) -> None:
    calls: list[int] = []
    log.watch(lambda: calls.append(log.next_id))
    publisher = Publisher(log)
    await log.append(publisher.batch(b"first"))
    before = files.calls["fdatasync"], storage.stats.sync_waiters
    gate = files.gates["fdatasync"] = threading.Event()
    running = log.append(publisher.batch(b"running"))
    await asyncio.sleep(0.02)
    waiting = [log.append(publisher.batch(payload(n))) for n in range(100)]
    await asyncio.sleep(0.02)
    gate.set()
    await asyncio.gather(*(ticket.done for ticket in (running, *waiting)))
    assert files.calls["fdatasync"] - before[0] == 2
    assert storage.stats.sync_waiters - before[1] == 101
    assert calls == [1, 2, 102]


async def test_every_reader_gets_the_same_bytes(log: Log) -> None:
    await fill(log, 5)
    one, two = log.cached(2, 300), log.cached(2, 300)
    assert one is not None
    assert two is not None
    assert [b.first_id for b in one] == [2, 3]
    assert all(a.payload is b.payload for a, b in zip(one, two, strict=True))


async def test_reading_begins_inside_a_batch(log: Log) -> None:
    publisher = Publisher(log)
    for _ in range(3):
        log.append(publisher.batch(b"x" * 10, count=10))
    await log.flush()
    for position in (10, 15, 19):
        cached = log.cached(position, 1)
        assert cached == await log.load(position, 1)
        assert cached is not None
        assert [b.first_id for b in cached] == [10]
    assert log.cached(30, 1) == await log.load(30, 1) == []
    assert log.cached(99, 1) == []


async def test_everything_is_there_after_a_restart(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        log = await storage.logs.open("events")
        await fill(log, 50)
        batches = await everything(log)
        sums, state = log.sums, log.publisher("producer")
    assert len(segments(tmp_path / "data")) > 5
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        log = await storage.logs.open("events", create=False)
        assert (log.first_id, log.next_id, log.assigned_id) == (0, 50, 50)
        assert log.recovery.truncated_bytes == 0
        assert await everything(log) == batches
        assert [b.payload for b in batches] == [payload(n) for n in range(50)]
        assert (log.sums, log.publisher("producer")) == (sums, state)
        await fill(log, 10, first=50)
        assert [b.first_id for b in await everything(log)] == list(range(60))


async def test_sums_before_each_batch_are_those_after_the_one_before(
    log: Log,
) -> None:
    await fill(log, 4)
    batches = await everything(log)
    sums = batches[0].sums_before
    assert sums.bytes == 0
    for batch in batches:
        assert batch.sums_before == sums
        sums = sums.extended(batch.payload[:4], batch.payload)
    assert log.sums == sums


async def test_publisher_continues_where_it_was_after_a_restart(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        log = await storage.logs.open("events")
        one, two = Publisher(log, "one"), Publisher(log, "two", epoch=7)
        log.append(one.batch(b"x", count=3))
        log.append(two.batch(b"y"))
        await fill(log, 40)  # leaves both behind in older segments
        log.append(two.batch(b"z"))
        await log.flush()
        sums = two.sums
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        log = await storage.logs.open("events")
        assert log.publisher("nobody") is None
        state = log.publisher("one")
        assert state is not None
        assert (state.epoch, state.position, state.log_position) == (1, 3, 3)
        state = log.publisher("two")
        assert state is not None
        assert (state.epoch, state.position, state.log_position) == (7, 2, 45)
        assert state.sums == sums
        with pytest.raises(ValueError, match="does not follow"):
            log.append(Publisher(log, "two", epoch=7, position=1).batch(b"again"))


async def test_older_epoch_of_a_publisher_is_fenced(
    log: Log, files: FaultyFiles
) -> None:
    old = Publisher(log)
    gate = files.gates["fdatasync"] = threading.Event()
    log.append(old.batch(b"event"))
    takeover = asyncio.ensure_future(log.takeover("producer"))
    await asyncio.sleep(0.02)
    assert not takeover.done()
    gate.set()
    assert await takeover == 2
    with pytest.raises(Fenced):
        log.append(old.batch(b"late"))
    await log.append(Publisher(log, epoch=2, position=1).batch(b"next"))
    assert await log.takeover("newcomer") == 1
    await log.append(Publisher(log, "newcomer").batch(b"hello"))


async def test_publishers_beyond_the_limit_are_forgotten_least_recent_first(
    tmp_path: Path, clock: Clock
) -> None:
    options = replace(SMALL, publishers=3)
    for _ in range(2):  # the second time from the disk
        async with Storage.open(tmp_path / "data", options, clock=clock) as storage:
            log = await storage.logs.open("events")
            if not log.next_id:
                one = Publisher(log, "one")
                for name in ("one", "two", "three", "one", "four"):
                    publisher = one if name == "one" else Publisher(log, name)
                    log.append(publisher.batch(payload(0, 700)))
                await log.flush()
            known = [n for n in ("one", "two", "three", "four") if log.publisher(n)]
            assert known == ["one", "three", "four"]


async def test_wrong_checksum_or_empty_batch_is_refused(log: Log) -> None:
    batch = Publisher(log).batch(b"event")
    for wrong in (
        msgspec.structs.replace(batch, payload_crc=1),
        msgspec.structs.replace(batch, count=0),
    ):
        with pytest.raises(ValueError, match="a batch needs"):
            log.append(wrong)
    assert log.assigned_id == 0


@pytest.mark.parametrize("cut", [1, 50, 111, 112, 150, 319])
async def test_torn_tail_is_cut_off(
    tmp_path: Path, clock: Clock, log: Log, cut: int
) -> None:
    await fill(log, 10)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    size = newest(copy).stat().st_size
    os.truncate(newest(copy), size - cut)
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        again = await storage.logs.open("events")
        assert again.next_id == 9
        record = size - newest(copy).stat().st_size
        assert again.recovery.truncated_bytes == record - cut
        state = again.publisher("producer")
        assert state is not None
        assert state.position == 9
        await fill(again, 5, first=9)
        assert [b.payload for b in await everything(again)] == [
            payload(n) for n in range(14)
        ]


@pytest.mark.parametrize("garbage", [b"\0" * 500, b"AcB1" * 100, os.urandom(3000)])
async def test_garbage_at_the_end_is_cut_off(
    tmp_path: Path, clock: Clock, log: Log, garbage: bytes
) -> None:
    await fill(log, 3)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    with newest(copy).open("ab") as file:
        file.write(garbage)
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        again = await storage.logs.open("events")
        assert again.next_id == 3
        assert again.recovery.truncated_bytes == len(garbage)
        await fill(again, 1, first=3)


async def test_pages_of_the_last_group_may_be_lost_in_any_order(
    tmp_path: Path, clock: Clock, log: Log
) -> None:
    await fill(log, 3)
    begin = newest(tmp_path / "data").stat().st_size
    await fill(log, 6, first=3)  # one group, not acknowledged in this crash
    copy = crash(tmp_path / "data", tmp_path / "copy")
    with newest(copy).open("r+b") as file:
        file.seek(begin + 400)
        file.write(b"\0" * 300)  # later records are whole
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        again = await storage.logs.open("events")
        assert again.next_id == 4


async def test_damage_to_acknowledged_events_is_an_error(
    tmp_path: Path, clock: Clock, log: Log
) -> None:
    for number in range(6):
        await fill(log, 1, first=number)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    with newest(copy).open("r+b") as file:
        file.seek(700)
        file.write(b"??")
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        with pytest.raises(Corrupt) as corrupt:
            await storage.logs.open("events")
        assert corrupt.value.path == newest(copy)
        assert corrupt.value.offset <= 700


async def test_published_bytes_cannot_pose_as_a_record(
    tmp_path: Path, clock: Clock, storage: Storage, log: Log
) -> None:
    """A forged record behind a torn one must not look like damage."""
    other = await storage.logs.open("other")
    for number in range(30):
        await fill(other, 1, first=number)
    (stolen,) = (
        path for path in segments(tmp_path / "data")
        if path.stat().st_size > 3000
    )  # fmt: skip
    await fill(log, 3)
    await log.append(Publisher(log, "evil").batch(stolen.read_bytes()))
    copy = crash(tmp_path / "data", tmp_path / "copy")
    target = copy / "logs" / log.record.log_id / f"{0:020}.log"
    with target.open("r+b") as file:
        file.seek(target.stat().st_size - stolen.stat().st_size - 50)
        file.write(b"??")
    async with Storage.open(copy, OPTIONS, clock=clock) as again:
        assert (await again.logs.open("events")).next_id == 3


async def test_damaged_payload_is_found_when_it_is_read(
    tmp_path: Path, clock: Clock
) -> None:
    data = tmp_path / "data"
    async with Storage.open(data, SMALL, clock=clock) as storage:
        await fill(await storage.logs.open("events"), 50)
    first = segments(data)[0]
    with first.open("r+b") as file:
        file.seek(first.stat().st_size - 10)
        file.write(b"?")
    async with Storage.open(data, SMALL, clock=clock) as storage:
        log = await storage.logs.open("events")
        with pytest.raises(Corrupt, match="wrong checksum"):
            await everything(log)
        segments(data)[1].unlink()
        with pytest.raises(Corrupt, match="missing"):
            await log.load(10, 1000)


@pytest.mark.parametrize("left", [0, 20, 130])
async def test_segment_that_was_being_begun_is_removed(
    tmp_path: Path, clock: Clock, left: int
) -> None:
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        await fill(await storage.logs.open("events"), 20)
        data = crash(tmp_path / "data", tmp_path / "copy")
    os.truncate(newest(data), left)
    expected = int(newest(data).stem)
    async with Storage.open(data, SMALL, clock=clock) as storage:
        log = await storage.logs.open("events")
        assert log.next_id == expected
        assert log.recovery.truncated_bytes == left
        await fill(log, 20, first=expected)
        assert len(await everything(log)) == expected + 20


async def test_segment_before_a_torn_one_must_be_whole(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        await fill(await storage.logs.open("events"), 20)
        data = crash(tmp_path / "data", tmp_path / "copy")
    last, before = segments(data)[:-3:-1]
    os.truncate(last, 0)
    os.truncate(before, before.stat().st_size - 1)
    async with Storage.open(data, SMALL, clock=clock) as storage:
        with pytest.raises(Corrupt):
            await storage.logs.open("events")


async def test_only_segment_without_a_checkpoint(tmp_path: Path, clock: Clock) -> None:
    """At id 0 nothing was ever acknowledged; anywhere else something is gone."""
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        await fill(await storage.logs.open("events"), 3)
        data = crash(tmp_path / "data", tmp_path / "copy")
    os.truncate(newest(data), 0)
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        log = await storage.logs.open("events")
        assert log.next_id == 0
        await fill(log, 3)
        data = crash(data, tmp_path / "another")
    os.truncate(newest(data), 0)
    newest(data).rename(newest(data).with_stem(f"{7:020}"))
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        with pytest.raises(Corrupt, match="no checkpoint"):
            await storage.logs.open("events")


async def test_failed_sync_fails_all_that_waits_until_recovered(
    storage: Storage, log: Log, files: FaultyFiles
) -> None:
    await fill(log, 2)
    notified: list[int] = []
    log.watch(lambda: notified.append(log.next_id))
    gate = files.gates["fdatasync"] = threading.Event()
    files.fail["fdatasync"] = errno.EIO
    publisher = Publisher(log, position=2)
    tickets = [log.append(publisher.batch(payload(2)))]
    await asyncio.sleep(0.02)
    tickets += [log.append(publisher.batch(payload(n))) for n in range(3, 6)]
    gate.set()
    results = await asyncio.gather(*(t.done for t in tickets), return_exceptions=True)
    assert all(isinstance(result, StoreFailed) for result in results)
    assert (log.next_id, notified) == (2, [])
    assert log.failure is not None
    with pytest.raises(StoreFailed):
        log.append(publisher.batch(b"no"))
    with pytest.raises(StoreFailed):
        await log.flush()
    with pytest.raises(StoreFailed):
        await log.recover()  # the disk fails still
    with pytest.raises(StoreFailed):
        log.append(publisher.batch(b"no"))
    files.fail.clear()
    assert await storage.logs.open("events") is log
    assert log.failure is None
    # The first of them reached the disk after all; its publisher is told so.
    state = log.publisher("producer")
    assert state is not None
    assert state.position == log.next_id == log.assigned_id == 3
    assert notified == [3]
    await fill(log, 3, first=3)
    assert len(await everything(log)) == 6


async def test_events_lost_after_they_were_visible_are_counted(
    tmp_path: Path, log: Log, files: FaultyFiles
) -> None:
    await fill(log, 2)
    await fill(log, 2, first=2)
    with newest(tmp_path / "data").open("r+b") as file:
        file.truncate(newest(tmp_path / "data").stat().st_size - 1)
    recovery = await log.recover()
    assert recovery.lost_events == 1
    assert log.recovery == recovery
    assert log.next_id == 3
    assert log.cached(3, 100) == []


async def test_epoch_given_out_survives_a_recovery(log: Log) -> None:
    old = Publisher(log)
    await log.append(old.batch(b"event"))
    assert await log.takeover("producer") == 2
    assert await log.takeover("other") == 1
    await log.recover()
    with pytest.raises(Fenced):
        log.append(old.batch(b"late"))
    assert await log.takeover("other") == 2


async def test_full_disk_fails_appends_and_service_returns_with_space(
    storage: Storage, log: Log, files: FaultyFiles
) -> None:
    await fill(log, 1)
    files.space = 10
    publisher = Publisher(log, position=1)
    with pytest.raises(StorageFull):
        await log.append(publisher.batch(b"event"))
    with pytest.raises(StorageFull):
        log.append(publisher.batch(b"event"))
    files.space = None
    files.fail["pwritev"] = errno.ENOSPC
    await storage.logs.open("events")
    with pytest.raises(StorageFull):
        await log.append(Publisher(log, position=1).batch(b"event"))
    files.fail.clear()
    await storage.logs.open("events")
    files.short_writes = True
    await fill(log, 5, first=1)
    assert len(await everything(log)) == 6


async def test_defect_while_writing_reaches_whoever_waits(
    log: Log, files: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(files, "pwritev", broken)
    with pytest.raises(StoreFailed, match="a defect"):
        await log.append(Publisher(log).batch(b"event"))


async def test_many_small_batches_are_found_through_the_index(
    tmp_path: Path, clock: Clock
) -> None:
    options = replace(OPTIONS, tail_budget=0, segment_size=2**20)
    data = tmp_path / "data"
    async with Storage.open(data, options, clock=clock) as storage:
        log = await storage.logs.open("events")
        publisher = Publisher(log)
        for number in range(6000):
            clock.now = 1000 + number // 10
            log.append(publisher.batch(payload(number, 300)))
        await log.flush()
    async with Storage.open(data, options, clock=clock) as storage:
        log = await storage.logs.open("events")
        for position in (5999, 0, 3000, 2999, 2500, 5200, 1):
            (batch,) = await log.load(position, 1)
            assert batch.payload == payload(position, 300)
            assert await log.find_by_time(batch.time) == position // 10 * 10
        assert await log.find_by_time(0) == 0
        assert await log.find_by_time(10**15) == 6000
        assert await log.find_by_time(1_000_001) == 10


@pytest.mark.parametrize("by_time", [False, True], ids=["by id", "by time"])
async def test_a_segment_may_grow_while_it_is_read(
    log: Log, clock: Clock, files: FaultyFiles, by_time: bool
) -> None:
    await fill(log, 2)
    gate = files.gates["preadv"] = threading.Event()
    # Of all times there are, so that the search passes every record.
    later = int(clock.now * 1000) + 1

    async def read() -> int:
        if by_time:
            return await log.find_by_time(later)
        return (await log.load(0, 2000))[-1].next_id

    reading = asyncio.create_task(read())
    while not files.calls["preadv"]:
        await asyncio.sleep(0.001)
    await fill(log, 2, first=2)

    gate.set()

    assert await asyncio.wait_for(reading, 10) == 2


async def test_time_never_goes_back(log: Log, clock: Clock) -> None:
    publisher = Publisher(log)
    log.append(publisher.batch(b"one"))
    clock.now -= 500
    log.append(publisher.batch(b"two"))
    await log.flush()
    one, two = await everything(log)
    assert one.time == two.time


async def test_empty_log(log: Log) -> None:
    assert (log.first_id, log.next_id, log.size) == (0, 0, 0)
    assert log.cached(0, 1) == []
    assert await log.load(0, 1) == []
    assert await log.find_by_time(0) == 0


async def test_watchers_are_called_once_a_group_and_a_bad_one_hurts_nobody(
    log: Log,
) -> None:
    calls: list[str] = []
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )

    def bad() -> None:
        calls.append("bad")
        log.unwatch(bad)
        raise RuntimeError

    def good() -> None:
        calls.append("good")

    log.watch(bad)
    log.watch(good)
    log.watch(good)
    await fill(log, 10)
    assert calls == ["bad", "good"]
    assert len(reported) == 1
    log.unwatch(good)
    log.unwatch(good)
    await fill(log, 1, first=10)
    assert calls == ["bad", "good"]


async def test_kinds_keep_their_numbers(
    tmp_path: Path, storage: Storage, log: Log, clock: Clock
) -> None:
    assert await log.add_kinds(["token", "log"]) == [1, 2]
    both = await asyncio.gather(
        log.add_kinds(["log", "frame"]), log.add_kinds(["audio", "token"])
    )
    assert list(both) == [[2, 3], [4, 1]]
    assert log.record.kinds == ("token", "log", "frame", "audio")
    copy = crash(tmp_path / "data", tmp_path / "copy")
    async with Storage.open(copy, OPTIONS, clock=clock) as other:
        again = await other.logs.open("events")
        assert await again.add_kinds(["audio"]) == [4]
    with pytest.raises(Unsupported):
        await log.add_kinds([str(n) for n in range(240)])
    assert len(log.record.kinds) == 4


async def test_sealed_log_takes_no_more_and_keeps_its_first_outcome(
    storage: Storage, log: Log, files: FaultyFiles
) -> None:
    publisher = Publisher(log)
    gate = files.gates["fdatasync"] = threading.Event()
    ticket = log.append(publisher.batch(b"last"))
    sealing = asyncio.ensure_future(log.seal(b"completed"))
    await asyncio.sleep(0.02)
    with pytest.raises(Sealed):
        log.append(publisher.batch(b"late"))
    notified: list[bytes | None] = []
    log.watch(lambda: notified.append(log.record.sealed))
    gate.set()
    assert await sealing == b"completed"
    assert ticket.done.done()
    assert notified[-1] == b"completed"
    assert await log.seal(b"failed") == b"completed"
    assert await storage.logs.seal("events", b"failed") == b"completed"
    with pytest.raises(Sealed) as sealed:
        log.append(publisher.batch(b"late"))
    assert sealed.value.outcome == b"completed"


async def test_seal_that_cannot_be_stored_leaves_the_log_open(
    storage: Storage, log: Log, files: FaultyFiles
) -> None:
    files.fail["fdatasync"] = errno.EIO
    log.append(Publisher(log).batch(b"event"))
    with pytest.raises(StoreFailed):
        await log.seal(b"completed")
    files.fail.clear()
    await storage.logs.open("events")
    await fill(log, 1, first=log.next_id)
    assert log.record.sealed is None


async def test_reader_of_a_trimmed_position_is_told_where_the_log_begins(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", SMALL, clock=clock) as storage:
        await storage.logs.configure(
            "events", retention_seconds=None, retention_bytes=3000
        )
        log = await storage.logs.open("events")
        await fill(log, 10, size=2**19)
        assert await storage.logs.trim() > 0
        assert log.first_id > 0
        assert log.cached(0, 1) is None
        with pytest.raises(PositionTrimmed) as trimmed:
            await log.load(0, 1)
        assert trimmed.value.first_id == log.first_id
        assert await everything(log)


async def test_deleted_log_is_gone_for_everybody(
    storage: Storage, log: Log, tmp_path: Path
) -> None:
    await fill(log, 3)
    told: list[bool] = []
    log.watch(lambda: told.append(log.deleted))
    await storage.logs.delete("events")
    assert told == [True]
    assert segments(tmp_path / "data") == []
    with pytest.raises(NotFound):
        await log.load(0, 1)
    with pytest.raises(NotFound):
        await log.recover()
    with pytest.raises(NotFound):
        log.append(Publisher(log).batch(b"event"))
    with pytest.raises(NotFound):
        await storage.logs.open("events", create=False)
    with pytest.raises(NotFound):
        await storage.logs.delete("events")
    again = await storage.logs.open("events")
    assert again.record.generation != log.record.generation
    await fill(again, 1)
