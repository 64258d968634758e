"""The file-system calls of the stores, each of which can fail.

Everything that the stores and their maintenance do to files goes through one `Files`
object: tests replace it to make a call fail or come up short, and the crash simulator
to know what was written and what was synced. SQLite does its own calls; `records` says
how it is made to fail.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.aio import in_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = ["Files", "read_into", "write_all"]

#: Linux refuses more buffers in one call (IOV_MAX).
_MAX_BUFFERS = 1024

#: For reading only what the page cache holds; not on every system.
_UNLESS_IT_WAITS: int | None = getattr(os, "RWF_NOWAIT", None)

#: What a file system without preallocation answers.
_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Files:
    """The operating system's calls, nothing added. Every method may raise OSError."""

    def open(self, path: Path, flags: int) -> int:
        """Return a descriptor of the file, made readable by its owner only."""
        return os.open(path, flags, 0o600)

    def close(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write some of the bytes at `offset` and return how many."""
        return os.pwritev(fd, buffers, offset)

    def preadv(self, fd: int, buffer: Buffer, offset: int) -> int:
        """Read into `buffer` and return how many bytes, 0 at the end of the file."""
        return os.preadv(fd, [buffer], offset)

    def read_now(self, fd: int, buffer: Buffer, offset: int, *, in_memory: bool) -> int:
        """Read what waits for no device, and return how many bytes: 0 if it would."""
        flags = 0 if in_memory else _UNLESS_IT_WAITS
        if flags is None:
            return 0
        try:
            return os.preadv(fd, [buffer], offset, flags)
        except BlockingIOError:
            return 0

    def fdatasync(self, fd: int) -> None:
        """Wait until the file's bytes, and its length, are on stable storage."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in a directory are on stable storage."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def drop_cache(self, fd: int) -> None:
        """Let the page cache forget what is synced, and begin to write the rest.

        Later reads come from the disk. After a failed sync the kernel keeps pages that
        are marked clean and are not there; reading those would verify what does not
        exist.
        """
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def allocate(self, fd: int, size: int) -> bool:
        """Reserve the space of a file; return False where that is not supported."""
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno in _CANNOT_ALLOCATE:
                return False
            raise
        return True

    def in_memory(self, path: Path) -> bool:
        """Tell whether a folder is memory: writing there waits for no device."""
        return in_memory(path)

    def truncate(self, fd: int, size: int) -> None:
        """Set the length of a file."""
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        """Return the length of an open file in bytes."""
        return os.fstat(fd).st_size

    def free(self, path: Path) -> int:
        """Return the bytes that may still be written to this file system."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def unlink(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in its directory, whatever had that name."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def copy(self, source: Path, target: Path) -> None:
        """Copy the bytes of a file to one that is made, or overwritten."""
        shutil.copyfile(source, target)

    def make_directory(self, path: Path, *, parents: bool = False) -> None:
        """Make a directory that may exist already, and what leads to it if need be."""
        path.mkdir(mode=0o700, parents=parents, exist_ok=True)

    def remove_directory(self, path: Path) -> None:
        """Remove a directory that may be gone already, with all that is in it."""
        if path.exists():
            shutil.rmtree(path)

    def sizes(self, path: Path) -> dict[str, int]:
        """Return the name and length of everything in a directory."""
        with os.scandir(path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}


def write_all(files: Files, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write all of the buffers one after the other, however many calls it takes.

    Raises:
        OSError: A call failed. Some of the bytes may have been written.
    """
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    at = 0
    while at < len(views):
        written = files.pwritev(fd, views[at : at + _MAX_BUFFERS], offset)
        offset += written
        while at < len(views) and written >= len(views[at]):
            written -= len(views[at])
            at += 1
        if written:
            views[at] = views[at][written:]


def read_into(files: Files, fd: int, buffer: Buffer, offset: int) -> int:
    """Fill the buffer from `offset` and return how many bytes the file had for it.

    Raises:
        OSError: A call failed.
    """
    view = memoryview(buffer).cast("B")
    total = 0
    while total < len(view):
        count = files.preadv(fd, view[total:], offset + total)
        if not count:
            break
        total += count
    return total
