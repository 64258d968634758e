"""Following a text file that grows, over rotation and truncation.

Files are looked at ten times a second: that works on every file system, network ones
and containers' included, where notifications of the kernel do not, and costs less than
a thousandth of a core for each path, however many runs read it.
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
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import ref

from ackline.server.emitter import SourceError
from ackline.server.events import Event
from ackline.server.lines import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from pathlib import Path

    from ackline.proto.messages import Value
    from ackline.server.events import Item

__all__ = ["FollowedPath"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at a path."""

SWITCH_SECONDS = 1.0
"""How long a file that was rotated away is still read after its successor has content:
the processes that write it do not reopen it all at once."""

MAX_OPEN_FILES = 16
"""Rotations that a run may be behind; the files are kept open for it."""

READ_SIZE = 2**17
"""Bytes read at once: some thousand lines for one turn of a thread."""

MARK_SIZE = 64
"""Bytes before the position that are read again: where they are others, the file was
truncated and has grown since."""


class FollowedPath:
    """A path, and the files it leads to one after the other.

    Args:
        path: of a text file, which need not exist yet.

    Raises:
        ValueError: there is something else than a file.

    Attributes:
        path: as given.
        changed: set, and replaced, when there may be more to read.
    """

    def __init__(self, path: Path) -> None:
        with suppress(OSError):  # the first run tells what is wrong
            if path.exists() and not path.is_file():
                raise ValueError("it is not a regular file")
        self.path = path
        self.changed = asyncio.Event()
        self._newest: _File | None = None
        self._state: tuple[int, int] | None = None
        self._looked = False
        self._problem: str | None = None
        self._open = deque[ref[_File]]()
        self._readers = 0
        self._looking: asyncio.Task[None] | None = None

    def check(self, values: Mapping[str, Value]) -> None:
        """Check the parameters of `lines()`.

        Raises:
            ValueError: `last` is no number of lines.
        """
        last = values.get("last")
        if last is None:
            return
        if isinstance(last, bool) or not isinstance(last, int) or last < 0:
            raise ValueError(f"last={last!r} is not a number of lines from 0 on")

    async def lines(self, last: int | None = None) -> AsyncGenerator[Item]:
        """Yield the lines that are there, then each that is added, without an end.

        A file that is not there is waited for. What a file ends with comes when its
        newline does, or when the file is rotated away or truncated.

        Args:
            last: how many of the lines that are there; None for all.

        Raises:
            SourceError: the path leads to something else than a readable file, or this
                reader is too many rotations behind.
        """
        with self._reading():
            file, was_there = await self._first()
            position = 0
            if last is not None and was_there:
                position = await _beginning(file, last)
            cursor = _Cursor(self, file, position)
            del file  # it is open for as long as somebody has it
            while True:
                for item in await cursor.more():
                    yield item

    @contextmanager
    def _reading(self) -> Generator[None]:
        """Have the path looked at while somebody reads it."""
        self._readers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name=f"{self.path}")
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._looking.cancel()
                self._looking = self._newest = self._state = self._problem = None
                self._looked = False

    async def _first(self) -> tuple[_File, bool]:
        """Return the file, and whether it was there before anybody waited for it."""
        waited = False
        while self._newest is None:
            if self._problem is not None:
                raise SourceError(f"{self.path.name}: {self._problem}")
            waited = self._looked
            await self.changed.wait()
        return self._newest, not waited

    async def _look(self) -> None:
        while True:
            try:
                found, state = await asyncio.to_thread(self._look_once, self._newest)
            except OSError as error:
                self._warn(error.strerror or str(error))
            else:
                self._problem = None
                if found is not None:
                    await self._take(found)
                if state != self._state or found is not None or not self._looked:
                    self._state = state
                    self._wake()
            await asyncio.sleep(LOOK_SECONDS)

    def _look_once(
        self, newest: _File | None
    ) -> tuple[_File | None, tuple[int, int] | None]:
        """Return a file that was not there before, and what tells of a change.

        Raises:
            OSError: the path leads to something that cannot be read.
        """
        try:
            about = self.path.stat()
        except FileNotFoundError:
            # It may have been renamed, and still be written.
            return None, newest.state() if newest is not None else None
        if newest is not None and newest.identity == (about.st_dev, about.st_ino):
            newest.note(about.st_size)
            return None, (about.st_size, about.st_mtime_ns)
        found = _File(self.path)
        return found, found.state()

    async def _take(self, found: _File) -> None:
        if self._newest is not None:
            log.info("%s is another file now", self.path)
            self._newest.successor = found
        self._newest = found
        self._open.append(ref(found))
        if len(self._open) > MAX_OPEN_FILES:
            oldest = self._open.popleft()()
            if oldest is not None:
                await asyncio.to_thread(oldest.close)

    def _warn(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("%s: %s", self.path, problem)
            self._problem = problem
            self._wake()

    def _wake(self) -> None:
        self._looked = True
        self.changed.set()
        self.changed = asyncio.Event()


class _File:
    """One file that the path led to; it is closed when nobody has it any more.

    Raises:
        OSError: it cannot be opened, or is no regular file.

    Attributes:
        identity: its device and inode; no other file's while this is open.
        successor: the file that took its place.
        size_before: its size before it last changed.
    """

    def __init__(self, path: Path) -> None:
        self.successor: _File | None = None
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


async def _beginning(file: _File, last: int) -> int:
    """Return the position of the `last` complete lines of a file."""
    newlines = last + 1
    end, _ = await asyncio.to_thread(file.state)
    while end:
        start = max(0, end - READ_SIZE)
        block = await asyncio.to_thread(file.read, start, end - start)
        count = block.count(b"\n")
        if count >= newlines:
            at = len(block)
            for _ in range(newlines):
                at = block.rfind(b"\n", 0, at)
            return start + at + 1
        newlines -= count
        end = start
    return 0


class _Cursor:
    """One reader's place in the files of a path."""

    def __init__(self, followed: FollowedPath, file: _File, position: int) -> None:
        self._followed = followed
        self._file = file
        self._position = position
        self._mark: bytes | None = None
        self._lines = Lines()

    async def more(self) -> list[Item]:
        """Wait for more lines and return them.

        Raises:
            SourceError: it is too far behind, or the file cannot be read.
        """
        while True:
            # Both before reading: nothing that comes after it is missed.
            changed, left = self._followed.changed, self._file.left
            data = await self._read()
            if data is None:
                items = self._truncated()
            elif data:
                items = self._lines.feed(data)
            elif left:
                items = self._go_on_to(self._file.successor)
            else:
                await self._wait(changed)
                continue
            if items:
                return items

    async def _read(self) -> bytes | None:
        """Return what comes next, if there is something.

        Returns:
            None if what comes before it is not what it was.
        """
        overlap = min(self._position, MARK_SIZE)
        start = self._position - overlap
        try:
            block = await asyncio.to_thread(self._file.read, start, overlap + READ_SIZE)
        except OSError as error:
            name = self._followed.path.name
            raise SourceError(f"{name}: {error.strerror}") from None
        mark, data = block[:overlap], block[overlap:]
        if len(mark) < overlap or self._mark not in (None, mark):
            return None
        self._mark = block[-MARK_SIZE:]
        self._position += len(data)
        return data

    def _truncated(self) -> list[Item]:
        items = self._lines.end()
        if self._file.size_before > self._position:
            log.warning("%s was truncated while it was read", self._followed.path)
            items.append(Event("truncated before it had been read to its end", "lost"))
        self._position, self._mark = 0, None
        return items

    def _go_on_to(self, file: _File | None) -> list[Item]:
        assert file is not None
        self._file, self._position, self._mark = file, 0, None
        return self._lines.end()

    async def _wait(self, changed: asyncio.Event) -> None:
        # Only the newest file is looked at for changes.
        newest = self._file.successor is None
        with suppress(TimeoutError):
            async with asyncio.timeout(None if newest else LOOK_SECONDS):
                await changed.wait()
