"""Two cores joined by a fake link with a virtual clock: no sockets, no sleeps.

`Pair` moves bytes between a `ClientConnection` and a `ServerConnection` in pieces of a
chosen size, can lose everything in flight and connect again, and answers the server's
notices with a store in memory (`MemoryServer`).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ackline.proto.buffers import BufferPool
from ackline.proto.checksums import crc32c
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.client_connection import ClientConnection
from ackline.proto.client_session import ClientSession
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import (
    Durability,
    End,
    FetchDetail,
    FetchOpened,
    Intent,
    Limits,
    Object,
    Open,
    Outcome,
    OutcomeKind,
    PublishDetail,
    PublishOpened,
    ResumedStream,
    Resumes,
    ResumeStream,
    Session,
    Start,
    SubscribeDetail,
    SubscribeOpened,
    UploadDetail,
    UploadOpened,
    Use,
    open_detail,
    raw,
)
from ackline.proto.notices import (
    BatchReceived,
    CancelReceived,
    ChunkParked,
    ChunkReceived,
    ChunkWanted,
    EndReceived,
    HelloReceived,
    Notice,
    OpenReceived,
    OutcomeReceived,
    ReleaseReceived,
    ResumeReceived,
    SessionConfirmed,
    StoredMoved,
    StreamBroken,
    StreamError,
    StreamRefused,
)
from ackline.proto.policies import parse_policy
from ackline.proto.policy_sender import PolicySender
from ackline.proto.proofs import ProofSum
from ackline.proto.reader import scratch_buffer
from ackline.proto.server_connection import ServerConnection
from ackline.proto.server_session import (
    ServerSession,
    TokenCheck,
    Tokens,
    resume_stream,
    sender_standing,
)
from ackline.proto.stats import Stats
from ackline.proto.stream import Stream
from ackline.proto.windows import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.connection import Connection
    from ackline.proto.values import Value

LIMITS = Limits(
    max_payload=262_144,
    max_chunk_size=2**24,
    max_streams=10_000,
    window_units=65_536,
    window_bytes=2**25,
    initial_units=64,
    initial_bytes=65_536,
    heartbeat=10.0,
)


def limits(**changes: float) -> Limits:
    """Return the default limits with some changed."""
    values = {name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__}
    return Limits(**{**values, **changes})


@dataclass
class MemoryUpload:
    """What a server keeps of one upload."""

    upload_id: str
    message: Open
    chunks: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    held: tuple[int, bytes] = (-1, b"")
    outcome: Outcome | None = None
    stream: Stream | None = None
    stored_log: list[int] = field(default_factory=list)

    def stored(self) -> dict[int, tuple[int, int]]:
        return {i: (len(data), crc) for i, (data, crc) in self.chunks.items()}

    def data(self) -> bytes:
        return b"".join(self.chunks[i][0] for i in sorted(self.chunks))


class MemoryServer:
    """Answers all notices of server cores, from memory.

    `hold_stores` makes stores wait until `release_stores()`, in any order wanted;
    `fail_stores` lets the next so many fail for want of space; `hold_opens` makes OPENs
    wait until `release_opens()`.
    """

    def __init__(self, *, server_limits: Limits = LIMITS, budget: int = 2**28) -> None:
        self.limits = server_limits
        self.pool = BufferPool()
        self.budget = Budget(budget)
        self.stats = Stats()
        self.sessions: dict[str, ServerSession] = {}
        self.uploads: dict[str, MemoryUpload] = {}
        self.logs: dict[str, EventBuffer] = {}
        self.published: dict[str, list[bytes]] = {}
        self.publishers: dict[str, EventReceiver] = {}
        self.objects: dict[str, bytes] = {}
        self.hold_stores = False
        self.fail_stores = 0
        self.hold_opens = False
        self.take_batches = True
        self.opening: list[tuple[ServerConnection, Stream]] = []
        self.waiting: list[ChunkReceived] = []
        self.auto_complete = True
        self._tokens = 0
        self.notices: list[Notice] = []

    def token(self) -> bytes:
        self._tokens += 1
        return b"token-%010d" % self._tokens

    def connection(self, on_output: Callable[[], None], now: float) -> ServerConnection:
        holder: list[ServerConnection] = []

        def notify(notice: Notice) -> None:
            self.handle(holder[0], notice)

        holder.append(
            ServerConnection(
                limits=self.limits,
                scratch=scratch_buffer(),
                notify=notify,
                on_output=on_output,
                now=now,
                stats=self.stats,
                pool=self.pool,
                budget=self.budget,
                max_chunks=4,
            )
        )
        return holder[0]

    def session_of(self, connection: ServerConnection) -> ServerSession:
        return next(s for s in self.sessions.values() if s.connection is connection)

    def new_session(self, connection: ServerConnection) -> Session:
        token = self.token()
        name = f"s{self._tokens}"  # never one of a session that was lost
        session = ServerSession(name, "anonymous", Tokens(_hash(token)))
        session.connection = connection
        self.sessions[name] = session
        return Session(name, token, session.epoch)

    def handle(  # noqa: C901 - a case a notice
        self, connection: ServerConnection, notice: Notice
    ) -> None:
        self.notices.append(notice)
        match notice:
            case HelloReceived(hello):
                connection.welcome(
                    agent="test",
                    identity="anonymous",
                    session=None if hello.resume else self.new_session(connection),
                    ttl=3600.0,
                )
            case ResumeReceived():
                self.resume(connection, notice)
            case SessionConfirmed():
                self.session_of(connection).tokens.confirm()
            case OpenReceived(stream, _):
                self.opening.append((connection, stream))
                if not self.hold_opens:
                    self.release_opens()
            case ChunkWanted(stream):
                self.load(stream)
            case ChunkReceived():
                self.waiting.append(notice)
                if not self.hold_stores:
                    self.release_stores()
            case ChunkParked(stream, index, offset, data, size):
                upload = self.upload_of(stream)
                kept = upload.held[1] if upload.held[0] == index else b""
                upload.held = (index, kept[:offset] + bytes(data[:size]))
                assert isinstance(stream.receiver, ChunkReceiver)
                stream.receiver.chunk_parked(notice, kept=True)
            case EndReceived(stream, end):
                self.ended(stream, end)
            case BatchReceived(stream):
                if self.take_batches:
                    self.batches(stream)
            case StoredMoved(stream, _):
                self.stored_moved(stream)
            case CancelReceived(stream, _):
                self.cancel(stream)
            case ReleaseReceived(stream):
                self.session_of(connection).streams.pop(stream.id, None)
            case StreamBroken(stream, code, text):
                stream.decide(_outcome(OutcomeKind.FAILED, 0, code, text))
            case _:
                pass

    def resume(self, connection: ServerConnection, notice: ResumeReceived) -> None:
        session = self.sessions.get(notice.session_id)
        code: int = 0
        text = ""
        if session is None:
            code, text = Code.UNKNOWN_SESSION, "never heard of it"
        else:
            check = session.tokens.present(_hash(notice.token))
            if check is TokenCheck.SUPERSEDED:
                code, text = Code.TOKEN_SUPERSEDED, "confirmed already"
            elif check is TokenCheck.INVALID:
                code, text = Code.TOKEN_INVALID, "not this session's"
        if session is None or code:
            connection.resumed(
                self.new_session(connection), [], [], code=code, text=text
            )
            return
        old, session.connection = session.connection, connection
        if old is not None and not old.closing:
            old.fail(Code.TAKEN_OVER, "a newer connection has the session")
            old.lost()
        self.settle()
        token = self.token()
        session.tokens.issue(_hash(token))
        session.epoch += 1
        answers: list[ResumedStream] = []
        for wanted in notice.streams:
            stream = session.streams.get(wanted.stream_id)
            if stream is None:
                answers.append(
                    ResumedStream(wanted.stream_id, Code.UNKNOWN_STREAM, "gone", None)
                )
                continue
            stream.notify = connection.notify
            answers.append(resume_stream(stream, wanted, connection))
        connection.resumed(
            Session(session.session_id, token, session.epoch),
            answers,
            [s for s in session.streams.values() if s.connection is connection],
        )

    def release_opens(self) -> None:
        opening, self.opening = self.opening, []
        for connection, stream in opening:
            if stream.connection is connection and not stream.released:
                self.session_of(connection).streams[stream.id] = stream
                self.opened(connection, stream)

    def opened(self, connection: ServerConnection, stream: Stream) -> None:
        match stream.use:
            case Use.UPLOAD:
                self.open_upload(connection, stream)
            case Use.PUBLISH:
                self.open_publisher(connection, stream)
            case Use.SUBSCRIBE:
                self.open_subscription(connection, stream)
            case Use.FETCH:
                self.open_fetch(connection, stream)

    def open_publisher(self, connection: ServerConnection, stream: Stream) -> None:
        receiver = stream.receiver
        assert isinstance(receiver, EventReceiver)
        self.published.setdefault(stream.resource, [])
        key = stream.open.key or f"none-{len(self.publishers)}"
        self.settle()
        before = self.publishers.get(key)
        self.publishers[key] = receiver
        if before is None:
            receiver.restore(0, sums=ProofSum())
        else:
            proof = before.proof()
            sums = None
            if proof is not None:
                sums = ProofSum(proof.bytes, proof.lengths_crc, proof.bodies_crc)
            receiver.restore(
                before.position, sums=sums, log_position=before.log_position
            )
        receiver.grow()
        connection.accept(
            stream,
            existing=before is not None,
            durability=Durability.SYNCED,
            detail=PublishOpened(0),
            standing=receiver.standing(),
        )

    def open_fetch(self, connection: ServerConnection, stream: Stream) -> None:
        data = self.objects.get(stream.open.resource)
        if data is None:
            connection.refuse(stream, Code.NOT_FOUND, f"no {stream.open.resource}")
            return
        detail = open_detail(stream.open)
        assert isinstance(detail, FetchDetail)
        size = min(detail.chunk_size, self.limits.max_chunk_size)
        sender = ChunkSender(
            stream, chunk_size=size, size=len(data), priority=stream.priority
        )
        stream.sender, stream.generation = sender, 9
        stream.context = data
        for index in range(detail.position):
            part = data[index * size :][:size]
            sender.known(index, crc32c(part), len(part))
        wanted = ResumeStream(
            stream.id,
            0,
            detail.position,
            detail.held,
            detail.held_crc,
            detail.proof,
            stream.open.window_units,
            stream.open.window_bytes,
        )
        resumed = resume_stream(stream, wanted, connection)
        if resumed.standing is None:
            connection.refuse(stream, resumed.code, resumed.text)
            return
        sender.finish(End(Intent.COMPLETED, 0, "", size=len(data), crc=crc32c(data)))
        made = Object("o1", "x", 1, len(data), crc32c(data), "crc32c", b"", 0.0)
        connection.accept(
            stream,
            existing=detail.position > 0,
            durability=Durability.MEMORY,
            detail=FetchOpened(size, made, 0, len(data)),
            standing=resumed.standing,
        )

    def load(self, stream: Stream) -> None:
        sender, data = stream.sender, stream.context
        assert isinstance(sender, ChunkSender)
        assert isinstance(data, bytes)
        while (index := sender.wanted()) is not None:
            part = data[index * sender.chunk_size :][: sender.chunk_size]
            sender.supply(index, memoryview(part))

    def open_upload(self, connection: ServerConnection, stream: Stream) -> None:
        detail = open_detail(stream.open)
        assert isinstance(detail, UploadDetail)
        receiver = stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        key = stream.open.key or f"none-{stream.id}"
        self.settle()
        upload = self.uploads.get(key)
        existing = upload is not None
        if upload is None:
            upload = MemoryUpload(f"u{len(self.uploads) + 1}", stream.open)
            self.uploads[key] = upload
        if upload.stream is not None and upload.stream.connection is not None:
            upload.stream.connection.refuse(upload.stream, Code.MOVED, "opened again")
        upload.stream = stream
        stream.context = upload
        stream.resource = f"uploads/{upload.upload_id}"
        stream.generation = 7
        stream.epoch += 1
        receiver.restore(upload.stored())
        if not detail.early and upload.held[0] >= 0:
            index, data = upload.held
            receiver.restore_held(index, len(data), crc32c(data))
        receiver.grow()
        if upload.outcome is not None:
            stream.outcome = upload.outcome
            stream.lifecycle.end(upload.outcome.outcome)
            receiver.close()
        connection.accept(
            stream,
            existing=existing,
            durability=Durability.SYNCED,
            detail=UploadOpened(detail.chunk_size),
            standing=receiver.standing(),
        )

    def upload_of(self, stream: Stream) -> MemoryUpload:
        assert isinstance(stream.context, MemoryUpload)
        return stream.context

    def open_subscription(self, connection: ServerConnection, stream: Stream) -> None:
        feed = self.logs.get(stream.open.resource)
        if feed is None:
            connection.refuse(stream, Code.NOT_FOUND, f"no {stream.open.resource}")
            return
        detail = open_detail(stream.open)
        assert isinstance(detail, SubscribeDetail)
        position = detail.value if detail.start is Start.ID else feed.first_id
        policy = parse_policy(detail.policy, detail.policy_value, detail.linger)
        sender = PolicySender(stream, feed, position=position, policy=policy)
        stream.sender = sender
        stream.generation = feed.generation
        verified = detail.proof is not None and sender.verify(detail.proof) is True
        sender.begin(stream.open.window_units, stream.open.window_bytes)
        connection.accept(
            stream,
            existing=True,
            durability=Durability.MEMORY,
            detail=SubscribeOpened(Resumes.REPLAY, feed.first_id),
            standing=sender_standing(stream, verified=verified),
        )

    def release_stores(self, *, order: Callable[[int], int] | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        if order is not None:
            waiting.sort(key=lambda notice: order(notice.index))
        for notice in waiting:
            receiver = notice.stream.receiver
            assert isinstance(receiver, ChunkReceiver)
            if self.fail_stores:
                self.fail_stores -= 1
                receiver.chunk_refused(
                    notice, code=Code.INSUFFICIENT_STORAGE, retry_after=1.0
                )
                continue
            upload = self.upload_of(notice.stream)
            before = b""
            if notice.offset:
                assert upload.held[0] == notice.index
                before = upload.held[1][: notice.offset]
            data = before + bytes(notice.data)
            assert len(data) == notice.length
            assert crc32c(data) == notice.crc
            upload.chunks[notice.index] = (data, notice.crc)
            upload.stored_log.append(notice.index)
            receiver.chunk_stored(notice)
            self.completed(notice.stream)

    def settle(self) -> None:
        """Store or refuse all that was received: SPEC.md §8.2, before RESUMED."""
        self.release_stores()
        for receiver in self.publishers.values():
            self.batches(receiver.stream)

    def ended(self, stream: Stream, end: End) -> None:
        if isinstance(stream.receiver, ChunkReceiver):
            self.completed(stream)
        elif (
            isinstance(stream.receiver, EventReceiver)
            and stream.receiver.complete
            and self.auto_complete
        ):
            stream.receiver.end_stored()
            stream.decide(_outcome(OutcomeKind(end.intent), stream.receiver.stored))

    def completed(self, stream: Stream) -> None:
        receiver = stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        if not receiver.complete or not self.auto_complete or stream.outcome:
            return
        assert receiver.end is not None
        end = receiver.end
        size, crc = receiver.whole()
        if end.intent is not Intent.COMPLETED:
            outcome = _outcome(OutcomeKind(end.intent), receiver.stored, end.code)
        elif size != end.size:
            outcome = _outcome(OutcomeKind.FAILED, receiver.stored, Code.SIZE_MISMATCH)
        elif crc != end.crc:
            outcome = _outcome(
                OutcomeKind.FAILED, receiver.stored, Code.DIGEST_MISMATCH
            )
        else:
            made = Object("o1", "x", 1, size, crc, "crc32c", b"", 0.0)
            outcome = _outcome(OutcomeKind.COMPLETED, receiver.stored, made=made)
        upload = self.upload_of(stream)
        upload.outcome = outcome
        self.objects[stream.open.resource] = upload.data()
        receiver.end_stored()
        stream.decide(outcome)

    def batches(self, stream: Stream) -> None:
        receiver = stream.receiver
        assert isinstance(receiver, EventReceiver)
        while (batch := receiver.take()) is not None:
            self.published[stream.resource] += [
                event.data  # type: ignore[union-attr]
                for event in batch.events(receiver.kinds)
            ]
            receiver.consumed_to(batch.next_id, len(batch.payload))
            receiver.stored_to(batch.next_id, log_position=batch.next_id)
        if receiver.end is not None and not stream.ended:
            self.ended(stream, receiver.end)

    def stored_moved(self, stream: Stream) -> None:
        sender = stream.sender
        if sender is not None and sender.end_acknowledged and sender.end is not None:
            kind = OutcomeKind(sender.end.intent)
            stream.decide(_outcome(kind, sender.sent_position))

    def cancel(self, stream: Stream) -> None:
        half = stream.sender or stream.receiver
        assert half is not None
        outcome = _outcome(OutcomeKind.CANCELLED, half.stored, Code.CANCELLED_BY_CLIENT)
        if isinstance(stream.context, MemoryUpload):
            stream.context.outcome = outcome
            stream.context.chunks.clear()
        stream.decide(outcome)


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _outcome(
    kind: OutcomeKind,
    position: int,
    code: int = 0,
    text: str = "",
    made: Object | None = None,
) -> Outcome:
    return Outcome(kind, code, text, position, 0.0, made)


class MemoryClient:
    """Answers the notices of client cores; files are bytes."""

    def __init__(self, *, client_limits: Limits = LIMITS) -> None:
        self.limits = client_limits
        self.session = ClientSession()
        self.stats = Stats()
        self.pool = BufferPool()
        self.budget = Budget(2**28)
        self.files: dict[int, bytes] = {}
        self.events: dict[int, list[bytes]] = {}
        self.fetched: dict[int, dict[int, bytes]] = {}
        self.parked: dict[int, bytes] = {}
        self.hold_stores = False
        self.waiting: list[ChunkReceived | ChunkParked] = []
        self.outcomes: dict[int, Outcome] = {}
        self.refusals: dict[int, int] = {}
        self.errors: list[tuple[int, int]] = []
        self.broken: dict[int, int] = {}
        self.supplied: list[tuple[int, int]] = []
        self.notices: list[Notice] = []
        self.consume = True
        self.hold_loads = False
        self.connection: ClientConnection | None = None

    def upload(
        self,
        data: bytes,
        *,
        chunk_size: int = 4096,
        key: str = "",
        early: bool = False,
        size_known: bool = True,
        resource: str = "objects/x",
    ) -> Stream:
        size = len(data) if size_known else None
        detail = UploadDetail(chunk_size=chunk_size, size=size, early=early)
        stream = self.session.new_stream(
            Open(Use.UPLOAD, resource, key, 0, 0, raw(detail)), notify=self.handle
        )
        sender = ChunkSender(
            stream, chunk_size=chunk_size, size=size, priority=stream.priority
        )
        stream.sender = sender
        self.files[stream.id] = data
        stream.context = stream.id
        if not data:
            self._finish(stream)
        return self._open(stream)

    def publish(
        self, resource: str, *, key: str = "", max_bytes: int = 2**20
    ) -> tuple[Stream, EventBuffer]:
        stream = self.session.new_stream(
            Open(Use.PUBLISH, resource, key, 0, 0, raw(PublishDetail())),
            notify=self.handle,
        )
        feed = EventBuffer(generation=0, max_events=10_000, max_bytes=max_bytes)
        stream.sender = EventSender(stream, feed, position=0, priority=stream.priority)
        return self._open(stream), feed

    def subscribe(
        self,
        resource: str,
        policy: str = "block",
        value: Value = None,
        *,
        linger: float = 0.0,
        max_units: int | None = None,
        parameters: dict[str, Value] | None = None,
    ) -> Stream:
        detail = SubscribeDetail(
            Start.FIRST, policy=policy, policy_value=value, linger=linger
        )
        stream = self.session.new_stream(
            Open(
                Use.SUBSCRIBE,
                resource,
                "",
                0,
                0,
                raw(detail),
                parameters=parameters or {},
            ),
            notify=self.handle,
        )
        stream.receiver = EventReceiver(
            stream,
            budget=self.budget,
            durability=Durability.MEMORY,
            definitions=True,
            max_units=max_units,
            lazy=True,
        )
        self.events[stream.id] = []
        stream.context = stream.id
        return self._open(stream)

    def fetch(self, resource: str, *, chunk_size: int = 4096) -> Stream:
        stream = self.session.new_stream(
            Open(Use.FETCH, resource, "", 0, 0, raw(FetchDetail(chunk_size))),
            notify=self.handle,
        )
        receiver = ChunkReceiver(
            stream,
            pool=self.pool,
            budget=self.budget,
            chunk_size=chunk_size,
            size=None,
            durability=Durability.MEMORY,
        )
        receiver.restore({})
        stream.receiver = receiver
        self.fetched[stream.id] = {}
        stream.context = stream.id
        return self._open(stream)

    def release_stores(self) -> None:
        waiting, self.waiting = self.waiting, []
        for notice in waiting:
            self.store(notice)

    def store(self, notice: ChunkReceived | ChunkParked) -> None:
        stream = notice.stream
        receiver = stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        data = self.parked.get(stream.id, b"")[: notice.offset] + bytes(notice.data)
        if isinstance(notice, ChunkParked):
            self.parked[stream.id] = data[: notice.offset + notice.size]
            receiver.chunk_parked(notice, kept=True)
            return
        assert len(data) == notice.length
        assert crc32c(data) == notice.crc
        assert notice.index not in self.fetched[stream.id]
        self.fetched[stream.id][notice.index] = data
        receiver.chunk_stored(notice)
        self.fetch_ended(stream)

    def fetch_ended(self, stream: Stream) -> None:
        receiver = stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        if receiver.complete and not stream.ended:
            assert receiver.end is not None
            assert receiver.whole() == (receiver.end.size, receiver.end.crc)
            receiver.end_stored()

    def _open(self, stream: Stream) -> Stream:
        if self.connection is not None and not self.connection.draining:
            self.connection.open(stream)
        return stream

    def _renumbered(self, stream: Stream) -> None:
        """Follow a stream that was opened again under a new id."""
        before = stream.context
        if isinstance(before, int) and before != stream.id:
            tables: list[dict[int, Any]] = [
                self.files,
                self.events,
                self.fetched,
                self.parked,
            ]
            for kept in tables:
                if before in kept:
                    kept[stream.id] = kept.pop(before)
        stream.context = stream.id

    def handle(self, notice: Notice) -> None:  # noqa: C901 - a case a notice
        self.notices.append(notice)
        if isinstance(stream := getattr(notice, "stream", None), Stream):
            self._renumbered(stream)
        match notice:
            case ChunkWanted(stream):
                self.load(stream)
            case BatchReceived(stream):
                if self.consume:
                    self.take(stream)
            case EndReceived(stream, _):
                if stream.use is Use.FETCH:
                    self.fetch_ended(stream)
                elif self.consume:
                    self.take(stream)
            case ChunkReceived() | ChunkParked():
                self.waiting.append(notice)
                if not self.hold_stores:
                    self.release_stores()
            case OutcomeReceived(stream, outcome):
                self.outcomes[stream.id] = outcome
            case StreamRefused(stream, message):
                self.refusals[stream.id] = message.code
            case StreamError(stream, message):
                self.errors.append((stream.id, message.code))
            case StreamBroken(stream, code, _):
                self.broken[stream.id] = code
            case StoredMoved(stream, position):
                if isinstance(stream.sender, EventSender) and isinstance(
                    stream.sender.feed, EventBuffer
                ):
                    stream.sender.feed.set_floor(position)
            case _:
                pass

    def load(self, stream: Stream) -> None:
        sender = stream.sender
        if not isinstance(sender, ChunkSender) or self.hold_loads:
            return
        data = self.files[stream.id]
        for first, end in sender.unknown():
            for index in range(first, end):
                part = data[index * sender.chunk_size :][: sender.chunk_size]
                sender.known(index, crc32c(part), len(part))
        while (wanted := sender.wanted()) is not None:
            index = wanted
            part = data[index * sender.chunk_size :][: sender.chunk_size]
            self.supplied.append((stream.id, index))
            if part:
                sender.supply(index, memoryview(part))
            if (index + 1) * sender.chunk_size >= len(data):
                self._finish(stream)
                break

    def _finish(self, stream: Stream) -> None:
        data = self.files[stream.id]
        sender = stream.sender
        assert sender is not None
        sender.finish(End(Intent.COMPLETED, 0, "", size=len(data), crc=crc32c(data)))

    def take(self, stream: Stream) -> None:
        receiver = stream.receiver
        assert isinstance(receiver, EventReceiver)
        while (batch := receiver.take()) is not None:
            for event in batch.events(receiver.kinds):
                self.events[stream.id].append(getattr(event, "data", b"gap"))
            receiver.consumed_to(batch.next_id, len(batch.payload))
            receiver.stored_to(batch.next_id)
        if receiver.complete and not stream.ended:
            receiver.end_stored()


class Pair:
    """A client and a server core, and the link between them."""

    def __init__(
        self,
        server: MemoryServer | None = None,
        client: MemoryClient | None = None,
        *,
        piece: int = 2**20,
        seed: int = 0,
    ) -> None:
        self.server = server or MemoryServer()
        self.client = client or MemoryClient()
        self.piece = piece
        self.now = 1000.0
        self.random = random.Random(seed)
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.sent_to_server = 0
        self.sent_to_client = 0
        self.c: ClientConnection
        self.s: ServerConnection
        self.unnoticed: list[ServerConnection] = []
        self.connect()

    def connect(self) -> None:
        """Make a new connection; what the old one had in flight is lost."""
        self.to_server.clear()
        self.to_client.clear()
        self.s = self.server.connection(lambda: None, self.now)
        self.c = ClientConnection(
            self.client.session,
            limits=self.client.limits,
            scratch=scratch_buffer(),
            notify=self.client.handle,
            on_output=lambda: None,
            now=self.now,
            stats=self.client.stats,
        )
        self.client.connection = self.c
        self.c.start(agent="test")

    def drop(self) -> None:
        """Lose the connection, and what is in flight."""
        self.c.lost()
        self.s.lost()
        for core in self.unnoticed:
            core.lost()
        self.unnoticed.clear()

    def reconnect(self) -> None:
        """Lose the connection and make another one."""
        self.drop()
        self.connect()

    def take_over(self) -> None:
        """Connect again while the server does not know that the connection is gone."""
        self.c.lost()
        self.unnoticed.append(self.s)
        self.connect()

    def step(self) -> bool:
        """Write once each way and deliver a piece each way; False if idle."""
        moved = self._write(self.c, self.to_server) | self._write(
            self.s, self.to_client
        )
        moved |= self._deliver(self.to_server, self.s)
        moved |= self._deliver(self.to_client, self.c)
        return moved

    def run(self, *, steps: int = 100_000, patience: float = 1.5) -> None:
        """Go on until nothing moves; time passes only where nothing else does.

        Args:
            steps: after which it is a failure.
            patience: seconds to pass for what is due then.
        """
        for _ in range(steps):
            if self.step():
                continue
            when = min(self.c.next_timeout(), self.s.next_timeout())
            if when > self.now + patience:
                return
            self.now = max(when, self.now)
            self.c.handle_timeout(self.now)
            self.s.handle_timeout(self.now)
        message = "the two cores do not come to rest"
        raise AssertionError(message)

    def run_until(self, condition: Callable[[], bool], *, steps: int = 100_000) -> None:
        """Go on until something is true."""
        for _ in range(steps):
            if condition():
                return
            if not self.step():
                self.now += 0.01
                self.c.handle_timeout(self.now)
                self.s.handle_timeout(self.now)
        message = "it does not happen"
        raise AssertionError(message)

    def _write(self, core: Connection, wire: bytearray) -> bool:
        parts = core.data_to_send(self.now)
        size = len(wire)
        for part in parts:
            wire += part
        if core is self.c:
            self.sent_to_server += len(wire) - size
        else:
            self.sent_to_client += len(wire) - size
        return bool(parts)

    def _deliver(self, wire: bytearray, core: Connection) -> bool:
        if not wire or not core.reading:
            return False
        piece = bytes(wire[: self.piece])
        del wire[: self.piece]
        view = memoryview(piece)
        while view:
            if not core.reading:  # as a socket that is not read any more
                wire[:0] = view
                break
            place = core.buffer()
            assert place
            n = min(len(place), len(view))
            place[:n] = view[:n]
            core.received(n, self.now)
            view = view[n:]
        return True
