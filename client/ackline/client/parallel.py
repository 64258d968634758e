"""A fetch over several connections: ranges of one object, each a fetch of its own.

The object is cut into parts, four for each connection, which take them in turn: one
that is slow does fewer. Every part is verified as any range is; the whole by composing
the CRC-32C of the parts. What each part has is noted while it goes on, so that another
process continues all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from ackline.client.digests import digest_text, new_hash
from ackline.client.fetches import FETCH_AGAIN, Fetch, FetchResult
from ackline.client.handles import failed
from ackline.client.progress import Progress
from ackline.client.targets import FileTarget, MemoryTarget, ResumableTarget
from ackline.proto.checksums import combine
from ackline.proto.errors import (
    Code,
    ConnectionLost,
    Refused,
    StreamFailed,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from ackline.client.fetches import FetchParameters
    from ackline.client.progress import OnProgress
    from ackline.client.state import Entry, State, Value
    from ackline.client.targets import Target
    from ackline.client.threads import Threads
    from ackline.proto.messages import FetchOpened

    Begin = Callable[[Target, FetchParameters, OnProgress | None], Fetch]
    Connect = Callable[[], AbstractAsyncContextManager[Begin]]

__all__ = ["MAX_PARALLEL", "ParallelFetch", "checked_parallel", "in_parts"]

log = logging.getLogger(__name__)

MAX_PARALLEL = 16
"""Connections of one fetch: a server counts each. More only help where it is unfair."""

PARTS_EACH = 4
"""Parts for each connection: enough that all end at about the same time."""

SAVE_SECONDS = 0.5
"""Seconds between two notes of what is written: what a SIGKILL may cost."""


def checked_parallel(parallel: int) -> int:
    """Return a number of connections that may be asked for.

    Raises:
        UsageError: it is none.
    """
    if not 1 <= parallel <= MAX_PARALLEL:
        raise UsageError(f"parallel is {parallel}; it is 1 to {MAX_PARALLEL}")
    return parallel


def in_parts(state: State | None) -> bool:
    """Tell whether what an earlier process left is to be continued in parts."""
    return state is not None and "part_size" in state.get()


class SliceTarget(ResumableTarget):
    """A part of a file that other parts are written to at the same time.

    Args:
        file: the whole.
        offset: where the part begins in it.
        size: bytes of the part that are there from an earlier attempt.
    """

    def __init__(self, file: FileTarget, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        """Bytes that are there, those of an incomplete chunk included."""
        return self._size

    def put(self, at: int, data: memoryview) -> None:
        """Write at the offset in this part."""
        self._file.put(self._offset + at, data)
        self._size = at + len(data)

    def read_back(self, at: int, size: int) -> int:
        """Return the CRC-32C of bytes written earlier."""
        return self._file.read_back(self._offset + at, size)

    def cut(self, size: int) -> None:
        """Take note that what follows is not kept; other parts may follow it."""
        self._size = size

    def discard(self) -> None:
        """Take note that nothing is kept."""
        self._size = 0


class Part(Struct, kw_only=True):
    """One range of the object; see `Remembered` for the methods.

    Attributes:
        start, length: bytes, from where the fetch begins.
        written: bytes of it that were there, and of whole chunks that came since.
        slice: where it is written to, if that is a file.
        notes: what is there is a part of this.
        result: once it is whole.
    """

    start: int
    length: int
    written: int
    slice: SliceTarget | None
    notes: Entry
    result: FetchResult | None = None

    def get(self) -> Entry:
        """Return what the bytes that are there are a part of."""
        return self.notes

    def put(self, **_values: Value) -> None:
        """The whole fetch is remembered, not its parts."""

    def drop(self) -> None:
        """The whole fetch is forgotten, not its parts."""


class ParallelFetch:
    """Fetches one object over several connections.

    Args:
        begin: makes a fetch on the client's own connection.
        connect: opens another one, and gives the same for it.
        target: a file, or memory.
        parameters: what was asked for.
        parallel: connections.
        threads: for what blocks.
        on_progress: called as bytes are written.
    """

    def __init__(
        self,
        begin: Begin,
        connect: Connect,
        target: Target,
        parameters: FetchParameters,
        *,
        parallel: int,
        threads: Threads,
        on_progress: OnProgress | None,
    ) -> None:
        if not isinstance(target, FileTarget | MemoryTarget):
            raise UsageError(
                "parts that come at the same time cannot be written in order: fetch to"
                " a file or memory, or without parallel"
            )
        self._begin = begin
        self._connect = connect
        self._target = target
        self._parameters = parameters
        self._parallel = parallel
        self._threads = threads
        self._on_progress = on_progress
        self._parts: list[Part] = []
        self._pending: deque[Part] = deque()
        self._notes: Entry = {}
        self._began = 0

    async def run(self, state: State | None) -> FetchResult:
        """Fetch everything.

        Args:
            state: where an earlier attempt noted what `NAME.part` holds.

        Raises:
            Refused, StreamFailed, StreamCancelled, ConnectionLost: see `Client.fetch`.
        """
        entry = state.get() if state is not None else {}
        detail = await self._look(str(entry.get("object_id", "")))
        if detail is None:  # what an earlier attempt began is deleted or replaced
            entry = {}
            detail = await self._look("")
            assert detail is not None
        self._plan(detail, entry)
        try:
            await self._fetch_all(state)
        finally:
            await self._save(state)
        return await self._complete(detail, state)

    async def _look(self, object_id: str) -> FetchOpened | None:
        """Learn what the object is; None if there is none of that id any more."""
        nothing = structs.replace(self._parameters, length=0)
        if object_id:
            nothing = structs.replace(nothing, object_id=object_id, version=0)
        fetch = self._begin(MemoryTarget(), nothing, None)
        try:
            await fetch.run(None)
        except Refused as refusal:
            if object_id and refusal.code == Code.NOT_FOUND:
                return None
            raise
        assert fetch.detail is not None
        return fetch.detail

    def _plan(self, detail: FetchOpened, entry: Entry) -> None:
        """Cut what is wanted into parts, as an earlier attempt did if there was one."""
        made, wanted = detail.object, self._parameters.length
        rest = made.size - detail.start
        total = rest if wanted is None else min(wanted, rest)
        chunk_size = int(entry.get("chunk_size", 0)) or detail.chunk_size
        count = -(-total // (self._parallel * PARTS_EACH * chunk_size)) or 1
        size = int(entry.get("part_size", 0)) or count * chunk_size
        self._notes = {
            "object_id": made.object_id,
            "chunk_size": chunk_size,
            "part_size": size,
        }
        starts = range(0, total, size)
        self._parts = [
            Part(
                start=start,
                length=min(size, total - start),
                written=written,
                slice=self._slice(start, written),
                notes=self._notes,
            )
            for start, written in zip(
                starts, self._written(entry, starts, size), strict=True
            )
        ]
        self._pending.extend(self._parts)
        self._began = sum(part.written for part in self._parts)
        if isinstance(self._target, FileTarget) and not self._began:
            self._target.cut(0)

    def _slice(self, start: int, written: int) -> SliceTarget | None:
        if isinstance(self._target, FileTarget):
            return SliceTarget(self._target, start, written)
        return None

    def _written(self, entry: Entry, starts: range, size: int) -> list[int]:
        """Return how much of each part an earlier attempt has written."""
        if not entry or not isinstance(self._target, FileTarget):
            return [0] * len(starts)
        held = self._target.size
        noted = str(entry.get("written", "")).split()
        if "part_size" not in entry:  # that attempt wrote from the beginning on
            noted = [str(max(0, held - start)) for start in starts]
        if len(noted) != len(starts):
            return [0] * len(starts)
        return [
            max(0, min(int(each), size, held - start))
            for each, start in zip(noted, starts, strict=True)
        ]

    async def _fetch_all(self, state: State | None) -> None:
        """Let as many connections as there may be take the parts."""
        others = min(self._parallel, len(self._parts)) - 1
        tasks = [
            asyncio.create_task(self._work(self._begin)),
            *(asyncio.create_task(self._connect_and_work()) for _ in range(others)),
        ]
        saved = asyncio.get_running_loop().time()
        running = set(tasks)
        try:
            while any(part.result is None for part in self._parts):
                done, running = await asyncio.wait(
                    running,
                    timeout=SAVE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    task.result()
                now = asyncio.get_running_loop().time()
                if now - saved >= SAVE_SECONDS:
                    saved = now
                    await self._save(state)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _connect_and_work(self) -> None:
        """Take parts over a connection of its own, if there can be one."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                begin = await stack.enter_async_context(self._connect())
            except (Refused, ConnectionLost) as error:
                log.info("one connection less for %s: %s", self._name, error)
                return
            await self._work(begin)

    async def _work(self, begin: Begin) -> None:
        while self._pending:
            part = self._pending.popleft()
            while part.result is None:
                await self._fetch_part(begin, part)

    async def _fetch_part(self, begin: Begin, part: Part) -> None:
        """Fetch a part, or find out that what was there of it is something else."""
        target = part.slice or MemoryTarget()
        parameters = structs.replace(
            self._parameters,
            object_id=str(self._notes["object_id"]),
            version=0,
            start=self._parameters.start + part.start,
            length=part.length,
            chunk_size=int(self._notes["chunk_size"]),
        )

        def progressed(progress: Progress) -> None:
            part.written = progress.done
            self._show()

        fetch = begin(target, parameters, progressed)
        try:
            part.result = await fetch.run(part)
        except (StreamFailed, Refused) as failure:
            gone = isinstance(failure, Refused) and failure.code == Code.NOT_FOUND
            if not fetch.begins_again or gone:
                raise
            part.written = 0
        else:
            part.written = part.length
            self._show()

    async def _complete(self, detail: FetchOpened, state: State | None) -> FetchResult:
        """Verify the whole, and make it visible."""
        made, target = detail.object, self._target
        results = [part.result for part in self._parts if part.result is not None]
        size, crc = 0, 0
        for each in results:
            size, crc = size + each.size, combine(crc, each.crc, each.size)
        whole = size == made.size
        fault = whole and crc != made.crc
        if whole and not fault and isinstance(target, FileTarget):
            target.hash = new_hash(made.algorithm)
            if target.hash is not None:
                await self._threads.run(lambda: target.read_back(0, size))
                fault = target.hash.digest() != made.digest
        if fault:
            target.discard()
            raise failed(
                Code.DIGEST_MISMATCH, f"the parts are not the object: {FETCH_AGAIN}", 0
            )
        await self._threads.run(target.finish)
        if state is not None:
            await self._threads.run(state.drop)
        data = None
        if isinstance(target, MemoryTarget):
            data = b"".join(each.data or b"" for each in results)
        return FetchResult(
            object_id=made.object_id,
            name=made.name,
            version=made.version,
            size=size,
            crc=crc,
            digest=(
                digest_text(made.algorithm, made.crc, made.digest)
                if whole
                else digest_text("crc32c", crc, b"")
            ),
            object_size=made.size,
            metadata=made.metadata,
            resumes=sum(each.resumes for each in results),
            data=data,
        )

    @property
    def _name(self) -> str:
        return str(self._parameters.resource)

    async def _save(self, state: State | None) -> None:
        if state is not None and isinstance(self._target, FileTarget):
            sizes = [part.slice.size for part in self._parts if part.slice is not None]
            written = " ".join(map(str, sizes))
            await self._threads.run(lambda: state.put(**self._notes, written=written))

    def _show(self) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    done=sum(part.written for part in self._parts),
                    total=sum(part.length for part in self._parts),
                    began=self._began,
                    resumes=int(self._began > 0),
                )
            )
