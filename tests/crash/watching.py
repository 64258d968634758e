"""The stores' file system, and SQLite's, with a `Disk` that takes note."""

from __future__ import annotations

import os
import sqlite3
from itertools import count
from typing import TYPE_CHECKING, Any

import apsw

from ackline.server.stores.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from tests.crash.disk import Disk, StoredFile

__all__ = ["WatchedDatabase", "WatchedFiles"]

_serial = count()

_LOGS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


class WatchedFiles(Files):
    """Does what it is told in a real folder, and tells the disk.

    Attributes:
        alive: Whether the process that this file system belongs to was not killed.
    """

    def __init__(self, disk: Disk) -> None:
        self.alive = True
        self._disk = disk
        self._open: dict[int, tuple[str, StoredFile]] = {}

    def _enter(self, call: str, name: str) -> bool:
        """Let a call fail if it is its turn; return whether the disk is to hear."""
        if self.alive:
            error = self._disk.fault(call, name)
            if error:
                raise OSError(error, os.strerror(error))
        return self.alive

    def open(self, path: Path, flags: int) -> int:
        name = self._disk.name(path)
        alive = self._enter("open", name)
        fd = super().open(path, flags)
        if alive:
            file = self._disk.file(name)
            if file is None:
                file = self._disk.create(name)
            if flags & os.O_TRUNC:
                file.resize(0)
            self._open[fd] = name, file
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)
        super().close(fd)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        name, file = self._open.get(fd, ("", None))
        if file is not None and self._enter("pwritev", name):
            self._disk.before()
            data = b"".join(bytes(buffer) for buffer in buffers)
            # Now and then not everything at once, as the system may.
            some = self._disk.rng.randint(1, len(data)) if data else 0
            if self._disk.rng.random() < 0.1:
                data = data[:some]
            file.write(offset, data)
            return os.pwrite(fd, data, offset)
        return super().pwritev(fd, buffers, offset)

    def preadv(self, fd: int, buffer: Buffer, offset: int) -> int:
        self._enter("preadv", self._open[fd][0] if fd in self._open else "")
        return super().preadv(fd, buffer, offset)

    def fdatasync(self, fd: int) -> None:
        name, file = self._open.get(fd, ("", None))
        if file is None or not self.alive:
            return
        self._disk.before()
        try:
            self._enter("fdatasync", name)
        except OSError:
            file.fail_sync()
            raise
        if not self._disk.deaf("fdatasync", name):
            file.sync()

    def sync_directory(self, path: Path) -> None:
        name = self._disk.name(path)
        if self._enter("sync_directory", name):
            self._disk.sync_directory(name)

    def drop_cache(self, fd: int) -> None:
        _, file = self._open.get(fd, ("", None))
        content = None if file is None else file.drop_cache(self._disk.rng)
        if content is not None:
            os.ftruncate(fd, len(content))
            os.pwrite(fd, content, 0)

    def allocate(self, fd: int, size: int) -> bool:
        name, file = self._open.get(fd, ("", None))
        if file is None or not self._enter("allocate", name):
            return False
        if self._disk.rng.random() < 0.3:
            return False
        self._disk.before()
        super().allocate(fd, size)
        file.resize(max(size, len(file.seen())))
        return True

    def in_memory(self, path: Path) -> bool:
        return False

    def truncate(self, fd: int, size: int) -> None:
        name, file = self._open.get(fd, ("", None))
        if file is not None and self._enter("truncate", name):
            self._disk.before()
            file.resize(size)
        super().truncate(fd, size)

    def unlink(self, path: Path) -> None:
        name = self._disk.name(path)
        if self._enter("unlink", name):
            self._disk.unlink(name)
        super().unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        name = self._disk.name(source)
        if self._enter("rename", name):
            self._disk.rename(name, self._disk.name(target))
        super().rename(source, target)

    def make_directory(self, path: Path, *, parents: bool = False) -> None:
        name = self._disk.name(path)
        if self._enter("make_directory", name):
            self._disk.make_directory(name)
        super().make_directory(path, parents=parents)

    def remove_directory(self, path: Path) -> None:
        name = self._disk.name(path)
        if self._enter("remove_directory", name):
            self._disk.remove_directory(name)
        super().remove_directory(path)

    def sizes(self, path: Path) -> dict[str, int]:
        return dict(sorted(super().sizes(path).items()))


class WatchedDatabase:
    """Makes SQLite connections whose files are watched.

    `connect` takes the place of the class of connections.
    """

    def __init__(self, disk: Disk, files: WatchedFiles) -> None:
        self._vfs = _Vfs(f"watched-{next(_serial)}", disk, files)

    def connect(self, path: str, **_: object) -> sqlite3.Connection:
        connection: Any = _Connection(path, self._vfs.vfs_name)
        return connection  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let SQLite forget this file system; its connections must be closed."""
        self._vfs.unregister()


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk, files: WatchedFiles) -> None:
        super().__init__(name, "unix")
        self.vfs_name = name
        self.disk = disk
        self.files = files

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile("unix", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        return _File(self, name, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if self.files.alive:
            name = os.path.relpath(filename, self.disk.root)
            self.disk.unlink(name)
            if syncdir:
                self.disk.sync_directory(os.path.dirname(name))  # noqa: PTH120
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(
        self, vfs: _Vfs, name: str | apsw.URIFilename, path: str, flags: list[int]
    ) -> None:
        super().__init__("unix", name, flags)
        self._files, self._disk = vfs.files, vfs.disk
        self._name = os.path.relpath(path, self._disk.root)
        found = self._disk.file(self._name)
        # As the file system below does, which does not tell: the first sync of a
        # journal or log that may be made here syncs the directory too.
        self._new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _LOGS)
        if found is None and self._files.alive:
            found = self._disk.create(self._name)
        self._file = found

    def _enter(self, call: str, code: int) -> StoredFile | None:
        if not self._files.alive:
            return None
        self._disk.before()
        if self._disk.fault(call, self._name):
            if call == "fdatasync" and self._file is not None:
                self._file.fail_sync()
            raise apsw.exception_for(code)
        return self._file

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        file = self._enter("pwritev", apsw.SQLITE_IOERR_WRITE)
        if file is not None:
            file.write(offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        file = self._enter("truncate", apsw.SQLITE_IOERR_TRUNCATE)
        if file is not None:
            file.resize(newsize)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        file = self._enter("fdatasync", apsw.SQLITE_IOERR_FSYNC)
        if file is None or self._disk.deaf("xSync", self._name):
            return
        file.sync()
        if self._new:
            self._new = False
            self._disk.sync_directory(os.path.dirname(self._name))  # noqa: PTH120


class _Connection:
    """What the stores use of a `sqlite3.Connection`, over apsw."""

    def __init__(self, uri: str, vfs: str) -> None:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE
        with _translated():
            self._connection = apsw.Connection(
                uri, vfs=vfs, flags=flags | apsw.SQLITE_OPEN_CREATE
            )

    def execute(self, sql: str, values: Sequence[object] = ()) -> _Cursor:
        with _translated():
            rows: Any = self._connection.execute(sql, tuple(values))
            return _Cursor(list(rows), self._connection.changes())

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with _translated():
            self._connection.executemany(sql, [tuple(row) for row in rows])

    def create_function(
        self, name: str, count: int, function: Callable[..., Any], **options: bool
    ) -> None:
        self._connection.create_scalar_function(name, function, count, **options)

    def close(self) -> None:
        with _translated():
            self._connection.close(force=True)


class _Cursor:
    """The rows of a statement, read at once: none is open longer than it has to."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class _translated:  # noqa: N801 - used like a function
    """Raises what the module sqlite3 would."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, apsw.Error):
            return
        kind = (
            sqlite3.IntegrityError
            if isinstance(error, apsw.ConstraintError)
            else sqlite3.OperationalError
        )
        translated = kind(str(error))
        translated.sqlite_errorcode = getattr(error, "result", 0)
        raise translated from error
