"""A fetch, from the caller's side."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from ackline.client.digests import digest_text, new_hash
from ackline.client.handles import Handle, failed, raise_for
from ackline.client.progress import Progress
from ackline.client.targets import MemoryTarget, ResumableTarget
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import AcklineError, Code, Refused, StreamFailed
from ackline.proto.messages import (
    Durability,
    FetchDetail,
    FetchOpened,
    Intent,
    Open,
    Use,
    opened_detail,
    raw,
)
from ackline.proto.notices import ChunkParked, ChunkReceived

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.client.progress import OnProgress
    from ackline.client.state import Remembered
    from ackline.client.supervisor import Supervisor
    from ackline.client.targets import Target
    from ackline.client.threads import Threads
    from ackline.proto.buffers import BufferPool
    from ackline.proto.messages import End, Object, Opened, Outcome
    from ackline.proto.notices import Notice
    from ackline.proto.resource import Resource
    from ackline.proto.stream import Stream
    from ackline.proto.values import Value
    from ackline.proto.windows import Budget

__all__ = ["FETCH_AGAIN", "Fetch", "FetchParameters", "FetchResult"]

FETCH_AGAIN = (
    "fetch it again, or have `ackline-server check` find what is damaged there"
)
"""What to do about bytes that are not those of the object."""

BEGIN_AGAIN = frozenset(
    {Code.PROOF_MISMATCH, Code.GENERATION_CHANGED, Code.POSITION_BEYOND}
)
"""What says that the bytes of an earlier attempt are not those of the object."""

GONE = BEGIN_AGAIN | {Code.NOT_FOUND}
"""What refuses to continue with an object that was replaced meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """A fetched object, or a part of it.

    Attributes:
        object_id, name, version: of the object.
        size: bytes fetched, from an earlier attempt too.
        crc: CRC-32C of these bytes.
        digest: algorithm and digest of these bytes: those of the object, or if they are
            a part of it their CRC-32C.
        object_size: bytes of the whole object.
        metadata: of the object, as it was uploaded with.
        resumes: times the fetch was continued.
        data: the bytes, if they were to be kept in memory.
    """

    object_id: str
    name: str
    version: int
    size: int
    crc: int
    digest: str
    object_size: int
    metadata: Mapping[str, Value]
    resumes: int
    data: bytes | None


class FetchParameters(Struct, frozen=True, kw_only=True):
    """What was asked for; see `Client.fetch`."""

    resource: Resource
    object_id: str
    version: int
    start: int
    length: int | None
    chunk_size: int
    deadline: float

    def identity(self) -> tuple[object, ...]:
        """Return what makes this the same fetch after a restart."""
        return (self.resource, self.object_id, self.version, self.start, self.length)


class Kept(Struct, frozen=True):
    """What an earlier attempt left: whole chunks, and bytes of the next one."""

    object_id: str
    chunk_size: int
    chunks: dict[int, tuple[int, int]]
    held: int
    held_crc: int

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.chunks) * self.chunk_size + self.held


class Fetch(Handle):
    """Writes what a `ChunkReceiver` hands out, in order, off the event loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        target: Target,
        parameters: FetchParameters,
        *,
        pool: BufferPool,
        budget: Budget,
        threads: Threads,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(supervisor)
        self._target = target
        self._parameters = parameters
        self._pool = pool
        self._budget = budget
        self._threads = threads
        self._on_progress = on_progress
        self._kept: Kept | None = None
        self._detail: FetchOpened | None = None
        self._waiting: deque[ChunkReceived | ChunkParked] = deque()
        self._write_error: OSError | None = None
        self._hashed = False
        self._told = -1

    async def run(self, state: Remembered | None) -> FetchResult:
        """Fetch everything.

        Args:
            state: where an earlier attempt noted what `NAME.part` holds.

        Raises:
            Refused, StreamFailed, StreamCancelled, ConnectionLost: see `Client.fetch`.
        """
        target = self._target
        try:
            if isinstance(target, ResumableTarget) and target.size:
                await self._look_back(target, state)
            self.start()
            await self._receive(state)
            outcome = await self._complete(state)
        except StreamFailed as failure:
            if failure.outcome.code == Code.DIGEST_MISMATCH or self.begins_again:
                target.discard()
            raise
        except Refused:
            if self.begins_again:
                target.discard()
            raise
        except (asyncio.CancelledError, AcklineError):
            await self._keep_rest()
            raise
        finally:
            self.leave()
        raise_for(outcome)
        return self._result()

    @property
    def begins_again(self) -> bool:
        """Whether it failed for what an earlier attempt left: it is dropped now."""
        failure = self.failure
        if self._kept is None:
            return False
        if isinstance(failure, StreamFailed):
            return failure.outcome.code in BEGIN_AGAIN
        return isinstance(failure, Refused) and failure.code in GONE

    @property
    def detail(self) -> FetchOpened | None:
        """What OPENED said of the object and the part of it."""
        return self._detail

    # Handle

    def message(self) -> Open:
        """Return OPEN; the core adds window and position."""
        parameters, kept = self._parameters, self._kept
        detail = FetchDetail(
            chunk_size=self._chunk_size,
            object_id=kept.object_id if kept is not None else parameters.object_id,
            version=0 if kept is not None else parameters.version,
            start=parameters.start,
            length=parameters.length,
        )
        return Open(
            use=Use.FETCH,
            resource=str(parameters.resource),
            key="",
            window_units=0,
            window_bytes=0,
            detail=raw(detail),
            deadline=parameters.deadline,
        )

    def prepare(self, stream: Stream) -> None:
        """Make the receiving half, with what is there already."""
        receiver = ChunkReceiver(
            stream,
            pool=self._pool,
            budget=self._budget,
            chunk_size=self._chunk_size,
            size=None,
            durability=Durability.MEMORY,
        )
        stream.receiver = receiver
        kept = self._kept
        receiver.restore(kept.chunks if kept is not None else {})
        if kept is not None and kept.held:
            receiver.restore_held(len(kept.chunks), kept.held, kept.held_crc)

    def reached(self) -> int:
        """Return the chunks received."""
        return self._receiver.wanted

    def mark(self) -> object:
        """Return chunks and bytes of the next one."""
        return (self._receiver.wanted, self._receiver.held())

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._receiver.busy and self.failure is None

    def accepted(self, stream: Stream, opened: Opened) -> None:
        """Take note of the object."""
        detail = opened_detail(Use.FETCH, opened)
        assert isinstance(detail, FetchOpened)
        if self._kept is not None and detail.chunk_size != self._kept.chunk_size:
            self.fail(self.local_failure(Code.PROOF_MISMATCH, "other chunks"))
        if self._detail is None and detail.object.algorithm != "crc32c":
            self._hashed = self._hashed or self._start_hash(detail.object.algorithm)
        self._detail = detail
        if self._target.at_once:
            self._receiver.write = self._write_part

    def happened(self, notice: Notice) -> None:
        """Queue what is to be written."""
        if isinstance(notice, (ChunkReceived, ChunkParked)):
            self._waiting.append(notice)

    # Private

    @property
    def _receiver(self) -> ChunkReceiver:
        receiver = self.stream.receiver if self.stream is not None else None
        assert isinstance(receiver, ChunkReceiver)
        return receiver

    @property
    def _chunk_size(self) -> int:
        if self._kept is not None:
            return self._kept.chunk_size
        return self._parameters.chunk_size

    def _start_hash(self, algorithm: str) -> bool:
        """Hash what comes, if that is the whole object from its first byte on."""
        parameters = self._parameters
        if parameters.start or parameters.length is not None or self._kept is not None:
            return False
        self._target.hash = new_hash(algorithm)
        return True

    async def _look_back(
        self, target: ResumableTarget, state: Remembered | None
    ) -> None:
        """Read `NAME.part`, if it is known what it is a part of."""
        entry = state.get() if state is not None else {}
        object_id, algorithm = str(entry.get("object_id", "")), entry.get("algorithm")
        chunk_size = int(entry.get("chunk_size", 0))
        if not object_id or chunk_size <= 0:
            target.cut(0)
            return
        if isinstance(algorithm, str) and algorithm != "crc32c":
            self._hashed = self._start_hash(algorithm)
        chunks: dict[int, tuple[int, int]] = {}
        count, held = divmod(target.size, chunk_size)
        for index in range(count):
            at = index * chunk_size
            crc = await self._read_back(target, at, chunk_size)
            chunks[index] = (chunk_size, crc)
        held_crc = await self._read_back(target, count * chunk_size, held)
        self._kept = Kept(object_id, chunk_size, chunks, held, held_crc)

    async def _read_back(self, target: ResumableTarget, at: int, size: int) -> int:
        return await self._threads.run(lambda: target.read_back(at, size))

    async def _receive(self, state: Remembered | None) -> None:
        """Write until the END is in and everything before it is written."""
        noted = False
        while not (self._receiver.complete and not self._waiting):
            self.check()
            if self._write_error is not None:
                raise self._write_error
            if self.outcome is not None:
                raise_for(self.outcome)
                raise failed(Code.BAD_FRAME, "it ended without END", self.reached())
            if self._waiting:
                await self._write(self._waiting.popleft())
                continue
            if not noted and self._detail is not None:
                noted = True
                await self._note(state, self._detail)
                continue
            self.changed.clear()
            if not self._waiting and not self._receiver.complete:
                await self.changed.wait()

    async def _note(self, state: Remembered | None, detail: FetchOpened) -> None:
        if state is not None:
            made = detail.object
            await self._threads.run(
                lambda: state.put(
                    object_id=made.object_id,
                    chunk_size=detail.chunk_size,
                    algorithm=made.algorithm,
                )
            )

    async def _write(self, notice: ChunkReceived | ChunkParked) -> None:
        """Write one piece; everything before it is written."""
        receiver = self._receiver
        at = notice.index * receiver.chunk_size + notice.offset
        data = notice.data
        if isinstance(notice, ChunkParked):
            data = data[: notice.size]
        if data:
            await self._threads.run(lambda: self._target.write(at, data))
        if isinstance(notice, ChunkParked):
            receiver.chunk_parked(notice, kept=True)
        else:
            receiver.chunk_stored(notice)
            self._show(notice.index * receiver.chunk_size + notice.length)

    def _write_part(self, index: int, offset: int, data: memoryview) -> bool:
        """Write a part of a chunk where that waits for nothing."""
        receiver = self._receiver
        try:
            self._target.write(index * receiver.chunk_size + offset, data)
        except OSError as error:
            self._write_error = error
            self.changed.set()
            receiver.give_up_open(code=Code.INSUFFICIENT_STORAGE, retry_after=1.0)
            return False
        return True

    async def _complete(self, state: Remembered | None) -> Outcome:
        """Verify, make visible, and acknowledge the END."""
        receiver, target = self._receiver, self._target
        end, detail = receiver.end, self._detail
        assert end is not None
        assert detail is not None
        if end.intent == Intent.COMPLETED:
            fault = self._fault(end, detail.object)
            if fault is not None:
                self.failure = self.local_failure(Code.DIGEST_MISMATCH, fault)
                await self.give_up()
                raise self.failure
            await self._threads.run(target.finish)
        if state is not None:
            await self._threads.run(state.drop)
        receiver.end_stored()
        return await self.wait_outcome()

    async def _keep_rest(self) -> None:
        """Write what has come of an incomplete chunk, for the next attempt."""
        stream = self.stream
        if stream is None or not isinstance(self._target, ResumableTarget):
            return
        self._receiver.detach()
        self.leave()
        while self._waiting:
            await self._write(self._waiting.popleft())

    def _fault(self, end: End, made: Object) -> str | None:
        """Return how what was written differs from what was sent."""
        size, crc = self._receiver.whole()
        if (size, crc) != (end.size, end.crc):
            return (
                f"{size} bytes with CRC-32C {crc:08x} are here, {end.size} with"
                f" {end.crc:08x} were sent: {FETCH_AGAIN}"
            )
        if size == made.size and crc != made.crc:
            return f"the object has CRC-32C {made.crc:08x}, here it is {crc:08x}"
        hash_ = self._target.hash
        if hash_ is not None and self._hashed and hash_.digest() != made.digest:
            return f"the {made.algorithm} of what was received is another"
        return None

    def _show(self, done: int) -> None:
        if self._on_progress is not None and done != self._told:
            self._told = done
            self._on_progress(
                Progress(
                    done=done,
                    total=None if self._detail is None else self._detail.length,
                    began=0 if self._kept is None else self._kept.size,
                    resumes=self.resumes + (self._kept is not None),
                )
            )

    def _result(self) -> FetchResult:
        detail = self._detail
        assert detail is not None
        made = detail.object
        size, crc = self._receiver.whole()
        data = self._target.data if isinstance(self._target, MemoryTarget) else None
        return FetchResult(
            object_id=made.object_id,
            name=made.name,
            version=made.version,
            size=size,
            crc=crc,
            digest=(
                digest_text(made.algorithm, made.crc, made.digest)
                if size == made.size
                else digest_text("crc32c", crc, b"")
            ),
            object_size=made.size,
            metadata=made.metadata,
            resumes=self.resumes + (self._kept is not None),
            data=None if data is None else bytes(data),
        )
