"""One open upload: its file, its chunks and its end.

The bytes of chunk i are at i * chunk_size of the file objects/ID from the beginning. A
record holds the chunk's length and CRC. Bytes and record are synced in parallel: after
a crash the record may be there without the bytes, and then the CRC tells. Nothing is
acknowledged before both are there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ackline.proto.values import Durability
from ackline.server.stores import upload_rows as rows
from ackline.server.stores.activity import Activity
from ackline.server.stores.chunkmap import ChunkMap
from ackline.server.stores.commits import (
    candidate,
    check_crc,
    check_digest,
    check_size,
)
from ackline.server.stores.errors import (
    ChecksumConflict,
    Ended,
    Fenced,
    NotFound,
    StoreError,
    StoreFailed,
)
from ackline.server.stores.threads import uninterrupted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection

    from typing_extensions import Buffer

    from ackline.server.stores.chunkfile import ChunkFile, Shared
    from ackline.server.stores.entities import ObjectRecord, UploadRecord

__all__ = ["FileUpload"]

T = TypeVar("T")

#: How exactly it is recorded when an upload was last used: it expires after hours.
TOUCH_SECONDS = 1.0


class FileUpload:
    """An open upload in a file and in the database.

    In go `store` and `park`, any number at a time for different chunks, and then
    `commit` or `abort`. What is there say `position`, `ranges_beyond` and `chunk`.
    `takeover` fences everybody who has an older epoch. After StoreFailed nothing is
    taken until `recover` has compared everything with the disk.

    Attributes:
        lost_chunks: Chunks that were recorded and whose bytes were not on the disk when
            it was last loaded. One that was acknowledged is a broken promise; one that
            was being stored in a crash is not, and only the client knows which.
    """

    def __init__(self, shared: Shared, record: UploadRecord, file: ChunkFile) -> None:
        of = record.parameters
        self.lost_chunks: list[int] = []
        self._shared = shared
        self._record = record
        self._file = file
        self._chunks = ChunkMap(of.chunk_size, of.total_size)
        self._failure: StoreFailed | None = None
        self._synced = of.durability >= Durability.SYNCED
        self._touched = record.touched
        self._activity = Activity()
        # Held by whoever ends, takes over or recovers the upload.
        self._turning = asyncio.Lock()

    @property
    def record(self) -> UploadRecord:
        """The upload as recorded."""
        return self._record

    @property
    def failure(self) -> StoreFailed | None:
        """Why nothing is taken until `recover`, or None."""
        return self._failure

    @property
    def position(self) -> int:
        """The first chunk that is not stored."""
        return self._chunks.position

    @property
    def ranges_beyond(self) -> list[tuple[int, int]]:
        """What is stored beyond `position`, as ascending (start, end) pairs."""
        return self._chunks.ranges_beyond

    @property
    def bytes_stored(self) -> int:
        """Bytes of all stored chunks."""
        return self._chunks.bytes_stored

    @property
    def prefix_bytes(self) -> int:
        """Bytes of the chunks before `position`."""
        return self._chunks.contiguous_bytes

    @property
    def prefix_crc(self) -> int:
        """CRC-32C of the chunks before `position`."""
        return self._chunks.crc

    def chunk(self, index: int) -> tuple[int, int] | None:
        """Return (length, CRC) of a stored chunk, or None."""
        return self._chunks.find(index)

    async def store(
        self,
        index: int,
        data: Buffer,
        crc: int,
        *,
        epoch: int,
        length: int,
        offset: int = 0,
    ) -> None:
        """Store the rest of a chunk; return when the upload's durability holds.

        The buffer may be used again as soon as this returns or raises. Storing a stored
        chunk again changes nothing. When cancelled this waits for the disk all the
        same: a record of a chunk that nobody waited to be synced would be a promise
        nobody kept.

        Args:
            index: Which chunk.
            data: Its bytes from `offset` to its end.
            crc: CRC-32C of the whole chunk.
            epoch: The caller's.
            length: Of the whole chunk.
            offset: Bytes that were parked before.

        Raises:
            ValueError: No such chunk can exist.
            ChecksumConflict: It is stored with another checksum.
            Fenced: A newer epoch owns the upload.
            Ended: An outcome is recorded.
            StorageFull: There is no space; the chunk is not stored.
            StoreFailed: Writing or syncing failed; see `recover`.
        """
        self._admit(epoch)
        if index in self._activity:
            await self._activity.settled(index)
            self._admit(epoch)
        stored = self._chunks.find(index)
        if stored is not None:
            if stored != (length, crc):
                raise ChecksumConflict(index, stored=stored[1], offered=crc)
            return
        self._chunks.check(index, length)
        if offset + memoryview(data).nbytes != length:
            raise ValueError(f"chunk {index} needs {length - offset} more bytes")
        with self._activity.writing(index):
            await uninterrupted(self._store(index, offset, data, length, crc))

    def store_now(self, index: int, crc: int, *, epoch: int, length: int) -> bool:
        """Do what `store` does for a chunk that `write_part` has written all of.

        Returns:
            Whether it is done; if not, `store` does it, or says what is wrong.
        """
        known = index in self._chunks or index in self._activity
        if self._synced or known or not self._shared.records.free:
            return False
        try:
            self._admit(epoch)
            self._chunks.check(index, length)
            self._shared.records.run_now(self._chunk_row(index, length, crc))
        except (StoreError, ValueError):
            return False
        self._add(index, length, crc)
        return True

    async def park(self, index: int, offset: int, data: Buffer, *, epoch: int) -> None:
        """Write a part of an incomplete chunk in its place, to free the memory.

        Nothing is recorded: after a restart the part is not there. The buffer may be
        used again as soon as this returns or raises.

        Raises:
            ValueError: The part is outside the chunk, or the chunk is stored already.
            Fenced: A newer epoch owns the upload.
            Ended: An outcome is recorded.
            StorageFull: There is no space.
            StoreFailed: Writing failed.
        """
        self._admit_part(index, offset, data, epoch=epoch)
        with self._activity.writing(index):
            await self._write(index, offset, data)

    @property
    def in_memory(self) -> bool:
        """Whether writing waits for no device, so that `write_part` may be used."""
        return self._file.in_memory

    def write_part(self, index: int, offset: int, data: Buffer, *, epoch: int) -> None:
        """Do what `park` does, here and now; nothing if the chunk is stored already.

        `store` then tells whether it is the same, or a conflict.

        Raises:
            ValueError, Fenced, Ended, StorageFull, StoreFailed: As `park`.
        """
        self._admit(epoch)
        if index in self._chunks:
            return
        self._admit_part(index, offset, data, epoch=epoch)
        self._file.write_now(data, self._at(index, offset))

    async def takeover(self) -> int:
        """Fence all older epochs, wait for what they began, return the new epoch.

        Raises:
            Ended: An outcome is recorded, possibly by what was waited for.
            StorageFull: The epoch could not be recorded.
            StoreFailed: The same.
        """
        epoch = self._record.epoch + 1
        self._record = replace(self._record, epoch=epoch)
        async with self._turning:
            await self._activity.idle()
            if self._record.outcome is not None:
                raise Ended(self._record.upload_id, self._record.outcome)
            await self._shared.records.run(
                partial(
                    rows.put_epoch,
                    upload_id=self._record.upload_id,
                    epoch=epoch,
                    now=self._shared.clock(),
                )
            )
        return epoch

    async def commit(
        self,
        size: int,
        *,
        epoch: int,
        outcome: Callable[[ObjectRecord], bytes],
        crc: int | None = None,
        digest: bytes = b"",
        sinks: Collection[str] = (),
    ) -> ObjectRecord:
        """Make the object visible under its name and record the outcome, atomically.

        Args:
            size: Of the whole, in bytes, as the client states it.
            epoch: The caller's.
            outcome: Makes the outcome to record from the object. Called in another
                thread; must only compute.
            crc: CRC-32C of the whole as the client states it, or None.
            digest: In the upload's algorithm, as the client states it, or empty.
            sinks: Names of those that have to take the object.

        Raises:
            SizeMismatch: Chunks are missing, or the size is another one.
            DigestMismatch: The bytes are not those stated.
            AlreadyExists: The name is taken and must not be replaced.
            Fenced: A newer epoch owns the upload.
            Ended: An outcome is recorded.
            StorageFull: There is no space for the record.
            StoreFailed: Syncing failed; see `recover`.
        """
        self._admit(epoch)
        return await uninterrupted(
            self._commit(size, crc, digest, epoch=epoch, outcome=outcome, sinks=sinks)
        )

    async def abort(self, outcome: bytes) -> bytes:
        """End the upload, delete its bytes, and return the outcome that stands.

        Raises:
            StorageFull: The outcome could not be recorded; the upload goes on.
            StoreFailed: The same.
        """
        return await uninterrupted(self._abort(outcome))

    async def recover(self) -> None:
        """Open the file again and keep only those chunks that are on the disk.

        Raises:
            Ended: An outcome is recorded.
            StoreFailed: The file cannot be synced or read; nothing is taken yet.
        """
        async with self._turning:
            if self._record.outcome is not None:
                raise Ended(self._record.upload_id, self._record.outcome)
            await self._activity.idle()
            await self._shared.records.run(
                partial(rows.restore_upload, record=self._record)
            )
            await self._file.reopen()
            await self.load(verify=True)

    async def load(self, *, verify: bool) -> None:
        """Take over the recorded chunks, only those that are on the disk if `verify`.

        Raises:
            StoreFailed: The file or the records cannot be read.
        """
        of = self._record.parameters
        upload_id = self._record.upload_id
        records = self._shared.records
        stored = await records.run(partial(rows.chunk_rows, upload_id=upload_id))
        lost: list[int] = []
        if verify:
            lost = await self._file.mismatches(of.chunk_size, stored)
        if lost:
            await records.run(
                partial(rows.drop_chunks, upload_id=upload_id, indices=lost)
            )
        chunks = ChunkMap(of.chunk_size, of.total_size)
        missing = set(lost)
        for index, length, crc in stored:
            if index not in missing:
                chunks.add(index, length, crc)
        self._chunks = chunks
        self.lost_chunks = lost
        self._failure = None
        self._file.advance(chunks.contiguous_bytes)

    async def close(self) -> None:
        """Close the file. The upload stays open in the records.

        Raises:
            StoreFailed: The file system failed.
        """
        async with self._turning:  # not under a commit
            await self._close()

    async def _close(self) -> None:
        await self._activity.idle()
        await self._file.close()

    def _admit(self, epoch: int) -> None:
        record = self._record
        if record.outcome is not None:
            raise Ended(record.upload_id, record.outcome)
        if epoch != record.epoch:
            raise Fenced("the upload", epoch=epoch, current=record.epoch)
        if self._failure is not None:
            raise StoreFailed(self._failure.what, self._failure.cause)

    def _admit_part(self, index: int, offset: int, data: Buffer, *, epoch: int) -> None:
        self._admit(epoch)
        end = offset + memoryview(data).nbytes
        if offset < 0 or end > self._record.parameters.chunk_size:
            raise ValueError(f"bytes {offset} to {end} are outside chunk {index}")
        if index in self._chunks or index in self._activity:
            raise ValueError(f"chunk {index} is stored; a part would overwrite it")

    def _at(self, index: int, offset: int) -> int:
        return index * self._record.parameters.chunk_size + offset

    async def _store(
        self, index: int, offset: int, data: Buffer, length: int, crc: int
    ) -> None:
        if offset < length:
            await self._write(index, offset, data)
        await self._promise(index, length, crc)
        self._add(index, length, crc)

    def _add(self, index: int, length: int, crc: int) -> None:
        self._chunks.add(index, length, crc)
        self._shared.space.consume(self._record.upload_id, length)
        self._file.advance(self._chunks.contiguous_bytes)

    async def _write(self, index: int, offset: int, data: Buffer) -> None:
        await self._file.write(data, self._at(index, offset))

    async def _promise(self, index: int, length: int, crc: int) -> None:
        """Return when bytes and record of a chunk are as durable as agreed."""
        row = self._chunk_row(index, length, crc)
        record = self._run(row, synced=self._synced)
        if not self._synced:
            await record
            return
        # Both are waited for, whatever one of them says: a failed sync must be known.
        failures = await asyncio.gather(
            self._file.sync(), record, return_exceptions=True
        )
        if isinstance(failures[0], StoreFailed):
            self._failure = failures[0]
        for failure in failures:
            if failure is not None:
                raise failure

    def _chunk_row(
        self, index: int, length: int, crc: int
    ) -> Callable[[sqlite3.Connection], None]:
        """Return what records a chunk."""
        now = self._shared.clock()
        touched = now if now - self._touched >= TOUCH_SECONDS else None
        self._touched = touched or self._touched
        of = self._record.upload_id
        return lambda database: rows.put_chunk(
            database, of, index, length, crc, touched
        )

    async def _run(
        self, change: Callable[[sqlite3.Connection], T], *, synced: bool = True
    ) -> T:
        """Change the records of this upload.

        Raises:
            StoreFailed: They could not be changed, or are gone; see `recover`.
        """
        try:
            return await self._shared.records.run(change, synced=synced)
        except NotFound:
            lost = StoreFailed("record not stored", "the disk lost that of the upload")
            self._failure = lost
            raise lost from None

    async def _commit(
        self,
        size: int,
        crc: int | None,
        digest: bytes,
        *,
        epoch: int,
        outcome: Callable[[ObjectRecord], bytes],
        sinks: Collection[str],
    ) -> ObjectRecord:
        async with self._turning:
            self._admit(epoch)
            of, chunks = self._record.parameters, self._chunks
            check_size(chunks, size)
            check_crc(chunks, crc)
            computed = await self._file.digest(size) or chunks.crc.to_bytes(4, "big")
            check_digest(of, computed, digest)
            await self._finish_file(size)
            now = self._shared.clock()
            record, result, replaced = await self._run(
                partial(
                    rows.commit_upload,
                    candidate=candidate(self._record, chunks, computed, now=now),
                    crcs=chunks.crcs(),
                    epoch=epoch,
                    outcome=outcome,
                    sinks=sinks,
                )
            )
            self._record = replace(self._record, outcome=result)
            await self._dispose(replaced)
        return record

    async def _abort(self, outcome: bytes) -> bytes:
        async with self._turning:
            if self._record.outcome is not None:
                return self._record.outcome
            upload_id = self._record.upload_id
            await self._shared.records.run(
                partial(rows.restore_upload, record=self._record), synced=False
            )
            standing, ours = await self._shared.records.run(
                partial(
                    rows.end_upload,
                    upload_id=upload_id,
                    outcome=outcome,
                    now=self._shared.clock(),
                )
            )
            self._record = replace(self._record, outcome=standing)
            await self._dispose([upload_id] if ours else [])
            return standing

    async def _finish_file(self, size: int) -> None:
        try:
            await self._file.finish(size, synced=self._synced)
        except StoreFailed as error:
            self._failure = error
            raise

    async def _dispose(self, unwanted: list[str]) -> None:
        """Close an ended upload and delete files that have no record any more."""
        shared = self._shared
        shared.ended(self._record.upload_id)
        shared.space.release(self._record.upload_id)
        # The outcome is recorded: what cannot be deleted now goes at the next start.
        with contextlib.suppress(StoreError):
            await self._close()
        await shared.unlink(unwanted)
