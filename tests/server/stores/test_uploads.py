from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sqlite3
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.values import Durability, Existing
from ackline.server.stores import upload_rows
from ackline.server.stores.errors import (
    ChecksumConflict,
    Corrupt,
    DigestMismatch,
    Ended,
    Fenced,
    SizeMismatch,
    StorageFull,
    StoreFailed,
)
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import (
    CHUNK,
    Clock,
    crash,
    parameters,
    pieces,
    put,
    put_all,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.server.stores.entities import ObjectRecord
    from ackline.server.stores.seams import Upload
    from tests.server.stores.support import FaultyFiles

OPTIONS = StorageOptions(reserve=0)
DATA = os.urandom(4 * CHUNK + 100)


@pytest.fixture
async def storage(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> AsyncIterator[Storage]:
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        yield storage


@pytest.fixture
async def upload(storage: Storage) -> Upload:
    return await storage.chunks.create(parameters())


class SlowConnection(sqlite3.Connection):
    """A connection whose COMMIT waits for a gate."""

    gate = threading.Event()
    gate.set()

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            assert self.gate.wait(10)
        return super().execute(sql, *arguments)


def outcome(record: ObjectRecord) -> bytes:
    return b"completed " + record.object_id.encode()


def file_of(tmp_path: Path, upload: Upload) -> Path:
    return tmp_path / "data" / "objects" / upload.record.upload_id


async def reloaded(folder: Path, upload: Upload, clock: Clock) -> tuple[int, list[int]]:
    """Return position and lost chunks as a server that starts finds them."""
    async with Storage.open(folder, OPTIONS, clock=clock) as storage:
        again = await storage.chunks.load(upload.record.upload_id)
        return again.position, again.lost_chunks


async def test_stored_chunks_in_any_order(upload: Upload) -> None:
    chunks = pieces(DATA)
    for index in (3, 0, 1):
        await put(upload, index, chunks[index])
    assert upload.position == 2
    assert upload.ranges_beyond == [(3, 4)]
    assert upload.bytes_stored == 3 * CHUNK
    assert upload.prefix_bytes == 2 * CHUNK
    assert upload.prefix_crc == crc32c(DATA[: 2 * CHUNK])
    assert upload.chunk(3) == (CHUNK, crc32c(chunks[3]))
    assert upload.chunk(2) is None


async def test_stored_chunk_survives_a_crash_right_after(
    storage: Storage, upload: Upload, tmp_path: Path, clock: Clock
) -> None:
    for index, chunk in enumerate(pieces(DATA)[:3]):
        await put(upload, index, chunk)
        copy = crash(tmp_path / "data", tmp_path / f"copy {index}")
        assert await reloaded(copy, upload, clock) == (index + 1, [])


async def test_promise_waits_for_bytes_and_name(
    upload: Upload, files: FaultyFiles
) -> None:
    bytes_gate = files.gates["fdatasync"] = threading.Event()
    name_gate = files.gates["sync_directory"] = threading.Event()
    store = asyncio.ensure_future(put(upload, 0, DATA[:CHUNK]))
    for gate in (bytes_gate, name_gate):
        await asyncio.sleep(0.03)
        assert not store.done()
        assert upload.position == 0
        gate.set()
    await store
    assert upload.position == 1
    named = files.calls["sync_directory"]
    await put(upload, 1, DATA[CHUNK : 2 * CHUNK])
    assert files.calls["sync_directory"] == named


async def test_promise_waits_for_the_record(tmp_path: Path, clock: Clock) -> None:
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, factory=SlowConnection
    ) as storage:
        upload = await storage.chunks.create(parameters())
        SlowConnection.gate.clear()
        store = asyncio.ensure_future(put(upload, 0, DATA[:CHUNK]))
        await asyncio.sleep(0.05)
        assert not store.done()
        assert upload.position == 0
        SlowConnection.gate.set()
        await store


async def test_cancelled_store_is_complete_or_has_not_begun(
    storage: Storage, upload: Upload, files: FaultyFiles
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    store = asyncio.ensure_future(put(upload, 0, DATA[:CHUNK]))
    await asyncio.sleep(0.03)
    store.cancel()
    await asyncio.sleep(0.03)
    assert not store.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await store
    assert upload.position == 1
    # What a failed sync leaves is not trusted either, though nobody waited for it.
    files.fail["fdatasync"] = errno.EIO
    gate.clear()
    store = asyncio.ensure_future(put(upload, 1, DATA[CHUNK : 2 * CHUNK]))
    await asyncio.sleep(0.03)
    store.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await store
    files.fail.clear()
    await storage.chunks.release(upload.record.upload_id)
    before = files.calls["preadv"]
    again = await storage.chunks.load(upload.record.upload_id)
    assert files.calls["preadv"] > before
    assert again.position == 2


async def test_chunks_stored_at_a_time_share_syncs(
    storage: Storage, files: FaultyFiles
) -> None:
    upload = await storage.chunks.create(parameters())
    before = storage.stats
    gate = files.gates["fdatasync"] = threading.Event()
    stores = [
        asyncio.ensure_future(put(upload, index, bytes([index]) * CHUNK))
        for index in range(40)
    ]
    while files.calls["pwritev"] < 40:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    gate.set()
    await asyncio.gather(*stores)
    after = storage.stats
    assert after.sync_waiters - before.sync_waiters >= 40
    assert after.syncs - before.syncs <= 12
    assert after.transactions - before.transactions <= 20
    assert upload.position == 40


async def test_written_durability_does_not_sync(
    storage: Storage, files: FaultyFiles
) -> None:
    upload = await storage.chunks.create(parameters(durability=Durability.WRITTEN))
    before = files.calls["fdatasync"]
    await put_all(upload, DATA)
    assert files.calls["fdatasync"] == before
    await upload.commit(len(DATA), epoch=1, outcome=outcome)
    assert files.calls["fdatasync"] == before + 1


@pytest.mark.parametrize(
    ("cache_uploads", "algorithm", "size", "dropped"),
    [
        (False, "crc32c", 2**20, 2),
        (False, "crc32c", 2**20 - 1, 0),
        (False, "sha256", 2**20, 0),  # it reads them once more
        (True, "crc32c", 2**20, 0),
    ],
)
async def test_large_chunks_leave_the_cache_if_so_configured(
    tmp_path: Path,
    clock: Clock,
    files: FaultyFiles,
    cache_uploads: bool,
    algorithm: str,
    size: int,
    dropped: int,
) -> None:
    options = replace(OPTIONS, cache_uploads=cache_uploads)
    data = os.urandom(2 * size)
    async with Storage.open(
        tmp_path / "data", options, clock=clock, files=files
    ) as storage:
        upload = await storage.chunks.create(
            parameters(chunk_size=size, digest_algorithm=algorithm)
        )
        await put_all(upload, data)
        assert files.calls["drop_cache"] == dropped
        await upload.commit(len(data), epoch=1, outcome=outcome, crc=crc32c(data))
    assert file_of(tmp_path, upload).read_bytes() == data


async def test_a_folder_in_memory_is_written_without_threads_or_allocation(
    tmp_path: Path, clock: Clock, files: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.of_memory = True
    writers: set[threading.Thread] = set()
    pwritev = files.pwritev

    def written(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        writers.add(threading.current_thread())
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(files, "pwritev", written)
    size = 5 * 2**19
    data = os.urandom(2 * size)
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        upload = await storage.chunks.create(
            parameters(chunk_size=size, total_size=len(data))
        )
        assert files.calls["allocate"] == 0
        writers.clear()
        files.calls.clear()
        assert upload.in_memory
        for index in range(2):
            chunk = memoryview(data)[index * size :][:size]
            for at in range(0, size, 2**19):
                upload.write_part(index, at, chunk[at : at + 2**19], epoch=1)
            assert upload.position == index  # written, and not yet promised
            await upload.store(
                index, b"", crc32c(chunk), epoch=1, length=size, offset=size
            )
        assert files.calls["pwritev"] == 10
        assert writers == {threading.main_thread()}
        upload.write_part(1, 0, b"other", epoch=1)  # changes nothing, as seen below
        with pytest.raises(ValueError, match="outside"):
            upload.write_part(2, size, b"other", epoch=1)
        with pytest.raises(Fenced):
            upload.write_part(2, 0, b"other", epoch=0)
        files.fail["pwritev"] = errno.ENOSPC
        other = await storage.chunks.create(parameters(name="other"))
        with pytest.raises(StorageFull):
            other.write_part(0, 0, data[:CHUNK], epoch=1)
        await upload.commit(len(data), epoch=1, outcome=outcome, crc=crc32c(data))
        with pytest.raises(Ended):
            upload.write_part(0, 0, data[:CHUNK], epoch=1)
    assert file_of(tmp_path, upload).read_bytes() == data


async def test_parked_part_and_rest_make_a_chunk(
    upload: Upload, tmp_path: Path, clock: Clock
) -> None:
    chunk = DATA[:CHUNK]
    await upload.park(0, 0, chunk[:300], epoch=1)
    await upload.park(0, 300, memoryview(chunk)[300:500], epoch=1)
    assert upload.position == 0
    await upload.store(0, chunk[500:], crc32c(chunk), epoch=1, length=CHUNK, offset=500)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    assert await reloaded(copy, upload, clock) == (1, [])


async def test_parking_cannot_damage_what_is_stored(upload: Upload) -> None:
    await put(upload, 0, DATA[:CHUNK])
    with pytest.raises(ValueError, match="overwrite"):
        await upload.park(0, 0, b"other", epoch=1)
    with pytest.raises(ValueError, match="outside"):
        await upload.park(1, CHUNK - 1, b"xx", epoch=1)


async def test_chunk_again_is_no_change_and_other_bytes_a_conflict(
    upload: Upload, tmp_path: Path
) -> None:
    chunk = DATA[:CHUNK]
    await put(upload, 0, chunk)
    await put(upload, 0, chunk)
    with pytest.raises(ChecksumConflict) as conflict:
        await put(upload, 0, b"x" * CHUNK)
    assert conflict.value.stored == crc32c(chunk)
    assert file_of(tmp_path, upload).read_bytes() == chunk
    assert upload.position == 1


async def test_chunk_twice_at_a_time_is_decided_by_the_first(
    upload: Upload, tmp_path: Path
) -> None:
    chunk = DATA[:CHUNK]
    results = await asyncio.gather(
        put(upload, 0, chunk),
        put(upload, 0, b"x" * CHUNK),
        put(upload, 0, chunk),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        type(None), ChecksumConflict, type(None)
    ]  # fmt: skip
    assert file_of(tmp_path, upload).read_bytes() == chunk


async def test_impossible_chunks_are_refused(storage: Storage) -> None:
    upload = await storage.chunks.create(parameters(total_size=2500))
    with pytest.raises(ValueError, match="chunk 2"):
        await put(upload, 2, b"x" * CHUNK)
    with pytest.raises(ValueError, match="needs 1024 more bytes"):
        await upload.store(0, b"short", 0, epoch=1, length=CHUNK)
    assert upload.position == 0


async def test_damaged_chunk_is_dropped_and_named_when_loaded(
    upload: Upload, tmp_path: Path, clock: Clock
) -> None:
    await put_all(upload, DATA)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    path = copy / "objects" / upload.record.upload_id
    with path.open("r+b") as file:
        file.seek(2 * CHUNK + 7)
        file.write(bytes([DATA[2 * CHUNK + 7] ^ 1]))
        file.truncate(4 * CHUNK + 99)
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        again = await storage.chunks.load(upload.record.upload_id)
        assert again.lost_chunks == [2, 4]
        assert again.position == 2
        assert again.ranges_beyond == [(3, 4)]
        for index in (2, 4):
            await put(again, index, pieces(DATA)[index])
        record = await again.commit(len(DATA), epoch=1, outcome=outcome)
        assert record.crc32c == crc32c(DATA)


async def test_lost_file_loses_all_chunks(
    upload: Upload, tmp_path: Path, clock: Clock
) -> None:
    await put_all(upload, DATA)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    (copy / "objects" / upload.record.upload_id).unlink()
    assert await reloaded(copy, upload, clock) == (0, [0, 1, 2, 3, 4])
    assert await reloaded(copy, upload, clock) == (0, [])


async def test_larger_chunks_are_verified_in_steps(
    storage: Storage, tmp_path: Path, clock: Clock
) -> None:
    size = 3 * 2**20
    upload = await storage.chunks.create(parameters(chunk_size=size))
    data = os.urandom(3 * size + 1)
    await put_all(upload, data)
    copy = crash(tmp_path / "data", tmp_path / "copy")
    assert await reloaded(copy, upload, clock) == (4, [])


async def test_full_disk_while_storing_changes_nothing(
    upload: Upload, files: FaultyFiles
) -> None:
    files.fail["pwritev"] = errno.ENOSPC
    with pytest.raises(StorageFull):
        await put(upload, 0, DATA[:CHUNK])
    assert upload.failure is None
    files.fail.clear()
    files.short_writes = True
    await put_all(upload, DATA)
    assert upload.position == 5


async def test_nothing_is_taken_after_a_failed_sync_before_it_is_loaded(
    storage: Storage, upload: Upload, files: FaultyFiles, clock: Clock
) -> None:
    await put(upload, 0, DATA[:CHUNK])
    files.fail["fdatasync"] = errno.EIO
    with pytest.raises(StoreFailed):
        await put(upload, 1, DATA[CHUNK : 2 * CHUNK])
    assert upload.failure is not None
    with pytest.raises(StoreFailed):
        await storage.chunks.load(upload.record.upload_id)  # it fails still
    files.fail.clear()
    for index in (0, 1, 2):
        with pytest.raises(StoreFailed):
            await put(upload, index, pieces(DATA)[index])
    again = await storage.chunks.load(upload.record.upload_id)
    assert again is upload
    assert upload.failure is None
    # The second one was recorded, and turned out to be on the disk.
    assert (upload.position, upload.lost_chunks) == (2, [])
    await put_all(upload, DATA)
    await upload.commit(len(DATA), epoch=1, outcome=outcome)


async def test_failed_sync_fails_everybody_who_waited(
    upload: Upload, files: FaultyFiles
) -> None:
    files.fail["fdatasync"] = errno.EIO
    gate = files.gates["fdatasync"] = threading.Event()
    stores = [
        asyncio.ensure_future(put(upload, index, pieces(DATA)[index]))
        for index in range(4)
    ]
    await asyncio.sleep(0.05)
    gate.set()
    results = await asyncio.gather(*stores, return_exceptions=True)
    assert all(isinstance(result, StoreFailed) for result in results)
    assert upload.position == 0


async def test_takeover_fences_older_epochs_after_what_they_began(
    upload: Upload, files: FaultyFiles, storage: Storage
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    running = asyncio.ensure_future(put(upload, 0, DATA[:CHUNK]))
    await asyncio.sleep(0.05)
    takeover = asyncio.ensure_future(upload.takeover())
    await asyncio.sleep(0.05)
    assert not takeover.done()
    with pytest.raises(Fenced) as fenced:
        await upload.store(1, b"x" * CHUNK, 0, epoch=1, length=CHUNK)
    assert (fenced.value.epoch, fenced.value.current) == (1, 2)
    gate.set()
    assert await takeover == 2
    assert running.done()
    await running
    assert upload.position == 1
    with pytest.raises(Fenced):
        await upload.park(1, 0, b"x", epoch=1)
    with pytest.raises(Fenced):
        await upload.commit(CHUNK, epoch=1, outcome=outcome)
    await upload.commit(CHUNK, epoch=2, outcome=outcome)


async def test_epoch_survives_a_restart(
    upload: Upload, tmp_path: Path, clock: Clock
) -> None:
    await upload.takeover()
    await upload.takeover()
    copy = crash(tmp_path / "data", tmp_path / "copy")
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        again = await storage.chunks.load(upload.record.upload_id)
        assert again.record.epoch == 3


async def test_commit_needs_every_chunk_and_the_size(storage: Storage) -> None:
    upload = await storage.chunks.create(parameters())
    chunks = pieces(DATA)
    for index in (0, 1, 3, 4):
        await put(upload, index, chunks[index])
    for size in (len(DATA), len(DATA) - CHUNK, 2 * CHUNK):
        with pytest.raises(SizeMismatch):
            await upload.commit(size, epoch=1, outcome=outcome)
    await put(upload, 2, chunks[2])
    with pytest.raises(SizeMismatch) as mismatch:
        await upload.commit(len(DATA) + 1, epoch=1, outcome=outcome)
    assert (mismatch.value.expected, mismatch.value.actual) == (
        len(DATA) + 1,
        len(DATA),
    )
    await upload.commit(len(DATA), epoch=1, outcome=outcome)


async def test_stated_checksum_is_compared(upload: Upload) -> None:
    await put_all(upload, DATA)
    right = crc32c(DATA)
    with pytest.raises(DigestMismatch) as mismatch:
        await upload.commit(len(DATA), epoch=1, outcome=outcome, crc=right ^ 1)
    assert mismatch.value.actual == right.to_bytes(4, "big")
    assert mismatch.value.expected == (right ^ 1).to_bytes(4, "big")
    await upload.commit(len(DATA), epoch=1, outcome=outcome, crc=right)


async def test_digest_declared_at_open_is_compared(storage: Storage) -> None:
    for algorithm, actual in (
        ("crc32c", crc32c(DATA).to_bytes(4, "big")),
        ("sha256", hashlib.sha256(DATA).digest()),
    ):
        wrong = bytes(len(actual))
        upload = await storage.chunks.create(
            parameters("wrong", digest_algorithm=algorithm, digest=wrong)
        )
        await put_all(upload, DATA)
        with pytest.raises(DigestMismatch) as mismatch:
            await upload.commit(len(DATA), epoch=1, outcome=outcome)
        assert mismatch.value.algorithm == algorithm
        assert (mismatch.value.expected, mismatch.value.actual) == (wrong, actual)
        upload = await storage.chunks.create(
            parameters("right", digest_algorithm=algorithm, digest=actual,
                       existing=Existing.REPLACE)
        )  # fmt: skip
        await put_all(upload, DATA)
        record = await upload.commit(len(DATA), epoch=1, outcome=outcome, digest=actual)
        assert (record.digest_algorithm, record.digest) == (algorithm, actual)


async def test_digest_stated_at_the_end_is_compared(storage: Storage) -> None:
    upload = await storage.chunks.create(parameters(digest_algorithm="sha256"))
    for index, chunk in reversed(list(enumerate(pieces(DATA)))):
        await put(upload, index, chunk)
    with pytest.raises(DigestMismatch):
        await upload.commit(len(DATA), epoch=1, outcome=outcome, digest=b"wrong")
    await upload.commit(
        len(DATA), epoch=1, outcome=outcome, digest=hashlib.sha256(DATA).digest()
    )


async def test_unreadable_bytes_fail_the_digest_and_reading_goes_on_after(
    storage: Storage, files: FaultyFiles
) -> None:
    upload = await storage.chunks.create(parameters(digest_algorithm="sha256"))
    files.fail["preadv"] = errno.EIO
    await put_all(upload, DATA)
    with pytest.raises(StoreFailed):
        await upload.commit(len(DATA), epoch=1, outcome=outcome)
    files.fail.clear()
    record = await upload.commit(len(DATA), epoch=1, outcome=outcome)
    assert record.digest == hashlib.sha256(DATA).digest()


async def test_commit_cuts_what_was_parked_beyond_the_end(
    upload: Upload, tmp_path: Path
) -> None:
    await upload.park(4, 0, b"x" * CHUNK, epoch=1)
    await put_all(upload, DATA)
    await upload.commit(len(DATA), epoch=1, outcome=outcome)
    assert file_of(tmp_path, upload).read_bytes() == DATA


async def test_commit_of_a_file_that_was_cut_is_refused(
    upload: Upload, tmp_path: Path
) -> None:
    await put_all(upload, DATA)
    os.truncate(file_of(tmp_path, upload), 10)
    with pytest.raises(Corrupt):
        await upload.commit(len(DATA), epoch=1, outcome=outcome)


async def test_failed_sync_at_commit_commits_nothing(
    storage: Storage, files: FaultyFiles
) -> None:
    upload = await storage.chunks.create(parameters(durability=Durability.WRITTEN))
    await put_all(upload, DATA)
    files.fail["fdatasync"] = errno.EIO
    with pytest.raises(StoreFailed):
        await upload.commit(len(DATA), epoch=1, outcome=outcome)
    assert await storage.chunks.objects() == []
    files.fail.clear()
    await storage.chunks.load(upload.record.upload_id)
    await upload.commit(len(DATA), epoch=1, outcome=outcome)


async def test_outcome_and_object_appear_together(
    storage: Storage, upload: Upload, tmp_path: Path, clock: Clock
) -> None:
    await put_all(upload, DATA)
    before = crash(tmp_path / "data", tmp_path / "before")
    record = await upload.commit(len(DATA), epoch=1, outcome=outcome)
    after = crash(tmp_path / "data", tmp_path / "after")
    for folder, there in ((before, False), (after, True)):
        async with Storage.open(folder, OPTIONS, clock=clock) as other:
            found = await other.chunks.upload(record.upload_id)
            assert found is not None
            assert (found.outcome is not None) is there
            assert (await other.chunks.object("video.mp4") is not None) is there
            assert other.stats.leftovers == 0


async def test_first_outcome_stands(storage: Storage, upload: Upload) -> None:
    await put_all(upload, DATA)
    record = await upload.commit(len(DATA), epoch=1, outcome=outcome)
    expected = outcome(record)
    assert await upload.abort(b"cancelled") == expected
    assert await storage.chunks.abort(record.upload_id, b"cancelled") == expected
    assert await storage.chunks.object("video.mp4") == record
    for late in (
        upload.commit(len(DATA), epoch=1, outcome=outcome),
        upload.takeover(),
        put(upload, 9, b"x"),
        storage.chunks.load(record.upload_id),
    ):
        with pytest.raises(Ended) as ended:
            await late
        assert ended.value.outcome == expected


@pytest.mark.parametrize("delay", [0, 0.0005, 0.001, 0.003])
async def test_cancel_racing_completion_has_one_outcome(
    storage: Storage, upload: Upload, delay: float
) -> None:
    await put_all(upload, DATA)
    commit = asyncio.ensure_future(upload.commit(len(DATA), epoch=1, outcome=outcome))
    await asyncio.sleep(delay)
    standing = await upload.abort(b"cancelled")
    (result,) = await asyncio.gather(commit, return_exceptions=True)
    recorded = await storage.chunks.upload(upload.record.upload_id)
    assert recorded is not None
    assert recorded.outcome == standing
    if isinstance(result, BaseException):
        assert isinstance(result, Ended)
        assert standing == b"cancelled"
        assert await storage.chunks.object("video.mp4") is None
    else:
        assert standing == outcome(result)
        assert await storage.chunks.object("video.mp4") == result


async def test_abort_during_a_store_leaves_nothing(
    storage: Storage, upload: Upload, files: FaultyFiles, tmp_path: Path
) -> None:
    await put(upload, 0, DATA[:CHUNK])
    gate = files.gates["pwritev"] = threading.Event()
    store = asyncio.ensure_future(put(upload, 1, DATA[CHUNK : 2 * CHUNK]))
    await asyncio.sleep(0.05)
    abort = asyncio.ensure_future(upload.abort(b"cancelled"))
    await asyncio.sleep(0.05)
    assert not abort.done()
    gate.set()
    assert await abort == b"cancelled"
    with pytest.raises(Ended):
        await store
    assert not file_of(tmp_path, upload).exists()


async def test_outcome_that_cannot_be_recorded_leaves_the_upload_open(
    storage: Storage, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(record: ObjectRecord) -> bytes:
        raise StorageFull

    await put_all(upload, DATA)
    with pytest.raises(StorageFull):
        await upload.commit(len(DATA), epoch=1, outcome=full)
    assert upload.record.outcome is None
    await upload.commit(len(DATA), epoch=1, outcome=outcome)


async def test_a_written_chunk_is_stored_here_and_now_in_memory(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> None:
    files.of_memory = True
    folder = tmp_path / "data"
    async with Storage.open(folder, OPTIONS, clock=clock, files=files) as storage:
        upload = await storage.chunks.create(parameters(durability=Durability.WRITTEN))
        for index, data in enumerate(pieces(DATA)):
            upload.write_part(index, 0, data, epoch=1)
            size = len(data)
            assert not upload.store_now(index, 1, epoch=0, length=size)  # fenced
            assert not upload.store_now(index, 1, epoch=1, length=size + CHUNK)
            assert upload.position == index
            assert upload.store_now(index, crc32c(data), epoch=1, length=size)
            assert upload.position == index + 1
            assert not upload.store_now(index, 1, epoch=1, length=size)  # a conflict?
        after = crash(folder, tmp_path / "killed")
        await upload.commit(
            len(DATA), epoch=1, outcome=outcome, crc=crc32c(DATA), digest=b""
        )
        assert not upload.store_now(9, 1, epoch=1, length=CHUNK)
        synced = await storage.chunks.create(parameters("synced"))
        synced.write_part(0, 0, DATA[:CHUNK], epoch=1)
        assert not synced.store_now(0, crc32c(DATA[:CHUNK]), epoch=1, length=CHUNK)
        assert file_of(tmp_path, upload).read_bytes() == DATA
    async with Storage.open(after, OPTIONS, clock=clock, files=files) as storage:
        found = await storage.chunks.load(upload.record.upload_id)
        assert (found.position, found.prefix_bytes) == (len(pieces(DATA)), len(DATA))
        assert (found.prefix_crc, found.lost_chunks) == (crc32c(DATA), [])


async def test_a_record_that_fails_here_and_now_is_left_to_store(
    tmp_path: Path,
    clock: Clock,
    files: FaultyFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files.of_memory = True
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        upload = await storage.chunks.create(parameters(durability=Durability.WRITTEN))
        data = DATA[:CHUNK]
        upload.write_part(0, 0, data, epoch=1)

        def full(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("disk is full")

        with monkeypatch.context() as failing:
            failing.setattr(upload_rows, "put_chunk", full)
            assert not upload.store_now(0, crc32c(data), epoch=1, length=CHUNK)
        assert upload.position == 0
        await upload.store(0, b"", crc32c(data), epoch=1, length=CHUNK, offset=CHUNK)
        assert upload.position == 1


async def test_cancelled_commit_is_complete_in_memory_too(
    storage: Storage, upload: Upload
) -> None:
    await put_all(upload, DATA)
    commit = asyncio.ensure_future(upload.commit(len(DATA), epoch=1, outcome=outcome))
    await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    recorded = await storage.chunks.upload(upload.record.upload_id)
    assert recorded is not None
    assert recorded.outcome == upload.record.outcome


async def test_many_uploads_at_a_time(storage: Storage) -> None:
    async def one(number: int) -> ObjectRecord:
        upload = await storage.chunks.create(parameters(f"file {number}"))
        await put_all(upload, DATA[number:])
        return await upload.commit(len(DATA) - number, epoch=1, outcome=outcome)

    records = await asyncio.gather(*(one(number) for number in range(60)))
    assert [record.crc32c for record in records] == [
        crc32c(DATA[number:]) for number in range(60)
    ]
    assert len(await storage.chunks.objects()) == 60


@pytest.mark.parametrize("step", ["store", "commit", "abort"])
async def test_an_upload_whose_record_a_failed_sync_took_goes_on(
    storage: Storage, tmp_path: Path, step: str
) -> None:
    upload = await storage.chunks.create(parameters())
    other = sqlite3.connect(tmp_path / "data" / "records.sqlite3")
    other.execute("DELETE FROM uploads")
    other.commit()
    other.close()
    if step == "abort":
        assert await upload.abort(b"outcome") == b"outcome"
        return
    size = CHUNK if step == "store" else 0
    refused = (
        put(upload, 0, bytes(CHUNK))
        if size
        else upload.commit(0, epoch=1, outcome=lambda _: b"outcome")
    )
    with pytest.raises(StoreFailed):
        await refused
    assert await storage.chunks.load(upload.record.upload_id) is upload
    if size:
        await put(upload, 0, bytes(CHUNK))
    await upload.commit(size, epoch=1, outcome=lambda _: b"outcome")
    stored = await storage.chunks.object(upload.record.parameters.name)
    assert stored is not None
    assert stored.size == size
