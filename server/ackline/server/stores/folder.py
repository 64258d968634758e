"""The data folder: its format, and who has it.

format            "ackline-data 1"
lock              locked while a server runs; says which process that is
records.sqlite3   everything that is not bytes (`schema`)
objects/ID        the bytes of an upload, later of the object
logs/ID/*.log     the segments of a log (`batches`)
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from ackline.server.stores.errors import (
    ForeignFolder,
    FormatMismatch,
    Locked,
    disk_failure,
)
from ackline.server.stores.files import write_all

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.stores.files import Files

__all__ = ["DataFolder", "write_format"]

_FORMAT = "ackline-data 1"

#: The format file while it is written.
_DRAFT = "format.draft"

#: Bytes read of a format or lock file; ours are shorter.
_SHORT = 100


class DataFolder:
    """A data folder that belongs to this process until it is closed.

    Everything blocks: it is opened once, before there is anything else to do.
    """

    def __init__(self, path: Path, lock: int, files: Files) -> None:
        self.path = path
        self._lock = lock
        self._files = files

    @classmethod
    def open(cls, path: Path, files: Files) -> DataFolder:
        """Make or check a data folder and lock it.

        Raises:
            Locked: Another server has it.
            FormatMismatch: It is of another version, or holds something else.
            StorageFull: There is no room to make it.
            StoreFailed: It cannot be made or read.
        """
        try:
            made = [each for each in path.parents if not each.exists()]
            files.make_directory(path, parents=True)
            _refuse_foreign(path, files)
            lock = files.open(path / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise disk_failure(str(path), error) from error
        try:
            _take(path, lock, files)
            _check_format(path, files)
            for name in ("objects", "logs"):
                files.make_directory(path / name)
            # Nothing inside is durable before the names that lead to it are.
            files.sync_directory(path)
            for folder in (path, *made):
                files.sync_directory(folder.parent)
        except BaseException as error:
            files.close(lock)
            if isinstance(error, OSError):
                raise disk_failure(str(path), error) from error
            raise
        return cls(path, lock, files)

    @classmethod
    def existing(cls, path: Path, files: Files) -> DataFolder:
        """Check and lock a data folder that a server made; nothing is made in it.

        Raises:
            Locked: A server has it.
            FormatMismatch: It is of another version, or no data folder.
            StoreFailed: It cannot be read.
        """
        try:
            found = files.sizes(path)
            if "format" not in found:
                name = min(found, default="nothing")
                raise ForeignFolder(path, found=name, supported=_FORMAT)
            lock = files.open(path / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise disk_failure(str(path), error) from error
        try:
            _take(path, lock, files)
            _check_format(path, files)
        except BaseException as error:
            files.close(lock)
            if isinstance(error, OSError):
                raise disk_failure(str(path), error) from error
            raise
        return cls(path, lock, files)

    def close(self) -> None:
        """Let another server have the folder. May be called again."""
        if self._lock >= 0:
            self._files.close(self._lock)
            self._lock = -1


def write_format(path: Path, files: Files) -> None:
    """Say that a folder is a data folder.

    Raises:
        OSError: That failed.
    """
    # Under another name first: a crash must not leave an empty format file.
    draft = path / _DRAFT
    fd = files.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(files, fd, [f"{_FORMAT}\n".encode()], 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.rename(draft, path / "format")
    # Before anything else is made here: without this file it would be foreign.
    files.sync_directory(path)


def _take(path: Path, lock: int, files: Files) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, _SHORT, 0).decode(errors="replace").strip()
        raise Locked(path, owner) from None
    files.truncate(lock, 0)
    write_all(files, lock, [f"{os.getpid()}\n".encode()], 0)


def _refuse_foreign(path: Path, files: Files) -> None:
    """Check that a folder is ours or empty, before anything is made in it."""
    found = files.sizes(path)
    others = sorted(found.keys() - {"lock", _DRAFT, "lost+found"})
    if others and "format" not in found:
        raise ForeignFolder(path, found=others[0], supported=_FORMAT)


def _check_format(path: Path, files: Files) -> None:
    """Check the format file, or make it."""
    file = path / "format"
    if not file.exists():
        write_format(path, files)
        return
    with file.open("rb") as stream:
        found = stream.read(_SHORT).decode(errors="replace")
    if found != _FORMAT + "\n":
        raise FormatMismatch(path, found=found.strip(), supported=_FORMAT)
