"""Committed objects, open for reading."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ackline.server.stores.errors import Corrupt
from ackline.server.stores.handles import Handle

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.server.stores.entities import ObjectRecord
    from ackline.server.stores.handles import Disk

__all__ = ["FileObject"]


class FileObject:
    """A committed object in a file.

    It stays readable when it is replaced or deleted meanwhile.
    """

    def __init__(
        self, record: ObjectRecord, handle: Handle, *, in_memory: bool
    ) -> None:
        self._record = record
        self._handle = handle
        self._in_memory = in_memory

    @classmethod
    async def open(cls, disk: Disk, record: ObjectRecord, path: Path) -> FileObject:
        """Open the file of an object.

        Raises:
            Corrupt: The file has another length than the object.
            StoreFailed: It cannot be opened.
        """
        handle = await Handle.open(disk, path, os.O_RDONLY)
        length = await handle.run(disk.files.size, handle.fd)
        if length != record.size:
            await handle.close()
            raise Corrupt(path, offset=length, problem="the file ends")
        return cls(record, handle, in_memory=disk.files.in_memory(path.parent))

    @property
    def record(self) -> ObjectRecord:
        """The object as recorded."""
        return self._record

    @property
    def path(self) -> Path | None:
        """Its file, for reading only; the name goes when the object is deleted."""
        return self._handle.path

    async def read(self, offset: int, buffer: Buffer) -> int:
        """Fill the buffer from `offset`; return how many bytes the object had for it.

        Raises:
            ValueError: It is closed.
            StoreFailed: Reading failed.
        """
        return await self._handle.read(offset, buffer)

    def read_now(self, offset: int, buffer: Buffer) -> bool:
        """Fill the buffer here and now; return False if that could wait, or failed.

        Raises:
            ValueError: It is closed.
        """
        return self._handle.read_now(offset, buffer, in_memory=self._in_memory)

    async def close(self) -> None:
        """Close it when no read runs any more. May be called again."""
        await self._handle.close()
