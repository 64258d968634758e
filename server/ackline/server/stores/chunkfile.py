"""The file of an upload: writing it, syncing it, hashing it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ackline.server.stores.digests import running_digest
from ackline.server.stores.errors import Corrupt, StoreError
from ackline.server.stores.files import write_all
from ackline.server.stores.handles import Handle
from ackline.server.stores.verification import mismatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.server.stores.clock import ObservedClock
    from ackline.server.stores.handles import Disk
    from ackline.server.stores.records import Records
    from ackline.server.stores.space import Space
    from ackline.server.stores.verification import StoredChunk

__all__ = ["ChunkFile", "Shared"]


_FLAGS = os.O_RDWR | os.O_CREAT

#: Bytes of a write that is worth a call to drop what was written before.
_LARGE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the uploads of one store share.

    Attributes:
        folder: Where the bytes are, one file for each upload or object.
        disk: For working with them.
        records: The database.
        space: What may still be written.
        clock: Tells unix seconds, and what is too old.
        ended: Told the id of every upload that has ended.
        cached: Whether large chunks stay in the page cache (`StorageOptions`).
        in_memory: Whether the folder is memory.
    """

    folder: Path
    disk: Disk
    records: Records
    space: Space
    clock: ObservedClock
    ended: Callable[[str], None]
    cached: bool
    in_memory: bool

    async def unlink(self, names: Iterable[str]) -> None:
        """Delete files without a record; what cannot go now goes at the next start."""
        for name in names:
            with contextlib.suppress(StoreError):
                await self.disk.run(self.disk.files.unlink, self.folder / name)


class ChunkFile:
    """An open file that grows into an object.

    `open`, then `write` and `sync`, `advance` as the contiguous part grows, and at the
    end `finish` and `digest`. After a failed sync, `reopen` and `mismatches`.
    """

    def __init__(
        self,
        shared: Shared,
        handle: Handle,
        *,
        owner: str,
        algorithm: str,
        allocated: bool,
    ) -> None:
        self._shared = shared
        self._handle = handle
        self._owner = owner
        self._algorithm = algorithm
        self._digest = running_digest(algorithm, shared.disk.files)
        self._allocated = allocated
        # Whether the file's name in its directory is on stable storage.
        self._linked = False

    @classmethod
    async def open(
        cls, shared: Shared, owner: str, algorithm: str, *, allocated: bool = False
    ) -> ChunkFile:
        """Open the file of an upload, which may be new.

        Args:
            shared: What it shares with other uploads.
            owner: Id of the upload.
            algorithm: Of its digest.
            allocated: Whether its space was reserved before.

        Raises:
            Unsupported: The digest algorithm is not offered here.
            StorageFull: There is no room for its name.
            StoreFailed: It cannot be opened.
        """
        running_digest(algorithm, shared.disk.files)  # refuse before making a file
        handle = await _opened(shared, owner)
        return cls(
            shared, handle, owner=owner, algorithm=algorithm, allocated=allocated
        )

    @classmethod
    async def create(
        cls, shared: Shared, owner: str, algorithm: str, size: int | None
    ) -> ChunkFile:
        """Make the file of a new upload, and room for what is to come.

        Raises:
            Unsupported: The digest algorithm is not offered here.
            StorageFull: `size` bytes do not fit, or there is no room for its name.
            StoreFailed: It cannot be made.
        """
        running_digest(algorithm, shared.disk.files)
        path = shared.folder / owner
        fd, allocated = await shared.disk.run(_created, shared, path, owner, size)
        return cls(
            shared,
            Handle(shared.disk, path, fd),
            owner=owner,
            algorithm=algorithm,
            allocated=allocated,
        )

    @property
    def allocated(self) -> bool:
        """Whether the space for all that is to come is reserved."""
        return self._allocated

    async def write(self, data: Buffer, offset: int) -> None:
        """Write all of the data.

        Raises:
            StorageFull: There is no space; some of the data may have been written.
            StoreFailed: Writing failed.
        """
        handle = self._handle
        await handle.run(self._write, handle.fd, data, offset)

    @property
    def in_memory(self) -> bool:
        """Whether writing waits for no device, so that `write_now` may be used."""
        return self._shared.in_memory

    def write_now(self, data: Buffer, offset: int) -> None:
        """Write all of the data here and now, which spares the way to a thread.

        Raises:
            ValueError: The file is closed.
            StorageFull: There is no space; some of the data may have been written.
            StoreFailed: Writing failed.
        """
        handle = self._handle
        handle.call(self._write, handle.fd, data, offset)

    async def sync(self) -> None:
        """Make everything written so far durable, the file's name included.

        Raises:
            StoreFailed: That failed, and fails until `reopen`.
        """
        synced = [self._handle.sync()]
        if not self._linked:
            synced.append(self._shared.disk.syncer.sync(self._shared.folder))
        await asyncio.gather(*synced)
        self._linked = True

    def advance(self, size: int) -> None:
        """Let the digest, if there is one, follow to `size`."""
        if self._digest is not None:
            self._digest.advance(self._handle, size)

    async def digest(self, size: int) -> bytes | None:
        """Return the digest of the first `size` bytes, None for crc32c.

        Raises:
            StoreFailed: The file could not be read.
        """
        if self._digest is None:
            return None
        return await self._digest.finish(self._handle, size)

    async def finish(self, size: int, *, synced: bool) -> None:
        """Cut off what was parked beyond the end, and make the file durable.

        Args:
            size: What the length is to be.
            synced: Whether all bytes before `size` were synced when they were stored.

        Raises:
            Corrupt: The file is shorter than that.
            StoreFailed: Syncing failed.
        """
        handle, files = self._handle, self._shared.disk.files
        length = handle.call(files.size, handle.fd)
        if length < size:
            raise Corrupt(handle.path, offset=length, problem="the file ends")
        if length > size:
            await handle.run(files.truncate, handle.fd, size)
        if length > size or not synced or not self._linked:
            await self.sync()

    async def mismatches(self, chunk_size: int, stored: list[StoredChunk]) -> list[int]:
        """Return the chunks whose bytes are not on the disk (see `verification`).

        What is on the disk, the file's name included, is synced: a process that was
        killed may have left it in the cache, and now it is told to the client.

        Raises:
            StoreFailed: The file could not be synced or read.
        """
        await self.sync()
        return await mismatches(
            self._handle, self._shared.disk.files, chunk_size, stored
        )

    async def reopen(self) -> None:
        """Close the file and open it again; the digest begins anew.

        Raises:
            StoreFailed: It cannot be opened.
        """
        await self.close()
        self._handle = await _opened(self._shared, self._owner)
        self._digest = running_digest(self._algorithm, self._shared.disk.files)
        self._linked = False

    async def close(self) -> None:
        """Close the file when no call uses it any more.

        Raises:
            StoreFailed: The file system failed; the descriptor is gone all the same.
        """
        if self._digest is not None:
            await self._digest.stop()
        await self._handle.close()

    def _write(self, fd: int, data: Buffer, offset: int) -> None:
        size = memoryview(data).nbytes
        if not self._allocated:
            self._shared.space.require(size, owner=self._owner)
        write_all(self._shared.disk.files, fd, [data], offset)
        # A digest reads everything once more, so for that the cache is worth it.
        if not self._shared.cached and self._digest is None and size >= _LARGE:
            self._shared.disk.files.drop_cache(fd)


async def _opened(shared: Shared, owner: str) -> Handle:
    return await Handle.open(shared.disk, shared.folder / owner, _FLAGS)


def _created(
    shared: Shared, path: Path, owner: str, size: int | None
) -> tuple[int, bool]:
    """Make a file in a thread; return its descriptor, and whether it has its space."""
    files = shared.disk.files
    fd = files.open(path, _FLAGS)
    try:
        return fd, size is not None and _allocated(shared, fd, owner, size)
    except BaseException:
        with contextlib.suppress(OSError):  # what is left goes at the next start
            files.close(fd)
            files.unlink(path)
        raise


def _allocated(shared: Shared, fd: int, owner: str, size: int) -> bool:
    shared.space.require(size, owner=owner)
    if shared.in_memory:
        # It would be as much work as writing, before the first byte may come: 0.3 s
        # a GiB, a third of an upload. The space is only claimed.
        return False
    return size > 0 and shared.disk.files.allocate(fd, size)
