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

__all__ = ["FORMAT", "DataFolder"]

FORMAT = "ackline-data 1"

#: The format file while it is written.
_DRAFT = "format.draft"

#: Bytes read of a format or lock file; ours are shorter.
_SHORT = 100


class DataFolder:
    """A data folder that belongs to this process until it is closed.

    Everything blocks: it is opened once, before there is anything else to do.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

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
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(path, files)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise disk_failure(str(path), error) from error
        try:
            _take(path, lock)
            _check_format(path, files)
            for name in ("objects", "logs"):
                files.make_directory(path / name)
            # Nothing inside is durable before the names that lead to it are.
            files.sync_directory(path)
            files.sync_directory(path.parent)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise disk_failure(str(path), error) from error
            raise
        return cls(path, lock)

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
                raise ForeignFolder(path, found=name, supported=FORMAT)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise disk_failure(str(path), error) from error
        try:
            _take(path, lock)
            _check_format(path, files)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise disk_failure(str(path), error) from error
            raise
        return cls(path, lock)

    def close(self) -> None:
        """Let another server have the folder. May be called again."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _take(path: Path, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, _SHORT, 0).decode(errors="replace").strip()
        raise Locked(path, owner) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _refuse_foreign(path: Path, files: Files) -> None:
    """Check that a folder is ours or empty, before anything is made in it."""
    found = files.sizes(path)
    others = sorted(found.keys() - {"lock", _DRAFT})
    if others and "format" not in found:
        raise ForeignFolder(path, found=others[0], supported=FORMAT)


def _check_format(path: Path, files: Files) -> None:
    """Check the format file, or make it."""
    file = path / "format"
    if not file.exists():
        _write_format(path, files)
        return
    with file.open("rb") as stream:
        found = stream.read(_SHORT).decode(errors="replace")
    if found != FORMAT + "\n":
        raise FormatMismatch(path, found=found.strip(), supported=FORMAT)


def _write_format(path: Path, files: Files) -> None:
    # Under another name first: a crash must not leave an empty format file.
    draft = path / _DRAFT
    fd = files.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(files, fd, [f"{FORMAT}\n".encode()], 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    draft.rename(path / "format")
