"""What an upload reads: a file, bytes, or a stream that can be read only once."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, cast

from ackline.aio import in_memory
from ackline.proto.checksums import crc32c
from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.client.digests import OrderedDigest
    from ackline.client.memory import LoadMemory
    from ackline.client.threads import Threads

__all__ = ["Source", "SourceChangedError", "UploadSource", "make_source"]

UploadSource: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Iterator[bytes]
    | AsyncIterator[bytes]
)

READ_SIZE = 2**20
"""Bytes asked for at once of a file that cannot be read at an offset."""


UNLESS_IT_WAITS: int | None = getattr(os, "RWF_NOWAIT", None)
"""For reading only what the page cache holds; not on every system."""


class SourceChangedError(Exception):
    """The file is not what it was when the upload began."""


class Source(ABC):
    """Chunks of known or unknown number.

    Attributes:
        size: bytes, or None while not known.
        digest: gets every chunk in order, unless it is None.
        error: what the caller's stream raised.
    """

    size: int | None = None
    error: BaseException | None = None
    digest: OrderedDigest | None = None
    chunk_size = 0

    @abstractmethod
    async def load(self, index: int) -> memoryview | None:
        """Return a chunk; None if there is none yet, or no more.

        Raises:
            SourceChangedError: it is not what it was.
        """

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        """Return bytes of a chunk if that waits for nothing, else None."""
        return None

    def release_part(self, part: memoryview) -> None:  # noqa: B027 - a hook
        """Take note that a part is not used any more."""

    def release(self, index: int, view: memoryview) -> None:  # noqa: B027 - a hook
        """Take note that a chunk that was loaded is not used any more."""

    def forget(self, position: int) -> None:  # noqa: B027 - a hook
        """Take note that chunks before `position` will not be asked for again."""

    async def crc(self, index: int) -> tuple[int, int]:
        """Return CRC-32C and length of a chunk that is not sent.

        Raises:
            SourceChangedError: it is not what it was.
        """
        view = await self.load(index)
        if view is None:
            raise SourceChangedError(f"chunk {index} is not there any more")
        found = crc32c(view), len(view)
        self.release(index, view)
        return found

    async def fault(self) -> str | None:
        """Return how the source has changed since it was opened, None if it has not."""
        return None

    def start(  # noqa: B027 - a hook
        self, ready: Callable[[], None], group: asyncio.TaskGroup
    ) -> None:
        """Begin; `ready` is called when `load()` may have more than before."""

    def close(self) -> None:  # noqa: B027 - a hook
        """End."""

    def _length_of(self, index: int) -> int:
        assert self.size is not None
        return max(0, min(self.chunk_size, self.size - index * self.chunk_size))


class BytesSource(Source):
    """Bytes in memory: nothing is copied."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    async def load(self, index: int) -> memoryview | None:
        """Return a chunk."""
        first = index * self.chunk_size
        view = self._data[first : first + self.chunk_size]
        if self.digest is not None:
            self.digest.add(index, view)
        return view

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        """Return a part of a chunk, unless a digest needs the whole."""
        first = index * self.chunk_size + offset
        return self._data[first : first + size] if self.digest is None else None


class FileSource(Source):
    """A regular file, read where it is needed; it is its own replay buffer."""

    def __init__(
        self,
        fd: int,
        *,
        name: str,
        offset: int,
        owned: bool,
        memory: LoadMemory,
        threads: Threads,
    ) -> None:
        self._fd = fd
        self._name = name
        self._offset = offset
        self._owned = owned
        self._memory = memory
        self._threads = threads
        self._flags = 0 if in_memory(fd) else UNLESS_IT_WAITS
        self._at_hand = False
        self.status = os.fstat(fd)
        self.size = max(0, self.status.st_size - offset)

    async def load(self, index: int) -> memoryview | None:
        """Read a chunk into a buffer that counts against the memory."""
        digest = self.digest
        if digest is not None:
            # What is skipped because the server has it belongs to the digest too.
            for skipped in range(digest.next_index, index):
                await self.crc(skipped)
        size = self._length_of(index)
        view = await self._memory.take(size)
        try:
            await self._threads.run(lambda: self._read(index, view))
        except BaseException:
            self._memory.give(view)
            raise
        return view

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        """Read what waits for no disk, and has no digest to be computed of it.

        The way to a thread and back costs a wake-up and a switch of the GIL each time;
        a whole chunk has left the processor's cache when it is sent.
        """
        if self._flags is None or self.digest is not None:
            return None
        part = self._memory.take_part(size, of=self._length_of(index))
        if part is None:
            return None
        at = self._offset + index * self.chunk_size + offset
        try:
            if os.preadv(self._fd, [part], at, self._flags) == size:
                self._at_hand = size == self.size
                return part
        except OSError:
            pass  # `load()` says what it is
        self._memory.give(part)
        return None

    def release_part(self, part: memoryview) -> None:
        """Reuse the buffer."""
        self._memory.give(part)

    def release(self, index: int, view: memoryview) -> None:
        """Reuse the buffer."""
        self._memory.give(view)

    async def fault(self) -> str | None:
        """Compare size and time of change with what they were.

        Here and now if all of it was at hand just now: the way to a thread and back is
        most of what a small file costs.
        """
        return self._fault() if self._at_hand else await self._threads.run(self._fault)

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned:
            os.close(self._fd)

    def _read(self, index: int, view: memoryview) -> None:
        at, done = self._offset + index * self.chunk_size, 0
        while done < len(view):
            got = os.preadv(self._fd, [view[done:]], at + done)
            if not got:
                raise SourceChangedError(
                    f"{self._name} has become shorter than the {self.size} bytes it had"
                )
            done += got
        if self.digest is not None:
            self.digest.add(index, view)

    def _fault(self) -> str | None:
        now = os.fstat(self._fd)
        if now.st_size != self.status.st_size:
            return (
                f"{self._name} has {now.st_size} bytes and had {self.status.st_size}"
                " when the upload began"
            )
        if now.st_mtime_ns != self.status.st_mtime_ns:
            return f"{self._name} was written to while it was read"
        return None


class StreamSource(Source):
    """Bytes that come once: each chunk is kept until it is acknowledged.

    The upload resumes over lost connections, but not over a restart of this process. A
    task reads, one chunk beyond what was asked for at most.
    """

    def __init__(self, parts: AsyncIterator[bytes], memory: LoadMemory) -> None:
        self._parts = parts
        self._memory = memory
        self._kept: dict[int, memoryview] = {}
        self._whole: dict[int, memoryview] = {}
        self._next = 0
        self._bytes = 0
        self._wanted = asyncio.Event()
        self._more = asyncio.Event()
        self._asked = 0
        self._task: asyncio.Task[None] | None = None
        self._ready: Callable[[], None] = lambda: None
        self._rest = memoryview(b"")

    async def load(self, index: int) -> memoryview | None:
        """Return a chunk if it has been read."""
        if index >= self._asked:
            self._asked = index + 1
            self._wanted.set()
        return self._kept.get(index)

    async def crc(self, index: int) -> tuple[int, int]:
        """Read on to a chunk that the server has from an earlier process."""
        while (view := await self.load(index)) is None:
            if self.size is not None or self.error is not None:
                raise SourceChangedError(f"there is no chunk {index} any more")
            self._more.clear()
            await self._more.wait()
        found = crc32c(view), len(view)
        self._drop(index)
        return found

    def forget(self, position: int) -> None:
        """Let go of what is acknowledged."""
        for index in [index for index in self._kept if index < position]:
            self._drop(index)

    def start(self, ready: Callable[[], None], group: asyncio.TaskGroup) -> None:
        """Begin to read."""
        self._ready = ready
        self._task = group.create_task(self._pull())

    def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
        self.forget(self._next)

    def _drop(self, index: int) -> None:
        del self._kept[index]
        self._memory.give(self._whole.pop(index))

    def _tell(self) -> None:
        self._more.set()
        self._ready()

    async def _pull(self) -> None:
        try:
            while self.size is None:
                while self._next >= self._asked:
                    self._wanted.clear()
                    await self._wanted.wait()
                await self._chunk()
        except Exception as error:  # noqa: BLE001 - whatever the caller's code raises
            self.error = error
        self._tell()

    async def _chunk(self) -> None:
        """Read one chunk; one that is short is the last."""
        whole = await self._memory.take(self.chunk_size)
        try:
            filled = await self._fill(whole)
        except BaseException:
            self._memory.give(whole)
            raise
        if filled:
            index, self._next = self._next, self._next + 1
            self._bytes += filled
            self._whole[index], self._kept[index] = whole, whole[:filled]
            if self.digest is not None:
                self.digest.add(index, self._kept[index])
        else:
            self._memory.give(whole)
        if filled < self.chunk_size:
            self.size = self._bytes
        self._tell()

    async def _fill(self, whole: memoryview) -> int:
        filled = 0
        while filled < len(whole):
            if not self._rest:
                try:
                    self._rest = memoryview(await anext(self._parts)).cast("B")
                except StopAsyncIteration:
                    break
                continue
            part = self._rest[: len(whole) - filled]
            whole[filled : filled + len(part)] = part
            filled += len(part)
            self._rest = self._rest[len(part) :]
        return filled


def make_source(
    source: UploadSource, *, memory: LoadMemory, threads: Threads
) -> Source:
    """Return the source for what the caller gave.

    Raises:
        UsageError: it is nothing that can be uploaded.
        OSError: the file cannot be opened.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return BytesSource(source)
    if isinstance(source, (str, os.PathLike)):
        return _opened(Path(source), memory, threads)
    if isinstance(source, AsyncIterator):
        return StreamSource(source, memory)
    if isinstance(source, io.TextIOBase):
        raise UsageError("the file is opened for text; open it in mode 'rb'")
    if hasattr(source, "read"):
        return _of_file(cast("IO[bytes]", source), memory, threads)
    if hasattr(source, "__next__"):
        return StreamSource(_pulled(source, threads), memory)
    raise UsageError(
        f"a {type(source).__name__} cannot be uploaded; give a path, a binary file,"
        " bytes or an iterator of bytes, asynchronous or not"
    )


def _opened(path: Path, memory: LoadMemory, threads: Threads) -> Source:
    # Nothing here may block on a pipe that nobody writes to.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FileSource(
            fd, name=str(path), offset=0, owned=True, memory=memory, threads=threads
        )
    os.close(fd)
    what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
    raise UsageError(
        f"{path} is {what}; upload one file, or open it and give the file object"
    )


def _of_file(file: IO[bytes], memory: LoadMemory, threads: Threads) -> Source:
    try:
        fd = file.fileno()
    except (OSError, io.UnsupportedOperation, AttributeError):
        return StreamSource(_parts(file, threads), memory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return StreamSource(_parts(file, threads), memory)
    return FileSource(
        fd,
        name=str(getattr(file, "name", "the file")),
        offset=file.tell(),
        owned=False,
        memory=memory,
        threads=threads,
    )


async def _parts(file: IO[bytes], threads: Threads) -> AsyncIterator[bytes]:
    while part := await threads.run_loose(lambda: file.read(READ_SIZE)):
        yield part


async def _pulled(parts: Iterator[bytes], threads: Threads) -> AsyncIterator[bytes]:
    while (part := await threads.run_loose(lambda: next(parts, None))) is not None:
        yield part
