"""Where a fetch writes: a file, something with `write()`, or memory."""

from __future__ import annotations

import fcntl
import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

from ackline.aio import in_memory
from ackline.proto.checksums import crc32c
from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    from ackline.client.digests import Hash

__all__ = [
    "FetchTarget",
    "FileTarget",
    "MemoryTarget",
    "ResumableTarget",
    "Target",
    "WriterTarget",
    "make_target",
]

FetchTarget: TypeAlias = str | os.PathLike[str] | IO[bytes] | None

PIECE = 256 * 2**10
"""Bytes of one write to a file on a disk. Linux caches a write of 4 MiB in the largest
pages it has. On a virtual machine that gets its memory on first use those are the new
ones: a GiB fetched to a disk took 1.8 to 3.2 s of processor time in place of 0.6."""


class Target(ABC):
    """Takes an object's bytes in order. All methods may block: call them in a thread.

    Attributes:
        hash: gets every byte too, unless it is None.
    """

    hash: Hash | None = None

    @property
    def at_once(self) -> bool:
        """Whether writing waits for nothing, so that no thread is needed."""
        return False

    def write(self, at: int, data: memoryview) -> None:
        """Write bytes that belong at offset `at`; everything before it is there."""
        self.put(at, data)
        if self.hash is not None:
            self.hash.update(data)

    @abstractmethod
    def put(self, at: int, data: memoryview) -> None:
        """Write."""

    def finish(self) -> None:  # noqa: B027 - a hook
        """Make what was written durable and visible."""

    def discard(self) -> None:  # noqa: B027 - a hook
        """Delete what was written: it is not the object."""

    def close(self) -> None:  # noqa: B027 - a hook
        """End, and leave what was written for a later attempt."""


class MemoryTarget(Target):
    """Keeps the bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def at_once(self) -> bool:
        """Whether it is only copied."""
        return self.hash is None

    def put(self, at: int, data: memoryview) -> None:
        """Append."""
        self.data[at:] = data


class WriterTarget(Target):
    """Anything with `write()`, such as standard output; it cannot be continued."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def put(self, at: int, data: memoryview) -> None:
        """Write all."""
        while data:
            written = self._file.write(data)
            data = data[written:]

    def finish(self) -> None:
        """Flush."""
        self._file.flush()


class ResumableTarget(Target):
    """Keeps what was written for a later attempt."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes that are there from an earlier attempt."""

    @abstractmethod
    def read_back(self, at: int, size: int) -> int:
        """Return the CRC-32C of bytes written earlier, adding them to the hash."""

    @abstractmethod
    def cut(self, size: int) -> None:
        """Drop everything from `size` on."""


class FileTarget(ResumableTarget):
    """A file that appears whole or not at all: until then it is `NAME.part`.

    Raises:
        UsageError: another process writes it, or it is no regular file.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise UsageError(f"{path} is a directory; give the name of a file")
        if path.exists() and not path.is_file():
            # A device or a pipe would be replaced by the file.
            raise UsageError(
                f"{path} is not a regular file; give the name of one, or fetch to"
                " standard output"
            )
        self._path = path
        self.part = path.with_name(path.name + ".part")
        self._fd = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise UsageError(f"another process is writing {self.part}") from None
        self._in_memory = in_memory(self._fd)

    @property
    def at_once(self) -> bool:
        """Whether the file is in memory, and nothing is computed of it."""
        return self._in_memory and self.hash is None

    @property
    def size(self) -> int:
        """Bytes that are there from an earlier attempt."""
        return os.fstat(self._fd).st_size

    def put(self, at: int, data: memoryview) -> None:
        """Write at the offset, and have the disk begin with it."""
        first, size = at, len(data)
        piece = size if self._in_memory else PIECE
        while data:
            written = os.pwrite(self._fd, data[:piece], at)
            at += written
            data = data[written:]
        if sys.platform == "linux" and not self._in_memory:
            # Begins to write what is dirty, and drops only what is on the disk: of what
            # was written just now, nothing. Otherwise all of it waits for fsync.
            os.posix_fadvise(self._fd, first, size, os.POSIX_FADV_DONTNEED)

    def read_back(self, at: int, size: int) -> int:
        """Return the CRC-32C of bytes written earlier, adding them to the hash."""
        buffer = memoryview(bytearray(min(size, 2**20)))
        crc = 0
        while size:
            got = os.preadv(self._fd, [buffer[: min(size, len(buffer))]], at)
            if not got:
                raise OSError(f"{self.part} became shorter while it was read")
            crc = crc32c(buffer[:got], crc)
            if self.hash is not None:
                self.hash.update(buffer[:got])
            at += got
            size -= got
        return crc

    def cut(self, size: int) -> None:
        """Drop everything from `size` on."""
        os.ftruncate(self._fd, size)

    def finish(self) -> None:
        """Sync, rename, and sync the folder."""
        os.fsync(self._fd)
        self.part.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Delete `NAME.part`."""
        self.part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close; an empty `NAME.part` is not worth keeping."""
        try:
            if not self.size:
                self.part.unlink(missing_ok=True)
        finally:
            os.close(self._fd)


def make_target(target: FetchTarget) -> Target:
    """Return the target for what the caller gave.

    Raises:
        UsageError: it is nothing that can be written to.
        OSError: the file cannot be made.
    """
    if target is None:
        return MemoryTarget()
    if isinstance(target, (str, os.PathLike)):
        return FileTarget(Path(target))
    if hasattr(target, "write"):
        return WriterTarget(target)
    raise UsageError(
        f"cannot fetch into a {type(target).__name__}; give a path, a binary file or"
        " None"
    )
