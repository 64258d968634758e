"""A consistent copy of a data folder, made while a server runs on it.

Objects never change once they are committed, so theirs are hard links where the copy
is on the same file system: no bytes are copied, and deleting one does not touch the
other. What still changes is copied: the records by SQLite's own backup, of open uploads
the chunks that the records know, of logs what can be read by then.

Objects go first and the records after them; what came or went in between is taken from
there, and if something is gone, the records are copied again. So the copy is one
moment of the server. The file that makes it a data folder comes last: an interrupted
copy is none.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ackline.server.maintenance.reading import RECORDS, reading
from ackline.server.stores.files import read_into, write_all
from ackline.server.stores.folder import write_format
from ackline.server.stores.segments import RecordReader, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ackline.server.stores.files import Files

__all__ = ["MovingTarget", "backup"]

#: Times the records are copied because something that they name was deleted meanwhile.
_ATTEMPTS = 20

#: Bytes copied at once.
_PIECE = 2**20


class MovingTarget(Exception):  # noqa: N818 - it is an answer, not a defect
    """Report that things are deleted faster than the copy is made."""

    def __init__(self) -> None:
        super().__init__(
            "objects or logs are deleted faster than they can be copied; try again"
        )


def backup(
    folder: Path, target: Path, files: Files, progress: Callable[[int], None]
) -> None:
    """Make a copy of a data folder in an empty one.

    Args:
        folder: A data folder; a server may run on it.
        target: An empty folder.
        files: The file system.
        progress: Told the number of bytes whenever some are in the copy.

    Raises:
        MovingTarget: Too much is deleted at the moment.
        OSError: A file cannot be read or written.
        sqlite3.Error: The records cannot be read or written.
    """
    for name in ("objects", "logs"):
        files.make_directory(target / name)
    _copy_objects(folder, target, files, progress)
    for _ in range(_ATTEMPTS):
        _copy_records(folder, target, files)
        try:
            _complete(folder, target, files, progress)
        except FileNotFoundError:
            continue
        break
    else:
        raise MovingTarget
    _sync(target, files)


def _copy_objects(
    folder: Path, target: Path, files: Files, progress: Callable[[int], None]
) -> None:
    """Link or copy the objects there are now."""
    with reading(folder) as connection:
        names = connection.execute("SELECT object_id, size FROM objects").fetchall()
    for name, size in names:
        with suppress(FileNotFoundError):  # deleted meanwhile
            _link(folder / "objects" / name, target / "objects" / name, files)
        progress(size)


def _copy_records(folder: Path, target: Path, files: Files) -> None:
    files.unlink(target / RECORDS)
    with (
        reading(folder) as connection,
        closing(sqlite3.connect(target / RECORDS)) as copy,
    ):
        connection.backup(copy)


def _complete(
    folder: Path, target: Path, files: Files, progress: Callable[[int], None]
) -> None:
    """Bring the files in line with the records as copied.

    Raises:
        FileNotFoundError: Something that they name is gone.
    """
    with reading(target) as connection:
        objects = dict(connection.execute("SELECT object_id, size FROM objects"))
        uploads = connection.execute(
            "SELECT serial, upload_id, chunk_size FROM uploads WHERE outcome IS NULL"
        ).fetchall()
        known = objects.keys() | {row[1] for row in uploads}
        for path in (target / "objects").iterdir():
            if path.name not in known:
                files.unlink(path)
        for name, size in objects.items():
            if not (target / "objects" / name).exists():
                _link(folder / "objects" / name, target / "objects" / name, files)
                progress(size)
        for serial, name, chunk_size in uploads:
            chunks = connection.execute(
                "SELECT number * ?, length FROM chunks WHERE upload = ?",
                (chunk_size, serial),
            )
            source, copy = folder / "objects" / name, target / "objects" / name
            _copy_parts(source, copy, chunks, files, progress)
        logs = connection.execute("SELECT log_id, salt FROM logs").fetchall()
    files.remove_directory(target / "logs")
    files.make_directory(target / "logs")
    for log_id, salt in logs:
        _copy_log(folder / "logs" / log_id, target / "logs" / log_id, salt, files)
        progress(sum(files.sizes(target / "logs" / log_id).values()))


def _link(source: Path, target: Path, files: Files) -> None:
    """Give a file that never changes a second name, or copy it."""
    try:
        files.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        files.copy(source, target)


def _copy_parts(
    source: Path,
    target: Path,
    parts: sqlite3.Cursor,
    files: Files,
    progress: Callable[[int], None],
) -> None:
    """Copy parts of a file to the same places of another."""
    buffer = memoryview(bytearray(_PIECE))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with (
        opened(files, source, os.O_RDONLY) as reader,
        opened(files, target, flags) as writer,
    ):
        for offset, length in parts:
            at, end = offset, offset + length
            while at < end:
                count = read_into(files, reader, buffer[: end - at], at)
                if not count:
                    break
                write_all(files, writer, [buffer[:count]], at)
                at += count
            progress(length)


def _copy_log(source: Path, target: Path, salt: int, files: Files) -> None:
    """Copy the segments of a log, the newest as far as it can be read."""
    files.make_directory(target)
    names = sorted(name for name in files.sizes(source) if name.endswith(".log"))
    for name in names:
        try:
            files.copy(source / name, target / name)
        except FileNotFoundError:
            # Deleted by retention, and all before it: what is kept begins later. The
            # whole log is gone if the newest one is.
            if name == names[-1]:
                raise
            files.remove_directory(target)
            files.make_directory(target)
    for name in names[-1:]:
        _cut_unfinished(target / name, salt, files)


def _cut_unfinished(path: Path, salt: int, files: Files) -> None:
    """Cut off a write that was not finished when the file was copied."""
    with opened(files, path, os.O_RDWR) as fd:
        size = files.size(fd)
        reader = RecordReader(files, fd, salt=salt, offset=0, end=size)
        end = 0
        while (header := reader.header()) is not None:
            if reader.payload(header) is None:
                break
            end = reader.offset
        files.truncate(fd, end)
    if not end:
        files.unlink(path)


def _sync(target: Path, files: Files) -> None:
    """Put everything on stable storage, and then say that it is a data folder."""
    for path in sorted(target.rglob("*")):
        if path.is_dir():
            files.sync_directory(path)
        else:
            with opened(files, path, os.O_RDONLY) as fd:
                files.fdatasync(fd)
    write_format(target, files)
    files.sync_directory(target.parent)
