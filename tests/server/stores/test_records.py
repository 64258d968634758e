from __future__ import annotations

import asyncio
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ackline.server.stores import records as records_module
from ackline.server.stores.errors import StorageFull, StoreFailed
from ackline.server.stores.files import Files
from ackline.server.stores.records import Records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class InMemory(Files):
    """Says of every folder that it is memory."""

    def in_memory(self, path: Path) -> bool:
        return True


FAULTY = "COMMIT", "PRAGMA wal_checkpoint"


class FaultyConnection(sqlite3.Connection):
    """A connection whose COMMIT and checkpoints fail when told to."""

    commit_error: int | None = None

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql.startswith(FAULTY) and FaultyConnection.commit_error is not None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = FaultyConnection.commit_error
            raise error
        return super().execute(sql, *arguments)


@pytest.fixture(autouse=True)
def healthy() -> None:
    FaultyConnection.commit_error = None


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    records = Records(tmp_path / "records.sqlite3", Files(), factory=FaultyConnection)
    await records.run(lambda c: c.execute("CREATE TABLE t (x INTEGER UNIQUE)"))
    yield records
    records.close()


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Records]:
    records = Records(tmp_path / "quick.sqlite3", InMemory(), factory=FaultyConnection)
    await records.run(lambda c: c.execute("CREATE TABLE t (x INTEGER UNIQUE)"))
    yield records
    records.close()


def insert(connection: sqlite3.Connection, value: int) -> int:
    connection.execute("INSERT INTO t VALUES (?)", (value,))
    return value


def values(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


async def test_result_of_the_function_is_returned(records: Records) -> None:
    assert await records.run(lambda c: insert(c, 7)) == 7
    assert await records.run(values) == [7]


async def test_operations_that_wait_share_one_transaction(records: Records) -> None:
    begun, gate = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert gate.wait(10)

    held = asyncio.ensure_future(records.run(hold))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    before = records.transactions, records.operations
    waiting = [
        asyncio.ensure_future(records.run(partial(insert, value=n))) for n in range(50)
    ]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(held, *waiting)
    assert records.transactions - before[0] == 2
    assert records.operations - before[1] == 51
    assert records.commit_seconds > 0


async def test_operations_run_in_the_order_they_were_handed_in(
    records: Records,
) -> None:
    # More than the queue holds, so that some wait for a place.
    await asyncio.gather(
        *(records.run(partial(insert, value=n), synced=False) for n in range(3000))
    )
    assert await records.run(values) == list(range(3000))


async def test_a_failed_operation_undoes_nothing_but_itself(records: Records) -> None:
    def bad(connection: sqlite3.Connection) -> None:
        insert(connection, 2)
        insert(connection, 1)  # is there already

    results = await asyncio.gather(
        records.run(lambda c: insert(c, 1)),
        records.run(bad),
        records.run(lambda c: insert(c, 3)),
        return_exceptions=True,
    )
    assert isinstance(results[1], sqlite3.IntegrityError)
    assert await records.run(values) == [1, 3]


async def test_failed_commit_fails_the_group_and_the_next_one_works(
    records: Records,
) -> None:
    FaultyConnection.commit_error = sqlite3.SQLITE_IOERR
    with pytest.raises(StoreFailed):
        await records.run(lambda c: insert(c, 1))
    FaultyConnection.commit_error = None
    await records.run(lambda c: insert(c, 2))
    assert await records.run(values) == [2]


async def test_nothing_is_moved_to_the_database_after_a_failure(
    records: Records, tmp_path: Path
) -> None:
    """What a failed sync left in the log is not what the disk has of it."""
    await records.checkpoint()
    database = (tmp_path / "records.sqlite3").read_bytes()
    await records.run(lambda c: insert(c, 1))
    FaultyConnection.commit_error = sqlite3.SQLITE_IOERR
    with pytest.raises(StoreFailed):
        await records.run(lambda c: insert(c, 2))
    assert (tmp_path / "records.sqlite3").read_bytes() == database
    FaultyConnection.commit_error = None
    assert await records.run(values) == [1]
    records.close()
    assert (tmp_path / "records.sqlite3").read_bytes() != database
    assert not (tmp_path / "records.sqlite3-wal").exists()


async def test_a_failed_checkpoint_is_told_and_the_next_one_works(
    records: Records, tmp_path: Path
) -> None:
    await records.run(lambda c: insert(c, 1))
    FaultyConnection.commit_error = sqlite3.SQLITE_IOERR
    with pytest.raises(StoreFailed):
        await records.checkpoint()
    FaultyConnection.commit_error = None
    await records.run(lambda c: insert(c, 2))
    await records.checkpoint()
    assert (tmp_path / "records.sqlite3-wal").stat().st_size == 0
    assert await records.run(values) == [1, 2]


async def test_the_write_ahead_log_stays_short(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "_CHECKPOINT_OPERATIONS", 10)
    sizes: list[int] = []
    for number in range(60):
        await records.run(partial(insert, value=number))
        sizes.append((tmp_path / "records.sqlite3-wal").stat().st_size)
    assert sizes[-1] == sizes[20]


async def test_full_disk_is_told_apart(records: Records) -> None:
    FaultyConnection.commit_error = sqlite3.SQLITE_FULL
    with pytest.raises(StorageFull):
        await records.run(lambda c: insert(c, 1))


async def test_unreadable_database_fails_every_operation(tmp_path: Path) -> None:
    records = Records(tmp_path / "no such folder" / "records.sqlite3", Files())
    with pytest.raises(StoreFailed):
        await records.run(values)
    records.close()


async def test_defect_in_the_sql_is_not_taken_for_a_result(records: Records) -> None:
    with pytest.raises(StoreFailed, match="no such table"):
        await records.run(lambda c: c.execute("SELECT * FROM missing"))


async def test_cancelled_caller_does_not_stop_the_others(records: Records) -> None:
    gate = threading.Event()
    held = asyncio.ensure_future(records.run(lambda _: gate.wait(10)))
    cancelled = asyncio.ensure_future(records.run(lambda c: insert(c, 1)))
    other = asyncio.ensure_future(records.run(lambda c: insert(c, 2)))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    gate.set()
    await asyncio.gather(held, other)
    assert await records.run(values) == [1, 2]


async def test_what_is_not_synced_still_survives_the_process(
    records: Records, tmp_path: Path
) -> None:
    await records.run(lambda c: insert(c, 1), synced=False)
    with sqlite3.connect(tmp_path / "records.sqlite3") as other:
        assert values(other) == [1]
    other.close()


async def test_synced_follows_what_the_group_needs(records: Records) -> None:
    def level(connection: sqlite3.Connection) -> int:
        value: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        return value

    assert await records.run(level) == 2
    assert await records.run(level, synced=False) == 1
    assert await records.run(level) == 2


async def test_checkpoint_empties_the_write_ahead_log(
    records: Records, tmp_path: Path
) -> None:
    log = tmp_path / "records.sqlite3-wal"
    await records.run(lambda c: insert(c, 1))
    assert log.stat().st_size > 0
    await asyncio.gather(records.checkpoint(), records.run(lambda c: insert(c, 2)))
    await records.checkpoint()
    assert log.stat().st_size == 0
    assert await records.run(values) == [1, 2]


async def test_closing_finishes_what_was_handed_in(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.sqlite3", Files())
    await records.run(lambda c: c.execute("CREATE TABLE t (x INTEGER)"))
    last = asyncio.ensure_future(records.run(lambda c: insert(c, 1)))
    await asyncio.sleep(0)
    records.close()
    assert await last == 1


async def test_what_comes_after_the_end_is_refused(records: Records) -> None:
    """Nobody would ever do it: whoever waited for it would wait for ever."""
    records.close()
    for coroutine in (records.run(values), records.checkpoint()):
        with pytest.raises(StoreFailed, match="closed"):
            await coroutine


async def test_in_memory_an_operation_may_run_here_and_now(
    quick: Records, tmp_path: Path
) -> None:
    assert quick.free
    assert quick.run_now(lambda c: insert(c, 7)) == 7
    assert threading.current_thread() is quick.run_now(
        lambda _: threading.current_thread()
    )
    with pytest.raises(sqlite3.IntegrityError):
        quick.run_now(lambda c: insert(c, 7))
    assert await quick.run(lambda c: insert(c, 8)) == 8
    with sqlite3.connect(tmp_path / "quick.sqlite3") as other:
        assert values(other) == [7, 8]  # committed: another process has it
    other.close()


async def test_nothing_runs_now_that_would_overtake_or_wait(
    quick: Records, records: Records
) -> None:
    assert not records.free  # its folder is a disk
    gate = threading.Event()
    first = asyncio.ensure_future(quick.run(lambda _: gate.wait(5)))
    await asyncio.sleep(0)
    assert not quick.free
    first.cancel()  # its caller is gone, the thread has it all the same
    await asyncio.wait([first])
    assert not quick.free
    gate.set()
    await quick.run(values)
    assert quick.free


async def test_what_runs_now_leaves_checkpoints_to_the_thread(
    quick: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "_CHECKPOINT_OPERATIONS", 20)
    log = tmp_path / "quick.sqlite3-wal"
    handed_in = 0
    for value in range(200):
        operation = partial(insert, value=value)
        if quick.free:
            quick.run_now(operation)
        else:
            handed_in += 1
            await quick.run(operation)
    assert handed_in == 10
    assert log.stat().st_size < 40 * 3 * 4096
    assert await quick.run(values) == list(range(200))


async def test_a_commit_that_fails_here_and_now_is_told_and_the_thread_goes_on(
    quick: Records,
) -> None:
    FaultyConnection.commit_error = sqlite3.SQLITE_FULL
    with pytest.raises(StorageFull):
        quick.run_now(lambda c: insert(c, 1))
    assert not quick.free  # the thread opens the database again
    FaultyConnection.commit_error = None
    assert await quick.run(values) == []
    assert quick.free


async def test_nothing_runs_now_after_the_end(quick: Records) -> None:
    quick.close()
    assert not quick.free
