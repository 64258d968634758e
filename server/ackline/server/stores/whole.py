"""Objects that come whole: made in one step, or not at all.

A small object is there, its END included, before its upload has begun. Then there is
nothing half done to be remembered: one call writes, syncs and closes its file, and one
transaction records the upload, its outcome and the object. Until then a crash leaves a
file without a record, which the next start deletes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ackline.server.stores import upload_rows as rows
from ackline.server.stores.chunkmap import ChunkMap
from ackline.server.stores.commits import (
    candidate,
    check_crc,
    check_digest,
    check_size,
)
from ackline.server.stores.errors import (
    AlreadyExists,
    StorageFull,
    StoreFailed,
    disk_failure,
)
from ackline.server.stores.files import write_all

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

    from typing_extensions import Buffer

    from ackline.server.stores.chunkfile import Shared
    from ackline.server.stores.entities import ObjectRecord, UploadRecord

__all__ = ["put_whole"]


async def put_whole(
    shared: Shared,
    upload: UploadRecord,
    chunks: Sequence[tuple[Buffer, int]],
    size: int,
    *,
    crc: int | None,
    digest: bytes,
    outcome: Callable[[ObjectRecord], bytes],
    sinks: Collection[str],
) -> UploadRecord:
    """Do what `FileChunks.put` says; must not be cancelled."""
    upload_id, of = upload.upload_id, upload.parameters
    known = ChunkMap(of.chunk_size, of.total_size)
    for index, (data, each) in enumerate(chunks):
        known.add(index, memoryview(data).nbytes, each)
    check_size(known, size)
    check_crc(known, crc)
    computed = known.crc.to_bytes(4, "big")
    check_digest(of, computed, digest)
    try:
        await _write(shared, upload_id, [data for data, _ in chunks], size)
    except BaseException:
        await shared.unlink([upload_id])
        raise
    change = partial(
        rows.put_whole,
        upload=upload,
        candidate=candidate(upload, known, computed, now=upload.created),
        crcs=known.crcs(),
        outcome=outcome,
        sinks=sinks,
    )
    try:
        result, replaced = await _record(shared, change)
    except (AlreadyExists, StorageFull):
        await shared.unlink([upload_id])
        raise
    # After StoreFailed it may be recorded, and then needs its file; if it is not, the
    # next start deletes that.
    await shared.unlink(replaced)
    return replace(upload, outcome=result)


async def _write(
    shared: Shared, upload_id: str, parts: Sequence[Buffer], size: int
) -> None:
    """Make the file, its name included, durable.

    Raises:
        StorageFull: It would not fit.
        StoreFailed: The file system failed.
    """
    files, syncer, space = shared.disk.files, shared.disk.syncer, shared.space

    def write(fd: int) -> None:
        space.require(size, owner=upload_id)
        write_all(files, fd, parts, 0)

    space.claim(upload_id, size)
    try:
        await syncer.write_new(shared.folder / upload_id, write)
        await syncer.sync(shared.folder)
    except OSError as error:
        raise disk_failure("file system", error) from error
    finally:
        space.release(upload_id)


async def _record(
    shared: Shared,
    change: Callable[[sqlite3.Connection], tuple[bytes, list[str]]],
) -> tuple[bytes, list[str]]:
    """Record it; once more if that failed, and perhaps did not.

    Raises:
        AlreadyExists: As `FileChunks.put`.
        StorageFull: There is no space for the records; nothing is recorded.
        StoreFailed: The records fail.
    """
    try:
        return await shared.records.run(change)
    except StoreFailed:
        return await shared.records.run(change)
