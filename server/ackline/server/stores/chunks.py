"""The chunk store: uploads while they are open, objects once they are committed.

A commit is a record, not a rename: the file that took the first chunk is the object's,
and one transaction makes it visible under its name and stores the upload's outcome. So
there is no moment at which the name and the outcome disagree. A file without a record
is a leftover of a crash; `start` deletes those.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ackline.server.stores import object_rows, upload_rows
from ackline.server.stores.chunkfile import ChunkFile, Shared
from ackline.server.stores.entities import UploadRecord
from ackline.server.stores.errors import Corrupt, Ended, NotFound, StoreError
from ackline.server.stores.objects import FileObject
from ackline.server.stores.threads import uninterrupted
from ackline.server.stores.uploads import FileUpload
from ackline.server.stores.whole import put_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.server.stores.clock import ObservedClock
    from ackline.server.stores.entities import (
        KeptObject,
        ObjectRecord,
        UploadParameters,
    )
    from ackline.server.stores.handles import Disk
    from ackline.server.stores.records import Records
    from ackline.server.stores.space import Space

__all__ = ["FileChunks"]


class FileChunks:
    """Uploads and objects in a folder and in the database."""

    def __init__(
        self,
        folder: Path,
        *,
        disk: Disk,
        records: Records,
        space: Space,
        clock: ObservedClock,
        cached: bool,
    ) -> None:
        self._shared = Shared(
            folder=folder,
            disk=disk,
            records=records,
            space=space,
            clock=clock,
            ended=self._forget,
            cached=cached,
            in_memory=disk.files.in_memory(folder),
        )
        self._uploads: dict[str, FileUpload] = {}
        # Uploads whose file this process has compared with its records or written.
        self._trusted: set[str] = set()
        # Held to load, release or end an upload; a lock nobody holds disappears.
        self._locks = WeakValueDictionary[str, asyncio.Lock]()

    async def start(self) -> int:
        """Delete the files of a crash; return how many there were.

        Raises:
            StoreFailed: The folder or the records cannot be read.
        """
        shared = self._shared
        disk, records = shared.disk, shared.records
        for upload_id, size in await records.run(upload_rows.claims):
            shared.space.claim(upload_id, size)
        known = await records.run(upload_rows.known_files)
        found = await disk.run(disk.files.sizes, shared.folder)
        leftovers = [name for name in found if name not in known]
        await shared.unlink(leftovers)
        return len(leftovers)

    async def close(self) -> None:
        """Close all files."""
        for upload in list(self._uploads.values()):
            with contextlib.suppress(StoreError):
                await upload.close()
        self._uploads.clear()

    async def create(
        self, parameters: UploadParameters, upload_id: str = ""
    ) -> FileUpload:
        """Open a new upload, with room for it where its size is known.

        An ended upload with the same key keeps its id and gives up the key.

        Args:
            parameters: Of the upload.
            upload_id: 32 random hexadecimal digits, or empty to have them made.

        Raises:
            AlreadyExists: The key has an open upload, or the name an object that must
                not be replaced.
            Unsupported: The digest algorithm is not offered here.
            StorageFull: It would not fit.
            StoreFailed: The file system or the database failed.
        """
        return await uninterrupted(self._create(parameters, upload_id))

    async def put(
        self,
        parameters: UploadParameters,
        chunks: Sequence[tuple[Buffer, int]],
        size: int,
        upload_id: str = "",
        *,
        outcome: Callable[[ObjectRecord], bytes],
        crc: int | None = None,
        digest: bytes = b"",
        sinks: Collection[str] = (),
    ) -> UploadRecord:
        """Make an object of an upload that is there whole; return that, ended.

        `create`, `store` and `commit` in one step: all of it, or nothing. The name,
        bytes and records are synced, whatever the upload's durability.

        Args:
            parameters: Of the upload; its digest algorithm must be crc32c.
            chunks: Bytes and CRC-32C of each, in order.
            size: Of the whole, in bytes, as the client states it.
            upload_id: As for `create`.
            outcome: Makes the outcome to record from the object. Called in another
                thread; must only compute.
            crc: CRC-32C of the whole as the client states it, or None.
            digest: As the client states it, or empty.
            sinks: Names of those that have to take the object.

        Raises:
            ValueError: No such chunks can exist.
            SizeMismatch: Chunks are missing, or the size is another one.
            DigestMismatch: The bytes are not those stated.
            AlreadyExists: As `create`.
            StorageFull: It does not fit.
            StoreFailed: The file system or the database failed. Whether there is an
                object is not known before its key has been looked up.
        """
        return await uninterrupted(
            put_whole(
                self._shared,
                self._new_record(parameters, upload_id),
                chunks,
                size,
                crc=crc,
                digest=digest,
                outcome=outcome,
                sinks=sinks,
            )
        )

    async def find(self, identity: str, name: str, key: str) -> UploadRecord | None:
        """Return the upload of this key, open or ended, or None."""
        return await self._shared.records.run(
            partial(upload_rows.upload_by_key, identity=identity, name=name, key=key)
        )

    async def stored_by(self, identity: str, *, besides: Collection[str] = ()) -> int:
        """Return the bytes of an identity's objects and open uploads but some.

        Args:
            identity: Whose.
            besides: Ids of uploads, committed or not, that are not to be counted.
        """
        return await self._shared.records.run(
            partial(upload_rows.stored_by, identity=identity, besides=besides)
        )

    async def upload(self, upload_id: str) -> UploadRecord | None:
        """Return an upload, open or ended, or None."""
        return await self._shared.records.run(
            partial(upload_rows.upload_by_id, upload_id=upload_id)
        )

    async def uploads(
        self, *, after: str = "", limit: int = 1000
    ) -> list[UploadRecord]:
        """Return open uploads ordered by id, from the one after `after`."""
        return await self._shared.records.run(
            partial(upload_rows.open_uploads, after=after, limit=limit)
        )

    async def load(self, upload_id: str) -> FileUpload:
        """Return an open upload, ready to store; the same object to every caller.

        The first time in a process, and after a failure, this compares its chunks with
        the disk, which takes as long as reading them; see `FileUpload.lost_chunks`.

        Raises:
            NotFound: There is no such upload.
            Ended: An outcome is recorded.
            Unsupported: Its digest algorithm is no longer offered.
            StoreFailed: It cannot be read, or the failure lasts.
        """
        async with self._lock(upload_id):
            upload = self._uploads.get(upload_id)
            if upload is None:
                upload = await self._load(upload_id)
            elif upload.failure is not None:
                await upload.recover()
            return upload

    async def release(self, upload_id: str) -> None:
        """Close the file of an upload that nobody has open, to be loaded again later.

        Raises:
            StoreFailed: The file system failed.
        """
        async with self._lock(upload_id):
            upload = self._uploads.pop(upload_id, None)
            if upload is not None:
                await upload.close()
                if upload.failure is not None:
                    self._trusted.discard(upload_id)

    async def abort(self, upload_id: str, outcome: bytes) -> bytes:
        """End an upload, loaded or not; return the outcome that stands.

        Raises:
            NotFound: There is no such upload.
            StorageFull: The outcome could not be recorded; the upload goes on.
            StoreFailed: The same.
        """
        async with self._lock(upload_id):
            upload = self._uploads.get(upload_id)
            if upload is not None:
                return await upload.abort(outcome)
            return await uninterrupted(self._abort(upload_id, outcome))

    async def expire(
        self,
        *,
        idle: float,
        retention: float,
        outcome: bytes,
        keep: Collection[str] = (),
    ) -> list[str]:
        """End abandoned uploads and forget old outcomes.

        Args:
            idle: Seconds after which an upload that stored nothing is abandoned.
            retention: Seconds for which an outcome is kept.
            outcome: To record for the abandoned ones.
            keep: Ids of uploads that are attached: waiting is not abandoning.

        Returns:
            The ids of the uploads ended.

        Raises:
            StorageFull: An outcome could not be recorded.
            StoreFailed: The same.
        """
        records, clock = self._shared.records, self._shared.clock
        if keep:
            await records.run(
                partial(upload_rows.touch_uploads, upload_ids=list(keep), now=clock())
            )
        abandoned = [
            upload_id
            for upload_id in await records.run(
                partial(upload_rows.idle_uploads, before=clock.before(idle))
            )
            if upload_id not in keep
        ]
        for upload_id in abandoned:
            await self.abort(upload_id, outcome)
        await records.run(
            partial(upload_rows.forget_uploads, before=clock.before(retention))
        )
        return abandoned

    async def object(
        self, name: str, version: int | None = None
    ) -> ObjectRecord | None:
        """Return a version of a name, by default the newest, or None."""
        return await self._shared.records.run(
            partial(object_rows.object_by_name, name=name, version=version)
        )

    async def object_by_id(self, object_id: str) -> ObjectRecord | None:
        """Return an object, or None."""
        return await self._shared.records.run(
            partial(object_rows.object_by_id, object_id=object_id)
        )

    async def objects(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[ObjectRecord]:
        """Return the newest versions of names, ordered, from the one after `after`."""
        return await self._shared.records.run(
            partial(object_rows.newest_objects, prefix=prefix, after=after, limit=limit)
        )

    async def versions(
        self, prefix: str = "", *, after: tuple[str, int] = ("", 0), limit: int = 1000
    ) -> list[ObjectRecord]:
        """Return all versions by (name, version), from the one after `after`."""
        return await self._shared.records.run(
            partial(object_rows.every_version, prefix=prefix, after=after, limit=limit)
        )

    async def kept(self, *, before: tuple[float, str], limit: int) -> list[KeptObject]:
        """Return what was committed before (time, id), the newest first."""
        return await self._shared.records.run(
            partial(object_rows.kept_objects, before=before, limit=limit), synced=False
        )

    async def discard(self, object_ids: Sequence[str]) -> int:
        """Delete objects by their ids; return how many there were.

        Raises:
            StoreFailed: The records could not be changed.
        """
        removed = await self._shared.records.run(
            partial(object_rows.discard_objects, object_ids=object_ids)
        )
        await self._shared.unlink(removed)
        return len(removed)

    async def chunk_crcs(self, object_id: str) -> list[int]:
        """Return the CRC-32C of each chunk of an object.

        Raises:
            NotFound: There is no such object.
        """
        return await self._shared.records.run(
            partial(object_rows.chunk_crcs, object_id=object_id)
        )

    async def open(self, object_id: str) -> FileObject:
        """Open an object for reading.

        Raises:
            NotFound: There is no such object.
            Corrupt: Its file is missing or has another length.
            StoreFailed: It cannot be opened.
        """
        record = await self.object_by_id(object_id)
        if record is None:
            raise NotFound("object", object_id)
        path = self._shared.folder / object_id
        try:
            return await FileObject.open(self._shared.disk, record, path)
        except StoreError as error:
            # Deleted between the two steps, or really missing?
            if await self.object_by_id(object_id) is None:
                raise NotFound("object", object_id) from error
            if isinstance(error.__cause__, FileNotFoundError):
                raise Corrupt(path, offset=0, problem="it is missing") from error
            raise

    async def delete(self, name: str, version: int | None = None) -> int:
        """Delete a version of a name, or all; return how many there were.

        Raises:
            NotFound: There is none.
            StoreFailed: The records could not be changed.
        """
        removed = await self._shared.records.run(
            partial(object_rows.delete_objects, name=name, version=version)
        )
        await self._shared.unlink(removed)
        return len(removed)

    def _lock(self, upload_id: str) -> asyncio.Lock:
        lock = self._locks.get(upload_id)
        if lock is None:
            lock = self._locks[upload_id] = asyncio.Lock()
        return lock

    def _new_record(self, parameters: UploadParameters, upload_id: str) -> UploadRecord:
        now = self._shared.clock()
        return UploadRecord(
            upload_id=upload_id or secrets.token_hex(16),
            parameters=parameters,
            epoch=1,
            created=now,
            touched=now,
            outcome=None,
        )

    async def _create(self, parameters: UploadParameters, upload_id: str) -> FileUpload:
        shared, record = self._shared, self._new_record(parameters, upload_id)
        upload_id = record.upload_id
        size = parameters.total_size
        if size is not None:
            shared.space.claim(upload_id, size)
        file: ChunkFile | None = None
        try:
            file = await ChunkFile.create(
                shared, upload_id, parameters.digest_algorithm, size
            )
            # Not synced: nothing is promised before a chunk is, and the transaction of
            # a chunk comes after this one.
            await shared.records.run(
                partial(
                    upload_rows.add_upload, record=record, allocated=file.allocated
                ),
                synced=False,
            )
        except BaseException:
            shared.space.release(upload_id)
            if file is not None:
                await file.close()
                await shared.unlink([upload_id])
            raise
        if file.allocated:
            shared.space.release(upload_id)
        upload = FileUpload(shared, record, file)
        self._uploads[upload_id] = upload
        self._trusted.add(upload_id)
        return upload

    async def _load(self, upload_id: str) -> FileUpload:
        record = await self.upload(upload_id)
        if record is None:
            raise NotFound("upload", upload_id)
        if record.outcome is not None:
            raise Ended(upload_id, record.outcome)
        of = record.parameters
        file = await ChunkFile.open(
            self._shared,
            upload_id,
            of.digest_algorithm,
            # An open upload of known size either claims its space or has it.
            allocated=of.total_size is not None
            and not self._shared.space.claimed(upload_id),
        )
        upload = FileUpload(self._shared, record, file)
        try:
            await upload.load(verify=upload_id not in self._trusted)
        except BaseException:
            await file.close()
            raise
        self._uploads[upload_id] = upload
        self._trusted.add(upload_id)
        return upload

    async def _abort(self, upload_id: str, outcome: bytes) -> bytes:
        standing, ours = await self._shared.records.run(
            partial(
                upload_rows.end_upload,
                upload_id=upload_id,
                outcome=outcome,
                now=self._shared.clock(),
            )
        )
        if ours:
            self._shared.space.release(upload_id)
            await self._shared.unlink([upload_id])
        return standing

    def _forget(self, upload_id: str) -> None:
        self._uploads.pop(upload_id, None)
        self._trusted.discard(upload_id)
