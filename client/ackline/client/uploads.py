"""An upload, from the caller's side."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from ackline.client.digests import OrderedDigest, digest_text, new_hash
from ackline.client.handles import Handle, raise_for
from ackline.client.progress import Progress
from ackline.client.sources import SourceChangedError
from ackline.proto.checksums import combine
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import (
    Code,
    ProtocolViolation,
    Refused,
    StreamFailed,
    UsageError,
)
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_CHUNKS, MIN_CHUNK_SIZE
from ackline.proto.messages import (
    Durability,
    End,
    Existing,
    Intent,
    Open,
    OutcomeKind,
    Status,
    StatusReport,
    UploadDetail,
    UploadOpened,
    Use,
    opened_detail,
    raw,
)
from ackline.proto.notices import StoredMoved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.client.progress import OnProgress
    from ackline.client.sources import Source
    from ackline.client.state import State
    from ackline.client.supervisor import Supervisor
    from ackline.client.threads import Threads
    from ackline.proto.messages import Opened, Outcome
    from ackline.proto.notices import Notice
    from ackline.proto.resource import Resource
    from ackline.proto.stream import Stream
    from ackline.proto.values import Value

__all__ = ["DURABILITIES", "EXISTING", "Upload", "UploadParameters", "UploadResult"]

EXISTING = {
    "refuse": Existing.REFUSE,
    "replace": Existing.REPLACE,
    "version": Existing.ADD_VERSION,
}
DURABILITIES = {
    "memory": Durability.MEMORY,
    "written": Durability.WRITTEN,
    "synced": Durability.SYNCED,
    "replicated": Durability.REPLICATED,
}
ExistingName = Literal["refuse", "replace", "version"]
DurabilityName = Literal["memory", "written", "synced", "replicated"]

BEGIN_AGAIN = frozenset({Code.PROOF_MISMATCH})


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadResult:
    """A committed upload.

    Attributes:
        object_id: of the object.
        upload_id: of this upload, for the server's log; "" if it was there before.
        name, version, size: of the object; size in bytes.
        crc: CRC-32C of all bytes.
        digest: algorithm and digest, `crc32c:e3069283`.
        chunks_sent: chunks sent whole by this process, repeated ones included.
        chunks_resent: chunks sent again although they were acknowledged; always 0.
        chunks_repeated: chunks sent again because the connection was lost before their
            acknowledgement came.
        resumes: times the upload was continued: after a lost connection, or from
            another process.
    """

    object_id: str
    upload_id: str
    name: str
    version: int
    size: int
    crc: int
    digest: str
    chunks_sent: int
    chunks_resent: int
    chunks_repeated: int
    resumes: int


class UploadParameters(Struct, frozen=True, kw_only=True):
    """What an upload was asked to be; see `Client.upload`."""

    resource: Resource
    key: str | None
    chunk_size: int
    algorithm: str
    existing: Existing
    metadata: Mapping[str, Value]
    durability: Durability
    deadline: float

    def identity(self) -> tuple[object, ...]:
        """Return what makes this the same upload after a restart.

        That is what the server compares for a key it knows (SPEC.md §9.3).
        """
        return (
            self.resource,
            self.chunk_size,
            self.algorithm,
            self.existing.name,
            sorted(self.metadata.items()),
        )


class Upload(Handle):
    """Feeds a `ChunkSender` from a source, and ends it."""

    def __init__(
        self,
        supervisor: Supervisor,
        source: Source,
        parameters: UploadParameters,
        *,
        threads: Threads,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(supervisor)
        self._source = source
        self._parameters = parameters
        self._threads = threads
        self._state: State | None = None
        self._on_progress = on_progress
        self._key = parameters.key or ""
        self._awaited: deque[int] = deque()
        self._chunk_size = self._fitting_chunk_size()
        self._stored = 0
        self._ranges: tuple[tuple[int, int], ...] = ()
        self._failing = False
        self._resent = 0
        self._continued = 0
        self._told = (-1, "")
        self._began = 0
        self._source_error: BaseException | None = None

    async def run(self, state: State | None) -> UploadResult:
        """Upload everything.

        Args:
            state: where to remember how to continue, if at all.

        Raises:
            Refused, StreamFailed, StreamCancelled, ConnectionLost: see `Client.upload`.
        """
        source = self._source
        hash_ = new_hash(self._parameters.algorithm)
        source.digest = None if hash_ is None else OrderedDigest(hash_)
        source.chunk_size = self._chunk_size
        try:
            if state is None or self._early():  # not worth a file of its own
                return await self._run()
            with state.locked(f"the upload of {self._parameters.resource}"):
                self._state = state
                return await self._run()
        finally:
            source.close()
            self.leave()

    async def _run(self) -> UploadResult:
        committed = await self._committed()
        if committed is not None:
            return committed
        await self._find_key()
        self._source.start(self.changed.set, self.supervisor.group)
        self.start()
        try:
            outcome = await self._send()
        except StreamFailed as failure:
            if failure.outcome.code in BEGIN_AGAIN:
                await self.give_up()
                await self._forget()
            raise
        if outcome.outcome != OutcomeKind.COMPLETED:
            await self._forget()
        if self._source_error is not None:
            raise self._source_error
        raise_for(outcome)
        result = self._result(outcome)
        await self._remember(
            upload_id=result.upload_id,
            object_id=result.object_id,
            version=result.version,
            crc=result.crc,
            digest=result.digest,
        )
        return result

    # Handle

    def message(self) -> Open:
        """Return OPEN."""
        parameters = self._parameters
        detail = UploadDetail(
            chunk_size=self._chunk_size,
            size=self._source.size,
            algorithm=parameters.algorithm,
            existing=parameters.existing,
            durability=parameters.durability,
            early=self._early(),
        )
        return Open(
            use=Use.UPLOAD,
            resource=str(parameters.resource),
            key=self._key,
            window_units=0,
            window_bytes=0,
            detail=raw(detail),
            parameters=dict(parameters.metadata),
            deadline=parameters.deadline,
        )

    def prepare(self, stream: Stream) -> None:
        """Be ready to send at once, where the whole upload may go before OPENED."""
        if self._early():
            self._new_sender(stream, self._chunk_size)

    def reached(self) -> int:
        """Return the chunks acknowledged."""
        sender = self._sender
        return 0 if sender is None else sender.acknowledged_units

    def accepted(self, stream: Stream, opened: Opened) -> None:
        """Agree on the chunk size, and see what is there already."""
        detail = opened_detail(Use.UPLOAD, opened)
        assert isinstance(detail, UploadOpened)
        if stream.sender is None:
            self._source.chunk_size = detail.chunk_size
            self._new_sender(stream, detail.chunk_size)
            standing = opened.standing
            if opened.existing and standing.outcome is None:
                self._continued = 1
            self._stored, self._ranges = standing.position, standing.ranges
            self._began = self._done()

    def happened(self, notice: Notice) -> None:
        """Let go of what is acknowledged."""
        if isinstance(notice, StoredMoved):
            self._stored = max(self._stored, notice.position)
            self._source.forget(notice.position)

    # Private

    @property
    def _sender(self) -> ChunkSender | None:
        sender = self.stream.sender if self.stream is not None else None
        assert sender is None or isinstance(sender, ChunkSender)
        return sender

    def _new_sender(self, stream: Stream, chunk_size: int) -> None:
        stream.sender = sender = ChunkSender(
            stream,
            chunk_size=chunk_size,
            size=self._source.size,
            priority=stream.priority,
        )
        if self._source.size is not None:
            sender.reader = self

    def _fitting_chunk_size(self) -> int:
        """Return the chunk size to propose: the server states the largest it takes."""
        wanted, limits = self._parameters.chunk_size, self.supervisor.server_limits
        if wanted < MIN_CHUNK_SIZE:
            raise UsageError(f"chunk_size is {wanted}; at least {MIN_CHUNK_SIZE} bytes")
        size = self._source.size
        if size is not None and size > wanted * MAX_CHUNKS:
            raise UsageError(
                f"{size} bytes are more than {MAX_CHUNKS} chunks; use larger chunks"
            )
        return wanted if limits is None else min(wanted, limits.max_chunk_size)

    def _early(self) -> bool:
        """Tell whether all of it fits what may be sent before OPENED (SPEC.md §9.2)."""
        limits, size = self.supervisor.server_limits, self._source.size
        return (
            limits is not None
            and size is not None
            and size <= limits.initial_bytes
            and -(-size // self._chunk_size) <= limits.initial_units
        )

    async def _send(self) -> Outcome:
        remembered = False
        while self.outcome is None:
            self.check()
            self.changed.clear()
            self._show()
            if not remembered and self.opened is not None:
                remembered = True
                await self._remember(upload_id=self.resource)
            if not await self._step():
                await self.changed.wait()
        self._show()
        return self.outcome

    async def _step(self) -> bool:
        """Do one thing; return False if there is nothing to do before a change."""
        sender = self._sender
        if sender is None or sender.stream.cancelling or self._failing:
            return False
        try:
            if self._source.error is not None:
                return self._fail_source(self._source.error)
            if (unknown := sender.unknown()) and sender.end is None:
                index = unknown[0][0]
                sender.known(index, *await self._source.crc(index))
                return True
            if (load := self._next_load(sender)) is not None:
                return await self._load(sender, load)
            return await self._finish(sender)
        except SourceChangedError as changed:
            self._failing = True
            sender.fail(Code.SOURCE_CHANGED, str(changed))
            return True
        except OSError as error:
            return self._fail_source(error)

    def _next_load(self, sender: ChunkSender) -> int | None:
        wanted = sender.wanted()
        if wanted is not None:
            self._awaited.append(wanted)
        return self._awaited[0] if self._awaited else None

    async def _load(self, sender: ChunkSender, index: int) -> bool:
        view = await self._source.load(index)
        if view is None:
            if self._source.size is not None:  # that was all
                self._awaited.clear()
                return await self._finish(sender)
            return False
        self._awaited.popleft()
        self._count_resent(index)
        source = self._source
        sender.supply(index, view, lambda: source.release(index, view))
        return True

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        """Read what is sent next, if that waits for nothing."""
        part = self._source.read_part(index, offset, size)
        if part is not None and offset == 0:
            self._count_resent(index)
        return part

    def release_part(self, part: memoryview) -> None:
        """Take note that a part has been written."""
        self._source.release_part(part)

    def _count_resent(self, index: int) -> None:
        if index < self._stored or any(a <= index < b for a, b in self._ranges):
            self._resent += 1

    async def _finish(self, sender: ChunkSender) -> bool:
        """State the END once every chunk has been sent or is there."""
        whole = sender.whole() if sender.end is None else None
        source = self._source
        if whole is None or source.size is None or whole[0] != source.size:
            return False
        digest = b""
        if source.digest is not None:
            total = -(-source.size // sender.chunk_size)
            for skipped in range(source.digest.next_index, total):
                await source.crc(skipped)
            digest = source.digest.digest()
        fault = await source.fault()
        if fault is not None:
            raise SourceChangedError(fault)
        sender.finish(
            End(Intent.COMPLETED, 0, "", size=whole[0], crc=whole[1], digest=digest)
        )
        return True

    def _fail_source(self, error: BaseException) -> bool:
        sender = self._sender
        assert sender is not None
        self._failing = True
        self._source_error = error
        sender.fail(Code.SOURCE_FAILED, f"{type(error).__name__} while reading")
        return True

    # Progress

    def _done(self) -> int:
        sender = self._sender
        if sender is None:
            return 0
        done = sender.acknowledged_units * sender.chunk_size
        return done if self._source.size is None else min(done, self._source.size)

    def _show(self) -> None:
        done = self._done()
        if self._on_progress is None or (done, self.held) == self._told:
            return
        self._told = (done, self.held)
        self._on_progress(
            Progress(
                done=done,
                total=self._source.size,
                began=self._began,
                resumes=self.resumes + self._continued,
                held=self.held,
            )
        )

    def _result(self, outcome: Outcome) -> UploadResult:
        made, sender = outcome.object, self._sender
        if made is None or sender is None:
            raise ProtocolViolation(
                Code.BAD_FRAME, "the upload completed without an object"
            )
        return UploadResult(
            object_id=made.object_id,
            upload_id=self.resource.removeprefix("uploads/"),
            name=made.name,
            version=made.version,
            size=made.size,
            crc=made.crc,
            digest=digest_text(made.algorithm, made.crc, made.digest),
            chunks_sent=sender.sent_units,
            chunks_resent=self._resent,
            chunks_repeated=sender.replayed_units,
            resumes=self.resumes + self._continued,
        )

    # State

    async def _committed(self) -> UploadResult | None:
        """Return the result of an earlier process if its object is still there.

        And if the source is still what was uploaded. That process may have been killed
        before its caller knew.
        """
        entry = self._state.get() if self._state is not None else {}
        size = self._source.size
        if size is None or "object_id" not in entry:
            return None
        resource = str(self._parameters.resource)
        try:
            report = await self.supervisor.requests.ask(
                FrameType.STATUS, Status(resource), about=resource
            )
        except Refused as refusal:
            if refusal.code != Code.NOT_FOUND:
                raise
            report = None
        found = report.facts if isinstance(report, StatusReport) else {}
        same_object = found.get("object_id") == entry["object_id"]
        if not same_object or await self._source_crc(size) != entry["crc"]:
            await self._forget()
            return None
        return UploadResult(
            object_id=str(entry["object_id"]),
            upload_id=str(entry["upload_id"]),
            name=self._parameters.resource.name,
            version=int(entry["version"]),
            size=size,
            crc=int(entry["crc"]),
            digest=str(entry["digest"]),
            chunks_sent=0,
            chunks_resent=0,
            chunks_repeated=0,
            resumes=0,
        )

    async def _source_crc(self, size: int) -> int:
        """Return the CRC-32C of the source; size and time of change do not prove it."""
        crc = 0
        for index in range(-(-size // self._chunk_size)):
            part, length = await self._source.crc(index)
            crc = combine(crc, part, length)
        return crc

    async def _find_key(self) -> None:
        """Continue the upload that was begun before, or begin one under a new key."""
        if self._key:
            return
        entry = self._state.get() if self._state is not None else {}
        self._key = str(entry.get("key", "")) or secrets.token_hex(16)
        if not entry:
            await self._remember(key=self._key)

    async def _remember(self, **values: str | int) -> None:
        state = self._state
        if state is not None:
            await self._threads.run(lambda: state.put(**values))

    async def _forget(self) -> None:
        if self._state is not None:
            await self._threads.run(self._state.drop)
