from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.values import Existing
from ackline.server.stores import upload_rows
from ackline.server.stores.errors import (
    AlreadyExists,
    Corrupt,
    DigestMismatch,
    Ended,
    NotFound,
    SizeMismatch,
    StorageFull,
    StoreFailed,
    Unsupported,
)
from ackline.server.stores.records import Records
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import (
    CHUNK,
    IDENTITY,
    Clock,
    crash,
    parameters,
    pieces,
    put,
    put_all,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ackline.server.stores.entities import ObjectRecord, UploadRecord
    from ackline.server.stores.seams import ChunkStore
    from tests.server.stores.support import FaultyFiles

OPTIONS = StorageOptions(reserve=0)


@pytest.fixture
async def chunks(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> AsyncIterator[ChunkStore]:
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        yield storage.chunks


def outcome(record: ObjectRecord) -> bytes:
    return f"{record.name} {record.version} {record.size}".encode()


async def add(
    chunks: ChunkStore, data: bytes, name: str = "video.mp4", **changes: Any
) -> ObjectRecord:
    """Upload and commit an object."""
    upload = await chunks.create(parameters(name, **changes))
    await put_all(upload, data)
    return await upload.commit(len(data), epoch=1, outcome=outcome)


async def content(chunks: ChunkStore, object_id: str) -> bytes:
    opened = await chunks.open(object_id)
    buffer = bytearray(opened.record.size + 10)
    count = await opened.read(0, buffer)
    await opened.close()
    return bytes(buffer[:count])


def folder(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data" / "objects").iterdir()}


async def test_committed_object_is_found_and_read(
    chunks: ChunkStore, clock: Clock
) -> None:
    data = os.urandom(3 * CHUNK + 5)
    record = await add(chunks, data, metadata=b"opaque")
    assert (record.name, record.version, record.size) == ("video.mp4", 1, len(data))
    assert record.crc32c == crc32c(data)
    assert record.digest == crc32c(data).to_bytes(4, "big")
    assert (record.identity, record.metadata) == (IDENTITY, b"opaque")
    assert (record.created, record.chunk_size) == (clock.now, CHUNK)
    assert record.waiting_sinks == 0
    assert record.upload_id == record.object_id
    assert await chunks.object("video.mp4") == record
    assert await chunks.object("video.mp4", 1) == record
    assert await chunks.object("video.mp4", 2) is None
    assert await chunks.object_by_id(record.object_id) == record
    assert await content(chunks, record.object_id) == data
    assert await chunks.chunk_crcs(record.object_id) == [
        crc32c(chunk) for chunk in pieces(data)
    ]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
@pytest.mark.parametrize("known", [True, False])
async def test_sizes_around_chunk_edges(
    chunks: ChunkStore, size: int, known: bool
) -> None:
    data = os.urandom(size)
    record = await add(chunks, data, total_size=size if known else None)
    assert record.crc32c == crc32c(data)
    assert await content(chunks, record.object_id) == data


async def test_object_is_read_from_any_offset(chunks: ChunkStore) -> None:
    data = os.urandom(5000)
    record = await add(chunks, data)
    opened = await chunks.open(record.object_id)
    assert opened.path is not None
    assert opened.path.read_bytes() == data
    buffer = bytearray(1000)
    counts = await asyncio.gather(opened.read(4500, buffer), opened.read(6000, buffer))
    assert list(counts) == [500, 0]
    assert buffer[:500] == data[4500:]
    await opened.close()
    await opened.close()
    with pytest.raises(ValueError, match="closed"):
        await opened.read(0, buffer)


async def test_missing_things_are_none_or_not_found(chunks: ChunkStore) -> None:
    assert await chunks.object("nothing") is None
    assert await chunks.object_by_id("nothing") is None
    assert await chunks.upload("nothing") is None
    assert await chunks.find(IDENTITY, "video.mp4", "key") is None
    for missing in (
        chunks.open("nothing"),
        chunks.load("nothing"),
        chunks.delete("nothing"),
        chunks.chunk_crcs("nothing"),
        chunks.abort("nothing", b"cancelled"),
    ):
        with pytest.raises(NotFound):
            await missing


async def test_upload_is_found_by_its_key_while_open_and_ended(
    chunks: ChunkStore, clock: Clock
) -> None:
    of = parameters(key="key", parameters_hash=b"hash", total_size=10)
    upload = await chunks.create(of)
    found = await chunks.find(IDENTITY, "video.mp4", "key")
    assert found == upload.record
    assert found is not None
    assert (found.parameters, found.epoch, found.created) == (of, 1, clock.now)
    assert found.generation == int(found.upload_id[:16], 16)
    assert await chunks.find("bob", "video.mp4", "key") is None
    assert await chunks.find(IDENTITY, "other.mp4", "key") is None
    with pytest.raises(AlreadyExists):
        await chunks.create(of)
    await upload.abort(b"cancelled")
    found = await chunks.find(IDENTITY, "video.mp4", "key")
    assert found is not None
    assert found.outcome == b"cancelled"


async def test_ended_upload_gives_its_key_to_a_new_one(chunks: ChunkStore) -> None:
    first = await chunks.create(parameters(key="key"))
    await first.abort(b"failed")
    second = await chunks.create(parameters(key="key"))
    found = await chunks.find(IDENTITY, "video.mp4", "key")
    assert found is not None
    assert found.upload_id == second.record.upload_id
    old = await chunks.upload(first.record.upload_id)
    assert old is not None
    assert old.outcome == b"failed"


async def test_uploads_without_a_key_do_not_meet(chunks: ChunkStore) -> None:
    one = await chunks.create(parameters())
    two = await chunks.create(parameters())
    assert await chunks.find(IDENTITY, "video.mp4", "") is None
    listed = [record.upload_id for record in await chunks.uploads()]
    assert listed == sorted([one.record.upload_id, two.record.upload_id])
    assert len(await chunks.uploads(limit=1)) == 1
    assert len(await chunks.uploads(after=listed[0])) == 1


async def test_existing_name_is_refused_at_open_and_at_commit(
    chunks: ChunkStore, tmp_path: Path
) -> None:
    late = await chunks.create(parameters())
    await put_all(late, b"late")
    first = await add(chunks, b"first")
    with pytest.raises(AlreadyExists):
        await chunks.create(parameters())
    with pytest.raises(AlreadyExists):
        await late.commit(4, epoch=1, outcome=outcome)
    assert await late.abort(b"failed") == b"failed"
    assert await content(chunks, first.object_id) == b"first"
    assert folder(tmp_path) == {first.object_id}


async def test_replaced_object_stays_readable_to_whom_has_it_open(
    chunks: ChunkStore, tmp_path: Path
) -> None:
    old = await add(chunks, b"old")
    reader = await chunks.open(old.object_id)
    new = await add(chunks, b"new", existing=Existing.REPLACE)
    assert new.version == 2
    assert await chunks.object("video.mp4") == new
    assert await chunks.object("video.mp4", 1) is None
    assert folder(tmp_path) == {new.object_id}
    buffer = bytearray(3)
    await reader.read(0, buffer)
    assert buffer == b"old"
    await reader.close()
    with pytest.raises(NotFound):
        await chunks.open(old.object_id)


async def test_versions_are_kept_and_the_newest_is_the_name(
    chunks: ChunkStore,
) -> None:
    for data in (b"one", b"two", b"three"):
        await add(chunks, data, existing=Existing.ADD_VERSION)
    newest = await chunks.object("video.mp4")
    assert newest is not None
    assert newest.version == 3
    second = await chunks.object("video.mp4", 2)
    assert second is not None
    assert await content(chunks, second.object_id) == b"two"
    assert await chunks.objects() == [newest]
    assert await chunks.delete("video.mp4", 3) == 1
    assert await chunks.object("video.mp4") == second
    assert await chunks.delete("video.mp4") == 2
    assert await chunks.objects() == []


async def test_objects_are_listed_by_prefix_in_pages(chunks: ChunkStore) -> None:
    for name in ("b/1", "a", "b/3", "b/2", "c", "bé"):
        await add(chunks, b"x", name)
    assert [o.name for o in await chunks.objects()] == [
        "a", "b/1", "b/2", "b/3", "bé", "c"
    ]  # fmt: skip
    page = await chunks.objects("b/", limit=2)
    assert [o.name for o in page] == ["b/1", "b/2"]
    page = await chunks.objects("b/", after="b/2", limit=2)
    assert [o.name for o in page] == ["b/3"]


async def test_leftovers_of_a_crash_are_deleted_at_the_start(
    tmp_path: Path, clock: Clock
) -> None:
    data = tmp_path / "data"
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(
            Storage.open(data, OPTIONS, clock=clock)
        )
        upload = await storage.chunks.create(parameters("open"))
        await put(upload, 0, b"a" * CHUNK)
        record = await add(storage.chunks, b"object", "done")
        (data / "objects" / "0123").write_bytes(b"nobody knows me")
        copy = crash(data, tmp_path / "copy")
    async with Storage.open(copy, OPTIONS, clock=clock) as storage:
        assert storage.stats.leftovers == 1
        names = {path.name for path in (copy / "objects").iterdir()}
        assert names == {record.object_id, upload.record.upload_id}


async def test_missing_or_cut_object_is_damage(
    chunks: ChunkStore, tmp_path: Path
) -> None:
    record = await add(chunks, b"object")
    path = tmp_path / "data" / "objects" / record.object_id
    path.write_bytes(b"obj")
    with pytest.raises(Corrupt, match="the file ends"):
        await chunks.open(record.object_id)
    path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        await chunks.open(record.object_id)


async def test_abandoned_uploads_expire_and_outcomes_are_forgotten(
    chunks: ChunkStore, clock: Clock, tmp_path: Path
) -> None:
    idle = await chunks.create(parameters("idle"))
    unloaded = await chunks.create(parameters("unloaded"))
    await chunks.release(unloaded.record.upload_id)
    attached = await chunks.create(parameters("attached"))
    clock.now += 50
    busy = await chunks.create(parameters("busy"))
    await put(busy, 0, b"x" * CHUNK)
    clock.now += 60
    expired = await chunks.expire(
        idle=100,
        retention=1000,
        outcome=b"expired",
        keep={attached.record.upload_id},
    )
    ended = {idle.record.upload_id, unloaded.record.upload_id}
    assert set(expired) == ended
    assert folder(tmp_path) == {busy.record.upload_id, attached.record.upload_id}
    for upload_id in ended:
        record = await chunks.upload(upload_id)
        assert record is not None
        assert record.outcome == b"expired"
        with pytest.raises(Ended) as refused:
            await chunks.load(upload_id)
        assert refused.value.outcome == b"expired"
    with pytest.raises(Ended):
        await put(idle, 0, b"x" * CHUNK)
    clock.now += 1001
    await put(busy, 1, b"x" * CHUNK)
    await put(attached, 0, b"x" * CHUNK)
    assert await chunks.expire(idle=100, retention=1000, outcome=b"expired") == []
    assert await chunks.upload(idle.record.upload_id) is None


async def test_abort_by_id_needs_no_loading(tmp_path: Path, clock: Clock) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        upload = await storage.chunks.create(parameters(total_size=100))
        upload_id = upload.record.upload_id
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        assert await storage.chunks.abort(upload_id, b"cancelled") == b"cancelled"
        assert await storage.chunks.abort(upload_id, b"expired") == b"cancelled"
        assert folder(tmp_path) == set()


async def test_upload_larger_than_the_disk_is_refused_when_it_is_opened(
    chunks: ChunkStore, files: FaultyFiles, tmp_path: Path
) -> None:
    files.space = 10_000
    with pytest.raises(StorageFull) as refused:
        await chunks.create(parameters(total_size=10_001))
    assert (refused.value.needed, refused.value.available) == (10_001, 10_000)
    assert folder(tmp_path) == set()
    assert await chunks.uploads() == []
    await chunks.create(parameters(total_size=10_000))


async def test_what_cannot_be_reserved_is_claimed(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> None:
    files.can_allocate = False
    files.space = 10_000
    data = tmp_path / "data"
    async with Storage.open(data, OPTIONS, clock=clock, files=files) as storage:
        one = await storage.chunks.create(parameters("one", total_size=8 * CHUNK))
        with pytest.raises(StorageFull):
            await storage.chunks.create(parameters("two", total_size=8 * CHUNK))
        await put(one, 0, b"x" * CHUNK)
        await put(one, 5, b"x" * CHUNK)
    async with Storage.open(data, OPTIONS, clock=clock, files=files) as storage:
        with pytest.raises(StorageFull) as refused:
            await storage.chunks.create(parameters("two", total_size=8 * CHUNK))
        assert refused.value.available == 10_000 - 6 * CHUNK
        await storage.chunks.abort(one.record.upload_id, b"cancelled")
        await storage.chunks.create(parameters("two", total_size=8 * CHUNK))


async def test_reserved_space_is_used_even_when_the_disk_is_full(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> None:
    data = tmp_path / "data"
    async with Storage.open(data, OPTIONS, clock=clock, files=files) as storage:
        upload = await storage.chunks.create(parameters(total_size=2 * CHUNK))
        files.space = 0
        await put(upload, 0, b"x" * CHUNK)
    async with Storage.open(data, OPTIONS, clock=clock, files=files) as storage:
        upload = await storage.chunks.load(upload.record.upload_id)
        await put(upload, 1, b"x" * CHUNK)
        unknown = await storage.chunks.create(parameters())
        with pytest.raises(StorageFull):
            await put(unknown, 0, b"x" * CHUNK)


async def test_failed_creation_leaves_nothing(
    chunks: ChunkStore, tmp_path: Path
) -> None:
    await add(chunks, b"object")
    before = folder(tmp_path)
    with pytest.raises(AlreadyExists):
        await chunks.create(parameters(total_size=100))
    with pytest.raises(Unsupported, match="md5"):
        await chunks.create(parameters("other", digest_algorithm="md5"))
    assert folder(tmp_path) == before


async def test_loading_twice_at_a_time_gives_one_upload(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        upload = await storage.chunks.create(parameters())
        upload_id = upload.record.upload_id
        await put_all(upload, b"x" * 3000)
        assert await storage.chunks.load(upload_id) is upload
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        one, two = await asyncio.gather(
            storage.chunks.load(upload_id), storage.chunks.load(upload_id)
        )
        assert one is two
        assert one.position == 3


async def test_released_upload_is_loaded_without_reading_it_all(
    chunks: ChunkStore, files: FaultyFiles
) -> None:
    upload = await chunks.create(parameters())
    await put_all(upload, b"x" * 3000)
    await chunks.release(upload.record.upload_id)
    await chunks.release(upload.record.upload_id)
    before = files.calls["preadv"]
    again = await chunks.load(upload.record.upload_id)
    assert again is not upload
    assert (again.position, again.lost_chunks) == (3, [])
    assert files.calls["preadv"] == before


async def test_digest_goes_on_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    data = os.urandom(10 * CHUNK + 1)
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        upload = await storage.chunks.create(parameters(digest_algorithm="sha256"))
        for index, chunk in enumerate(pieces(data)[:5]):
            await put(upload, index, chunk)
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        upload = await storage.chunks.load(upload.record.upload_id)
        for index, chunk in reversed(list(enumerate(pieces(data)))[5:]):
            await put(upload, index, chunk)
        record = await upload.commit(len(data), epoch=1, outcome=outcome)
        assert record.digest == hashlib.sha256(data).digest()


async def test_cancelled_creation_is_complete_or_not_there(
    chunks: ChunkStore, files: FaultyFiles, tmp_path: Path
) -> None:
    gate = files.gates["allocate"] = threading.Event()
    creation = asyncio.ensure_future(chunks.create(parameters(total_size=100)))
    await asyncio.sleep(0.01)
    creation.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert folder(tmp_path) == {r.upload_id for r in await chunks.uploads()}


async def test_loading_racing_the_end_finds_it_ended(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        upload = await storage.chunks.create(parameters())
        await put_all(upload, b"x" * 3000)
        upload_id = upload.record.upload_id
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        aborted, loaded = await asyncio.gather(
            storage.chunks.abort(upload_id, b"cancelled"),
            storage.chunks.load(upload_id),
            return_exceptions=True,
        )
        assert aborted == b"cancelled"
        assert isinstance(loaded, Ended)
        assert folder(tmp_path) == set()


async def test_recovery_racing_the_end_does_not_bring_the_file_back(
    chunks: ChunkStore, files: FaultyFiles, tmp_path: Path
) -> None:
    upload = await chunks.create(parameters())
    files.fail["fdatasync"] = errno.EIO
    with pytest.raises(StoreFailed):
        await put(upload, 0, b"x" * CHUNK)
    files.fail.clear()
    upload_id = upload.record.upload_id
    await asyncio.gather(
        upload.abort(b"failed"), chunks.load(upload_id), return_exceptions=True
    )
    with pytest.raises(Ended):
        await chunks.load(upload_id)
    assert folder(tmp_path) == set()


async def test_upload_that_cannot_be_read_is_not_loaded(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        upload = await storage.chunks.create(parameters())
        await put_all(upload, b"x" * 3000)
        upload_id = upload.record.upload_id
    async with Storage.open(
        tmp_path / "data", OPTIONS, clock=clock, files=files
    ) as storage:
        files.fail["preadv"] = errno.EIO
        with pytest.raises(StoreFailed):
            await storage.chunks.load(upload_id)
        with pytest.raises(StoreFailed):
            await storage.chunks.load(upload_id)
        files.fail.clear()
        assert (await storage.chunks.load(upload_id)).position == 3


async def test_object_that_cannot_be_opened_is_an_error(
    chunks: ChunkStore, files: FaultyFiles
) -> None:
    record = await add(chunks, b"object")
    files.fail["open"] = errno.EMFILE
    with pytest.raises(StoreFailed):
        await chunks.open(record.object_id)
    files.fail.clear()
    assert await content(chunks, record.object_id) == b"object"


async def test_file_that_cannot_be_deleted_is_a_leftover(
    tmp_path: Path, clock: Clock, files: FaultyFiles
) -> None:
    data = tmp_path / "data"
    async with Storage.open(data, OPTIONS, clock=clock, files=files) as storage:
        await add(storage.chunks, b"object")
        files.fail["unlink"] = errno.EIO
        assert await storage.chunks.delete("video.mp4") == 1
        assert len(folder(tmp_path)) == 1
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        assert storage.stats.leftovers == 1
        assert folder(tmp_path) == set()


async def add_whole(
    chunks: ChunkStore, data: bytes, name: str = "video.mp4", **changes: Any
) -> UploadRecord:
    """Make an object in one step."""
    return await chunks.put(
        parameters(name, **changes),
        [(each, crc32c(each)) for each in pieces(data)],
        len(data),
        outcome=outcome,
        crc=crc32c(data),
    )


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
@pytest.mark.parametrize("known", [True, False])
async def test_whole_object_is_as_one_that_came_in_pieces(
    chunks: ChunkStore, size: int, known: bool
) -> None:
    data = os.urandom(size)
    total = size if known else None
    upload = await add_whole(chunks, data, total_size=total, key="k", metadata=b"m")
    there = await chunks.object("video.mp4")
    other = await add(chunks, data, "other", total_size=total, metadata=b"m")
    assert there == replace(other, name="video.mp4", object_id=upload.upload_id)
    assert await content(chunks, upload.upload_id) == data
    assert await chunks.chunk_crcs(upload.upload_id) == await chunks.chunk_crcs(
        other.object_id
    )
    assert await chunks.find(IDENTITY, "video.mp4", "k") == upload
    assert upload.outcome == f"video.mp4 1 {size}".encode()
    assert await chunks.upload(upload.upload_id) == upload


async def test_whole_object_that_is_not_as_stated_leaves_nothing(
    chunks: ChunkStore, tmp_path: Path
) -> None:
    whole = [(b"x" * CHUNK, crc32c(b"x" * CHUNK)), (b"end", crc32c(b"end"))]
    size = CHUNK + 3
    with pytest.raises(SizeMismatch):
        await chunks.put(parameters(), whole, size + 1, outcome=outcome)
    with pytest.raises(SizeMismatch):
        await chunks.put(parameters(), whole[:1], size, outcome=outcome)
    with pytest.raises(DigestMismatch):
        await chunks.put(parameters(), whole, size, outcome=outcome, crc=1)
    with pytest.raises(DigestMismatch):
        await chunks.put(parameters(digest=b"1234"), whole, size, outcome=outcome)
    with pytest.raises(ValueError, match="chunk"):
        await chunks.put(parameters(), whole[::-1], size, outcome=outcome)
    assert await chunks.object("video.mp4") is None
    assert folder(tmp_path) == set()


async def test_whole_object_of_a_name_that_is_taken(
    chunks: ChunkStore, tmp_path: Path
) -> None:
    first = await add_whole(chunks, b"first", key="k")
    with pytest.raises(AlreadyExists):
        await add_whole(chunks, b"other")
    assert folder(tmp_path) == {first.upload_id}
    second = await add_whole(chunks, b"second", existing=Existing.ADD_VERSION, key="k")
    assert folder(tmp_path) == {first.upload_id, second.upload_id}
    third = await add_whole(chunks, b"third", existing=Existing.REPLACE)
    assert folder(tmp_path) == {first.upload_id, third.upload_id}
    assert await content(chunks, third.upload_id) == b"third"
    assert await chunks.find(IDENTITY, "video.mp4", "k") == second


@pytest.mark.parametrize("call", ["open", "pwritev", "fdatasync", "sync_directory"])
async def test_whole_object_on_a_disk_that_fails_leaves_nothing(
    chunks: ChunkStore, files: FaultyFiles, tmp_path: Path, call: str
) -> None:
    await add_whole(chunks, b"one", "one")
    before = folder(tmp_path)
    files.fail[call] = errno.EIO
    with pytest.raises(StoreFailed):
        await add_whole(chunks, b"two", "two", key="k")
    assert folder(tmp_path) == before
    files.fail.clear()
    assert await chunks.find(IDENTITY, "two", "k") is None
    assert await content(chunks, (await add_whole(chunks, b"2", "two")).upload_id)


async def test_whole_object_larger_than_the_disk_is_refused(
    chunks: ChunkStore, files: FaultyFiles, tmp_path: Path
) -> None:
    files.space = 1000
    with pytest.raises(StorageFull):
        await add_whole(chunks, b"x" * 1001)
    assert folder(tmp_path) == set()
    await add_whole(chunks, b"x" * 1000)


async def test_whole_object_is_recorded_once_though_that_seemed_to_fail(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = tmp_path / "data", Records.run
    failures = 1

    async def fails_when_done(self: Records, change: Any, **options: Any) -> Any:
        nonlocal failures
        result = await run(self, change, **options)
        if getattr(change, "func", None) is upload_rows.put_whole and failures:
            failures -= 1
            raise StoreFailed("database", "it said nothing")
        return result

    monkeypatch.setattr(Records, "run", fails_when_done)
    async with Storage.open(data, OPTIONS, clock=clock) as storage:
        one = await add_whole(storage.chunks, b"one", "one", key="k")
        assert await storage.chunks.find(IDENTITY, "one", "k") == one
        assert len(await storage.chunks.versions()) == 1
        failures = 2
        with pytest.raises(StoreFailed):
            await add_whole(storage.chunks, b"two", "two", key="k")
        two = await storage.chunks.find(IDENTITY, "two", "k")
        assert two is not None
        assert await content(storage.chunks, two.upload_id) == b"two"
