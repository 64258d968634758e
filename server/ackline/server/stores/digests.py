"""Digests of uploads, computed while chunks arrive.

A hash needs the bytes in order and chunks come in any; so the bytes are read back, in
order, from the file, which the page cache still holds. That works the same for a chunk
that came in parts and for an upload continued after a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from typing import TYPE_CHECKING, Protocol

from ackline.server.stores.errors import StoreError, StoreFailed, Unsupported
from ackline.server.stores.files import read_into

if TYPE_CHECKING:
    from ackline.server.stores.files import Files
    from ackline.server.stores.handles import Handle

__all__ = ["ALGORITHMS", "Hash", "RunningDigest", "new_hash", "running_digest"]

#: crc32c is composed from the chunks' own and needs no pass over the bytes.
ALGORITHMS = frozenset({"crc32c", "sha256", "blake3"})

#: Bytes hashed in one thread call: 1 to 4 ms, so that other calls get their turn.
_STEP = 4 * 2**20

#: Bytes read at once, small enough to stay in the processor's cache.
_BUFFER = 2**18


class Hash(Protocol):
    """What hashlib and the like return."""

    def update(self, data: memoryview, /) -> object:
        """Hash more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


def new_hash(algorithm: str) -> Hash:
    """Return a new hash object.

    Raises:
        Unsupported: No such algorithm, or its package is not installed.
    """
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm != "blake3":
        raise Unsupported(f"digest {algorithm!r}", "use crc32c, sha256 or blake3")
    try:
        module = importlib.import_module("blake3")
    except ImportError:
        raise Unsupported(
            "digest 'blake3'", "install the package blake3, or use sha256"
        ) from None
    hasher: Hash = module.blake3()
    return hasher


def running_digest(algorithm: str, files: Files) -> RunningDigest | None:
    """Return a digest to feed, or None for crc32c, which is composed.

    Raises:
        Unsupported: No such algorithm, or its package is not installed.
    """
    if algorithm == "crc32c":
        return None
    return RunningDigest(new_hash(algorithm), files)


class RunningDigest:
    """A hash that follows the contiguous part of a growing file.

    `advance` as often as the part grows, then `finish`; or `stop`.
    """

    def __init__(self, hasher: Hash, files: Files) -> None:
        self._hash = hasher
        self._files = files
        self._buffer = memoryview(bytearray(_BUFFER))
        self._hashed = 0
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._failure: StoreError | None = None

    def advance(self, handle: Handle, size: int) -> None:
        """Hash, in the background, what the file has before `size`."""
        self._size = max(self._size, size)
        if self._hashed < self._size and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._follow(handle))

    async def finish(self, handle: Handle, size: int) -> bytes:
        """Return the digest of the first `size` bytes, which must be all there are.

        Raises:
            StoreFailed: The file could not be read.
        """
        self._failure = None
        while self._hashed < size:
            self.advance(handle, size)
            if self._task is not None:
                await asyncio.wait([self._task])
            if self._failure is not None:
                raise self._failure
        return self._hash.digest()

    async def stop(self) -> None:
        """Stop hashing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self, handle: Handle) -> None:
        try:
            while self._hashed < self._size:
                end = min(self._size, self._hashed + _STEP)
                await handle.run(self._update, handle.fd, end)
        except StoreError as error:
            self._failure = error  # finish() raises it

    def _update(self, fd: int, end: int) -> None:
        """Hash the file up to `end`, in a pool thread; one such call runs at a time."""
        while self._hashed < end:
            part = self._buffer[: min(len(self._buffer), end - self._hashed)]
            if read_into(self._files, fd, part, self._hashed) < len(part):
                raise StoreFailed("digest", f"the file ends before byte {end}")
            self._hash.update(part)
            # At once: after a failed read hashing goes on exactly here.
            self._hashed += len(part)
