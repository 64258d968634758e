"""Following a text file that grows, over rotation and truncation."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ackline.server.emitter import SourceError
from ackline.server.events import Event
from ackline.server.lines import Lines
from ackline.server.rotation import LOOK_SECONDS, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from pathlib import Path

    from ackline.proto.messages import Value
    from ackline.server.events import Item
    from ackline.server.rotation import RotatedFile

__all__ = ["FollowedPath"]

log = logging.getLogger(__name__)

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
    """

    def __init__(self, path: Path) -> None:
        with suppress(OSError):  # the first run tells what is wrong
            if path.exists() and not path.is_file():
                raise ValueError("it is not a regular file")
        self.path = path
        self._readers = 0
        self._watch: Watch | None = None

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
        with self._watched() as watch:
            file, was_there = await self._first(watch)
            position = 0
            if last is not None and was_there:
                position = await _beginning(file, last)
            cursor = _Cursor(self.path, watch, file, position)
            del file  # it is open for as long as somebody has it
            while True:
                for item in await cursor.more():
                    yield item

    @contextmanager
    def _watched(self) -> Generator[Watch]:
        """Have the path looked at, once for all who read it."""
        watch = self._watch = self._watch or Watch(self.path)
        self._readers += 1
        try:
            yield watch
        finally:
            self._readers -= 1
            if not self._readers:
                watch.stop()
                self._watch = None

    async def _first(self, watch: Watch) -> tuple[RotatedFile, bool]:
        """Return the file, and whether it was there before anybody waited for it."""
        waited = False
        while watch.newest is None:
            if watch.problem is not None:
                raise SourceError(f"{self.path.name}: {watch.problem}")
            waited = watch.looked
            await watch.changed.wait()
        return watch.newest, not waited


async def _beginning(file: RotatedFile, last: int) -> int:
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

    def __init__(
        self, path: Path, watch: Watch, file: RotatedFile, position: int
    ) -> None:
        self._path = path
        self._watch = watch
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
            changed, left = self._watch.changed, self._file.left
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
            name = self._path.name
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
            log.warning("%s was truncated while it was read", self._path)
            items.append(Event("truncated before it had been read to its end", "lost"))
        self._position, self._mark = 0, None
        return items

    def _go_on_to(self, file: RotatedFile | None) -> list[Item]:
        assert file is not None
        self._file, self._position, self._mark = file, 0, None
        return self._lines.end()

    async def _wait(self, changed: asyncio.Event) -> None:
        # Only the newest file is looked at for changes.
        newest = self._file.successor is None
        with suppress(TimeoutError):
            async with asyncio.timeout(None if newest else LOOK_SECONDS):
                await changed.wait()
