"""An open file and the calls that run on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ackline.server.stores.errors import StoreError, disk_failure
from ackline.server.stores.files import read_into
from ackline.server.stores.threads import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.server.stores.files import Files
    from ackline.server.stores.sync import Syncer
    from ackline.server.stores.threads import Threads

__all__ = ["Disk", "Handle"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What it takes to work with files off the event loop."""

    files: Files
    threads: Threads
    syncer: Syncer

    async def run(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make a blocking call in a thread; see `Threads.run` about cancelling.

        Raises:
            StorageFull: The call met a full disk.
            StoreFailed: The call failed otherwise.
        """
        try:
            return await self.threads.run(function, *args, **kwargs)
        except OSError as error:
            raise disk_failure("file system", error) from error


class Handle:
    """An open file that is closed only when no call uses its descriptor.

    A descriptor that is closed under a running write would let that write go into
    whatever file gets the number next.
    """

    def __init__(self, disk: Disk, path: Path, fd: int) -> None:
        self.path = path
        self._disk = disk
        self._fd = fd
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @classmethod
    async def open(cls, disk: Disk, path: Path, flags: int) -> Handle:
        """Open a file with the flags of os.open.

        Raises:
            StorageFull: There is no room for its name.
            StoreFailed: It cannot be opened.
        """
        return cls(disk, path, await disk.run(disk.files.open, path, flags))

    @property
    def fd(self) -> int:
        """The descriptor, for calls that `run` counts."""
        return self._fd

    async def run(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make a blocking call that uses the descriptor.

        Raises:
            ValueError: The handle is closed.
            StorageFull: The call met a full disk.
            StoreFailed: The call failed otherwise.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        self._running += 1
        self._idle.clear()
        try:
            return await self._disk.run(function, *args, **kwargs)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that uses the descriptor here and now: it must not block.

        Raises:
            ValueError: The handle is closed.
            StorageFull: The call met a full disk.
            StoreFailed: The call failed otherwise.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise disk_failure("file system", error) from error

    async def read(self, offset: int, buffer: Buffer) -> int:
        """Fill the buffer from `offset` and return how many bytes there were for it.

        Raises:
            ValueError: The handle is closed.
            StoreFailed: Reading failed.
        """
        return await self.run(read_into, self._disk.files, self._fd, buffer, offset)

    def read_now(self, offset: int, buffer: Buffer, *, in_memory: bool) -> bool:
        """Fill the buffer here and now; return False if that could wait, or failed.

        Raises:
            ValueError: The handle is closed.
        """
        files, size = self._disk.files, memoryview(buffer).nbytes
        try:
            count = self.call(
                files.read_now, self._fd, buffer, offset, in_memory=in_memory
            )
        except StoreError:
            return False  # `read()` says what it is
        return count == size

    def sync(self) -> asyncio.Future[None]:
        """Return a future that is done when everything written so far is synced.

        It fails with StoreFailed, and from then on always.
        """
        return self._disk.syncer.sync(self._fd)

    async def close(self) -> None:
        """Wait for the calls that run and close the file. May be called again.

        Raises:
            StoreFailed: The file system failed; the descriptor is gone all the same.
        """
        if not self._closed:
            self._closed = True
            await uninterrupted(self._close())

    async def _close(self) -> None:
        await self._idle.wait()
        await self._disk.syncer.release(self._fd)
        await self._disk.run(self._disk.files.close, self._fd)
