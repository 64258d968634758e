"""The file of `subscribe --output`: lines of JSON that also say where to continue."""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Output"]

BLOCK = 2**16


class Output:
    """Appends lines, after cutting off one that a crash tore.

    Attributes:
        next_id: the id after the last complete line; None if there is none.
        unsynced_bytes: written since the last `sync()`.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666
        )
        self.unsynced_bytes = 0
        try:
            self._lock(path)
            self.next_id = self._look_back(path)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, data: bytes) -> None:
        """Append lines; may block."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.unsynced_bytes += len(data)

    def sync(self) -> None:
        """Put everything written on the disk; blocks."""
        os.fdatasync(self._fd)
        self.unsynced_bytes = 0

    def close(self) -> None:
        """Close."""
        os.close(self._fd)

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is writing {path}") from None

    def _look_back(self, path: Path) -> int | None:
        """Cut a torn line off, and return the id after the last complete one."""
        size = os.fstat(self._fd).st_size
        tail = self._tail(size, 1)
        end = size - len(tail) + tail.rfind(b"\n") + 1 if b"\n" in tail else 0
        if end < size:
            os.ftruncate(self._fd, end)
        if not end:
            return None
        last = self._tail(end, 2).rstrip(b"\n").rsplit(b"\n", 1)[-1]
        try:
            event: Any = json.loads(last)
            return int(event["id"]) + int(event.get("gap", 1))
        except (ValueError, TypeError, KeyError):
            raise UsageError(
                f"{path} ends with a line that is no event; name another file"
            ) from None

    def _tail(self, end: int, newlines: int) -> bytes:
        """Return the end of the first `end` bytes, with so many newlines if it can."""
        size = min(BLOCK, end)
        while True:
            tail = os.pread(self._fd, size, end - size)
            if size == end or tail.count(b"\n") >= newlines:
                return tail
            size = min(size * 2, end)
