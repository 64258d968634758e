"""The files that one path leads to, one after the other.

A path is looked at ten times a second, in a thread of its own that wakes nobody while
nothing changes. That works on every file system, network ones and containers' included,
where notifications of the kernel do not.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import threading
import time
from collections import deque
from typing import TYPE_CHECKING
from weakref import ref

from ackline.server.emitter import SourceError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOOK_SECONDS", "RotatedFile", "Watch"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at a path."""

SWITCH_SECONDS = 1.0
"""How long a file that was rotated away is still read after its successor has content:
the processes that write it do not reopen it all at once."""

MAX_OPEN_FILES = 16
"""Rotations that a reader may be behind; the files are kept open for it."""


class Watch:
    """Looks at a path until it is stopped; it is told to the thread of the event loop.

    Attributes:
        newest: what the path leads to, or led to last.
        problem: why it leads to nothing that can be read, if that is not just missing.
        looked: whether there was a first look.
        changed: set, and replaced, when any of these changed or the file did.
    """

    def __init__(self, path: Path) -> None:
        self.newest: RotatedFile | None = None
        self.problem: str | None = None
        self.looked = False
        self.changed = asyncio.Event()
        self._path = path
        self._open = deque[ref[RotatedFile]]()
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name=f"watch {path}", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _notice(self, newest: RotatedFile | None, problem: str | None) -> None:
        self.newest, self.problem, self.looked = newest, problem, True
        self.changed.set()
        self.changed = asyncio.Event()

    # In its thread

    def _run(self) -> None:
        newest: RotatedFile | None = None
        told: object = None
        while not self._stopped.is_set():
            state, problem = None, None
            try:
                newest, state = self._look(newest)
            except OSError as error:
                problem = error.strerror or str(error)
            seen = (newest, state, problem)
            if seen != told:
                if problem:
                    log.warning("%s: %s", self._path, problem)
                told = seen
                try:
                    self._loop.call_soon_threadsafe(self._notice, newest, problem)
                except RuntimeError:  # the loop is closed
                    return
            self._stopped.wait(LOOK_SECONDS)

    def _look(
        self, newest: RotatedFile | None
    ) -> tuple[RotatedFile | None, tuple[int, int] | None]:
        """Return the newest file, and what is another when it changes.

        Raises:
            OSError: the path leads to something that cannot be read.
        """
        try:
            about = self._path.stat()
        except FileNotFoundError:
            # It may have been renamed, and still be written.
            return newest, newest.state() if newest is not None else None
        if newest is not None and newest.identity == (about.st_dev, about.st_ino):
            newest.note(about.st_size)
            return newest, (about.st_size, about.st_mtime_ns)
        found = RotatedFile(self._path)
        if newest is not None:
            log.info("%s is another file now", self._path)
            newest.successor = found
        self._open.append(ref(found))
        if len(self._open) > MAX_OPEN_FILES:
            oldest = self._open.popleft()()
            if oldest is not None:
                oldest.close()
        return found, found.state()


class RotatedFile:
    """One file that the path led to; it is closed when nobody has it any more.

    Raises:
        OSError: it cannot be opened, or is no regular file.

    Attributes:
        identity: its device and inode; no other file's while this is open.
        successor: the file that took its place.
        size_before: its size before it last changed.
    """

    def __init__(self, path: Path) -> None:
        self.successor: RotatedFile | None = None
        self._filled: float | None = None
        self._lock = threading.Lock()
        self._fd = -1
        # A named pipe would have us wait for somebody to write to it.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        about = os.fstat(self._fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        self.identity = (about.st_dev, about.st_ino)
        self.size_before = self._size = about.st_size
        self.note(about.st_size)

    def __del__(self) -> None:
        self.close()

    @property
    def left(self) -> bool:
        """Whether its successor is written by now, by everybody."""
        after = self.successor
        if after is None:
            return False
        filled = after._filled  # noqa: SLF001 - of the same class
        return after.successor is not None or (
            filled is not None and time.monotonic() - filled >= SWITCH_SECONDS
        )

    def note(self, size: int) -> None:
        """Take note of its size."""
        if size != self._size:
            self.size_before, self._size = self._size, size
        if size and self._filled is None:
            self._filled = time.monotonic()

    def state(self) -> tuple[int, int]:
        """Return what changes when it is written. It blocks, as do those below."""
        about = os.fstat(self._fd)
        return about.st_size, about.st_mtime_ns

    def read(self, position: int, size: int) -> bytes:
        """Return bytes from a position on; fewer at the end.

        Raises:
            SourceError: it was closed.
            OSError: it cannot be read.
        """
        with self._lock:
            if self._fd < 0:
                raise SourceError(
                    f"the consumer is more than {MAX_OPEN_FILES} rotations behind"
                )
            return os.pread(self._fd, size, position)

    def close(self) -> None:
        """Close it, for those too who have it: they are too far behind."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
