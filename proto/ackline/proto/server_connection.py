"""The server's end of a connection."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec import structs

from ackline.proto.allowance import COSTS, TURN, Allowance, Pressure
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.connection import COMMON_HANDLERS, Connection, Phase
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import MORE, FrameType
from ackline.proto.limits import (
    EARLY_BYTES,
    EARLY_UNITS,
    MAX_REQUESTS,
    MIN_CHUNK_SIZE,
    VERSION,
    validated,
)
from ackline.proto.messages import (
    Cancel,
    Configure,
    Delete,
    Durability,
    Hello,
    List,
    Open,
    Opened,
    Outcome,
    PublishDetail,
    Resume,
    Resumed,
    Seal,
    Standing,
    Status,
    UploadDetail,
    Welcome,
    decode,
    encode,
    open_detail,
    raw,
)
from ackline.proto.notices import (
    CancelReceived,
    EndReceived,
    HelloReceived,
    OpenReceived,
    ReleaseReceived,
    RequestReceived,
    ResumeReceived,
    SessionConfirmed,
)
from ackline.proto.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from msgspec import Struct

    from ackline.proto.buffers import BufferPool
    from ackline.proto.connection import FrameHandler
    from ackline.proto.messages import (
        Done,
        Error,
        Limits,
        Listed,
        OpenDetail,
        OpenedDetail,
        ResumedStream,
        ResumeStream,
        Session,
        StatusReport,
    )
    from ackline.proto.notices import Notice, Request
    from ackline.proto.stats import Stats
    from ackline.proto.windows import Budget

__all__ = ["ServerConnection"]

MAX_UNSENT = 2**20
"""Bytes of answers that wait for a peer that does not take them. Above it nothing more
is read, or one that asks and never reads would have the server hold all its answers.
Only a server does this: if both sides did, each could wait for the other."""

ARRAY_SIZE = 4
"""Bytes that the length of a longer MessagePack array needs more than an empty one."""

_ANSWERING: Final = 1
_CHOKED: Final = 2
_RESTING: Final = 4
_CROWDED: Final = 8
"""Why nothing is read: HELLO or RESUME are to be answered, answers wait to be written,
others have their turn, or the layer above said so."""

OVERLOADED_RETRY = 1.0
"""Seconds after which a refused OPEN may be tried again."""


def _request_of(
    message: type[List | Status | Delete | Seal | Configure],
) -> FrameHandler:
    """Return what handles a request."""

    def handle(
        connection: ServerConnection,
        _flags: int,
        _id: int,
        sequence: int,
        payload: bytes | memoryview,
    ) -> None:
        connection.requested(sequence, decode(message, payload))

    return handle


class ServerConnection(Connection):
    """Answers a client.

    Notices to be answered: `HelloReceived` with `welcome()` or `fail()`,
    `ResumeReceived` with `resumed()`, `OpenReceived` with `accept()` or `refuse()`,
    `RequestReceived` with `reply()`. Until `welcome()` no further frame is read, until
    `resumed()` neither.

    Args:
        limits: what the server enforces.
        scratch, notify, on_output, now, stats: see `Connection`.
        pool: buffers for chunks.
        budget: memory for windows.
        max_chunks: window of one upload, in chunks.
        pressure: whether the server has more to do than it can.
    """

    __slots__ = (
        "_allowance",
        "_asked",
        "_effort",
        "_ended",
        "_holds",
        "_questions",
        "_requests",
        "_rest_until",
        "_resume",
        "_turn",
        "_turn_left",
        "_wants_resume",
        "budget",
        "max_chunks",
        "pool",
    )

    is_client = False

    def __init__(
        self,
        *,
        limits: Limits,
        scratch: memoryview,
        notify: Callable[[Notice], None],
        on_output: Callable[[], None],
        now: float,
        stats: Stats,
        pool: BufferPool,
        budget: Budget,
        max_chunks: int,
        pressure: Pressure | None = None,
    ) -> None:
        super().__init__(
            limits=limits,
            scratch=scratch,
            notify=notify,
            on_output=on_output,
            now=now,
            stats=stats,
        )
        self.pool = pool
        self.budget = budget
        self.max_chunks = max_chunks
        # An empty dict takes 64 bytes, an empty set 216.
        self._requests: dict[int, None] = {}
        self._ended: dict[Stream, None] = {}
        self._questions: deque[tuple[int, Request]] | None = None
        self._asked = 0
        self._holds = 0
        self._allowance = Allowance(pressure or Pressure(), now)
        self._effort = 0
        self._turn = now
        self._turn_left = TURN
        self._rest_until = inf
        self._resume: list[ResumeStream] = []
        self._wants_resume = False
        self._grant.restart(EARLY_UNITS, EARLY_BYTES)

    # Answers

    def welcome(
        self, *, agent: str, identity: str, session: Session | None, ttl: float
    ) -> None:
        """Answer HELLO; `session` is None if the client said it will resume."""
        self.phase = Phase.GREETED if self._wants_resume else Phase.OPEN
        # Limits never go down: what could be sent before WELCOME still may come.
        self._grant.limit_units = max(self.limits.window_units, EARLY_UNITS)
        self._grant.limit_bytes = max(self.limits.window_bytes, EARLY_BYTES)
        self.reader.max_payload = self.limits.max_payload
        self.reader.read_size = len(self.reader.scratch)
        self.send(
            FrameType.WELCOME,
            Welcome(
                version=VERSION,
                agent=agent,
                identity=identity,
                limits=self.limits,
                session=session,
                session_ttl=ttl,
            ),
        )
        self._read_on(_ANSWERING)

    def resumed(
        self,
        session: Session,
        answers: Sequence[ResumedStream],
        streams: Sequence[Stream],
        *,
        code: int = 0,
        text: str = "",
    ) -> None:
        """Answer RESUME.

        Args:
            session: with its successor token; a new one if `code` is not 0.
            answers: one for every stream named.
            streams: those that go on; they are carried by this connection now.
            code: why nothing was resumed, or 0.
            text: for the client's caller.
        """
        frame = Resumed(code=code, text=text, session=session, streams=())
        parts = _portions(answers, self.peer_payload - len(encode(frame)) - ARRAY_SIZE)
        for number, part in enumerate(parts, 1):
            self.send(
                FrameType.RESUMED,
                structs.replace(frame, streams=part),
                flags=0 if number == len(parts) else MORE,
            )
        self.phase = Phase.OPEN
        if not code:  # ids that were opened once stay so, whatever became of them
            ids = [answer.stream_id for answer in answers]
            self.highest_id = max([self.highest_id, *ids])
        for stream in streams:
            if stream.sender is not None:
                stream.sender.wake()
        self._read_on(_ANSWERING)

    def accept(
        self,
        stream: Stream,
        *,
        existing: bool,
        durability: Durability,
        detail: OpenedDetail,
        standing: Standing,
    ) -> None:
        """Answer OPEN; the stream's half, resource and generation are set."""
        stream.opened = True
        if stream.outcome is not None:
            self._ended[stream] = None
        self.send(
            FrameType.OPENED,
            Opened(
                existing=existing,
                id=stream.resource,
                durability=durability,
                standing=standing,
                detail=raw(detail),
            ),
            stream_id=stream.id,
        )
        if stream.sender is not None:
            stream.sender.wake()
            return
        # What came early is told now: errors about it follow OPENED.
        if isinstance(stream.receiver, ChunkReceiver):
            stream.receiver.accepted()
        if stream.receiver is not None and stream.receiver.end is not None:
            stream.notify(EndReceived(stream, stream.receiver.end))

    def refuse(
        self, stream: Stream, code: int, text: str, *, retry_after: float = 0.0
    ) -> None:
        """Send ERROR for a stream; one that was not accepted is gone with it."""
        super().refuse(stream, code, text, retry_after=retry_after)
        if not stream.opened:
            self.drop(stream)

    def drop(self, stream: Stream) -> None:
        """Carry a stream no more, without an outcome."""
        stream.released = True
        self.forget(stream)
        stream.close()

    def adopt(self, streams: Iterable[Stream]) -> None:
        """Carry these streams from now on."""
        for stream in streams:
            super().adopt([stream])
            if stream.outcome is not None:
                self._ended[stream] = None

    def forget(self, stream: Stream) -> None:
        """Carry a stream no more: frames for it are discarded."""
        super().forget(stream)
        self._ended.pop(stream, None)

    def outcome_due(self, stream: Stream) -> None:
        """Send the outcome of a stream."""
        super().outcome_due(stream)
        if stream.id in self.streams:
            self._ended[stream] = None

    def still_stopping(self, stream: Stream, outcome: Outcome) -> None:
        """Say that user code takes its time."""
        self.send(
            FrameType.OUTCOME, outcome, stream_id=stream.id, sequence=outcome.position
        )

    def reply(
        self, request_id: int, message: Listed | StatusReport | Done | Outcome
    ) -> None:
        """Answer a request; one that does not fit the client's frames is refused."""
        self._answered(request_id)
        kind = _REPLIES[type(message).__name__]
        payload = encode(message)
        if len(payload) > self.peer_payload:
            self.error(
                Code.LIMIT_EXCEEDED,
                f"the answer takes {len(payload)} bytes, your max_payload is"
                f" {self.peer_payload}",
                request_id=request_id,
            )
        else:
            self.send(kind, message, sequence=request_id)
        self._ask()

    def refuse_request(
        self, request_id: int, code: int, text: str, *, retry_after: float = 0.0
    ) -> None:
        """Answer a request with ERROR."""
        self._answered(request_id)
        self.error(code, text, request_id=request_id, retry_after=retry_after)
        self._ask()

    # Private

    def _allowed(self, kind: FrameType) -> bool:
        if self.phase is Phase.NEW:
            return kind in (FrameType.HELLO, FrameType.ERROR)
        if self.phase is Phase.GREETED:
            return kind in (
                FrameType.RESUME,
                FrameType.ERROR,
                FrameType.CREDIT,
                FrameType.PING,
                FrameType.PONG,
                FrameType.GOAWAY,
            )
        return kind not in (FrameType.HELLO, FrameType.RESUME)

    def _data_allowed(self, kind: FrameType) -> None:
        if self.phase is not Phase.OPEN:
            raise ProtocolViolation(
                Code.BAD_FRAME if self.phase is Phase.NEW else Code.WRONG_STATE,
                f"{kind.name} before the handshake was over",
            )

    def send(
        self,
        kind: FrameType,
        message: Struct | None = None,
        *,
        flags: int = 0,
        stream_id: int = 0,
        sequence: int = 0,
    ) -> None:
        """Queue a control frame."""
        super().send(kind, message, flags=flags, stream_id=stream_id, sequence=sequence)
        if self._outbox.size > MAX_UNSENT:
            self._hold(_CHOKED)

    def data_to_send(self, now: float) -> list[bytes | memoryview]:
        """Return the parts of the next frames, or nothing."""
        parts = super().data_to_send(now)
        if self._holds & _CHOKED:
            self._read_on(_CHOKED)
            self._ask()
        return parts

    # Whose turn it is

    def received(self, count: int, now: float) -> None:
        """Take bytes that were read into `buffer()`."""
        if now != self._turn:
            self._turn, self._turn_left = now, TURN
        super().received(count, now)
        self._tire(now)

    def frame_received(
        self,
        kind: int,
        flags: int,
        fragment: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
        in_place: bool,
    ) -> None:
        """Take one frame from the reader, and count what it costs."""
        super().frame_received(
            kind, flags, fragment, stream_id, sequence, payload, crc, in_place
        )
        self._turn_left -= 1
        if self._turn_left <= 0 and not self._holds & _RESTING:
            self._rest_until = self.now
            self._hold(_RESTING)
            self.on_output()  # has the layer above look at `next_timeout()`

    def crowded(self, *, yes: bool) -> None:
        """Read nothing further for a while: the layer above has enough to do."""
        if yes:
            self._hold(_CROWDED)
        elif self._holds & _CROWDED:
            self._read_on(_CROWDED)

    def next_timeout(self) -> float:
        """Return when to call `handle_timeout`, at the latest; infinity if never."""
        if self.phase is Phase.CLOSED:
            return inf
        return min(super().next_timeout(), self._rest_until)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        super().handle_timeout(now)
        if now >= self._rest_until:
            self._rest_until = inf
            self._turn, self._turn_left = now, TURN
            self._read_on(_RESTING)
            if self._effort:  # of what had been read
                self._tire(now)

    def _control_frame(
        self,
        number: int,
        flags: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
    ) -> None:
        cost = COSTS[number]
        self._effort += cost
        self._turn_left -= cost
        super()._control_frame(number, flags, stream_id, sequence, payload)

    def _tire(self, now: float) -> None:
        """Rest, if this client has others do more than its part under pressure."""
        seconds = self._allowance.spend(self._effort, now)
        self._effort = 0
        if seconds:
            self._rest_until = now + seconds
            self._hold(_RESTING)
            self.on_output()

    def _hold(self, why: int) -> None:
        """Read nothing further until that is over."""
        self._holds |= why
        self.reading = False
        self.reader.hold()

    def _read_on(self, why: int) -> None:
        self._holds &= ~why
        if self._holds or self.phase is Phase.CLOSED:
            return
        self.reading = True
        self.life.begun_at = self.now
        try:
            self.reader.release()
        except ProtocolViolation as violation:
            self.fail(violation.code, violation.text, stream_id=self.reader.stream_id)

    def _hello(
        self, _flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        hello = decode(Hello, payload)
        if not hello.oldest <= VERSION <= hello.version:
            raise ProtocolViolation(
                Code.UNSUPPORTED_VERSION,
                f"the client speaks versions {hello.oldest} to {hello.version},"
                f" this server speaks version {VERSION}",
            )
        self._know_peer(validated(hello.limits, of_server=False))
        self.credit.restart(hello.limits.window_units, hello.limits.window_bytes)
        self._wants_resume = hello.resume
        self._hold(_ANSWERING)
        self.notify(HelloReceived(hello))

    def _resume_received(
        self, flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Resume, payload)
        self._resume += message.streams
        if len(self._resume) > self.limits.max_streams:
            raise ProtocolViolation(
                Code.TOO_MANY_STREAMS,
                f"RESUME names more than {self.limits.max_streams} streams",
            )
        if flags & MORE:
            return
        streams, self._resume = self._resume, []
        self.phase = Phase.RESUMING
        self._hold(_ANSWERING)
        self.notify(ResumeReceived(message.session_id, message.token, streams))

    def _confirm(
        self, _flags: int, _stream_id: int, sequence: int, _payload: bytes | memoryview
    ) -> None:
        self.notify(SessionConfirmed(sequence))

    def _open(
        self, _flags: int, stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Open, payload)
        if stream_id <= self.highest_id:
            raise ProtocolViolation(
                Code.WRONG_STATE,
                f"stream id {stream_id} is not above {self.highest_id}",
            )
        stream = Stream(stream_id, message, notify=self.notify)
        if len(self.streams) >= self.limits.max_streams and not self._make_room():
            self.highest_id = stream_id
            self.error(
                Code.TOO_MANY_STREAMS,
                f"at most {self.limits.max_streams} streams are open at once:"
                " end or release some",
                stream_id=stream_id,
            )
            return
        self.adopt([stream])
        detail = open_detail(message)
        largest = self.limits.max_chunk_size
        if isinstance(detail, UploadDetail) and not (
            MIN_CHUNK_SIZE <= detail.chunk_size <= largest
        ):
            self.refuse(
                stream,
                Code.INVALID_ARGUMENT,
                f"chunk_size {detail.chunk_size} is not from {MIN_CHUNK_SIZE} to"
                f" {largest}",
            )
        elif self._early(stream, detail):
            self.notify(OpenReceived(stream, message))
        else:
            self.refuse(
                stream,
                Code.OVERLOADED,
                "the memory for windows is used up: try again",
                retry_after=OVERLOADED_RETRY,
            )

    def _early(self, stream: Stream, detail: OpenDetail) -> bool:
        """Make the receiving half, for what may come before OPENED (SPEC.md §9.2)."""
        units = size = 0
        if isinstance(detail, UploadDetail):
            stream.receiver = ChunkReceiver(
                stream,
                pool=self.pool,
                budget=self.budget,
                chunk_size=detail.chunk_size,
                size=detail.size,
                durability=Durability(detail.durability),
                max_chunks=self.max_chunks,
            )
            early = detail.early
        elif isinstance(detail, PublishDetail):
            stream.receiver = EventReceiver(
                stream,
                budget=self.budget,
                durability=Durability.SYNCED,
                kinds=detail.kinds,
            )
            early = not stream.open.key
        else:
            return True
        if early:
            units, size = self.limits.initial_units, self.limits.initial_bytes
        return stream.receiver.begin_early(units, size)

    def _cancel(
        self, _flags: int, stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Cancel, payload)
        if not stream_id:
            self.requested(sequence, message)
            return
        stream = self._stream(stream_id)
        if stream is None:
            return
        if stream.outcome is not None:
            self.outcome_due(stream)
            return
        if not stream.cancelling:
            stream.cancelling = True
            self.notify(CancelReceived(stream, message))

    def _make_room(self) -> bool:
        """Release the oldest stream that has ended, whose client did not (SPEC.md §6).

        Return whether there was one: a live one is never given up.
        """
        ended = next(iter(self._ended), None)
        if ended is None or self._outbox.tells(ended):
            return False
        self.drop(ended)
        self.notify(ReleaseReceived(ended))
        return True

    def _release(
        self, _flags: int, stream_id: int, _sequence: int, _payload: bytes | memoryview
    ) -> None:
        stream = self._stream(stream_id)
        if stream is not None:
            self.drop(stream)
            self.notify(ReleaseReceived(stream))

    def _blocked(
        self, _flags: int, stream_id: int, sequence: int, _payload: bytes | memoryview
    ) -> None:
        stream = self._stream(stream_id)
        if stream is None or stream.ended or stream.cancelling:
            return
        if not isinstance(stream.receiver, EventReceiver):
            raise ProtocolViolation(
                Code.WRONG_STATE,
                f"BLOCKED on stream {stream_id}, which takes no events",
            )
        stream.receiver.blocked(sequence)

    def requested(self, request_id: int, message: Request) -> None:
        """Take a request.

        One after the other is told to the layer above, so that a client that asks and
        never reads has the server hold one answer. Only a CANCEL does not wait: what it
        stops may take its time.
        """
        if not request_id or request_id in self._requests:
            raise ProtocolViolation(
                Code.BAD_FRAME, f"request id {request_id} is 0 or in use"
            )
        if len(self._requests) >= MAX_REQUESTS:
            raise ProtocolViolation(
                Code.LIMIT_EXCEEDED, f"more than {MAX_REQUESTS} requests unanswered"
            )
        self._requests[request_id] = None
        if isinstance(message, Cancel):
            self.notify(RequestReceived(request_id, message))
            return
        if self._questions is None:
            self._questions = deque()
        self._questions.append((request_id, message))
        self._ask()

    def _ask(self) -> None:
        """Tell the next request, when the one before is answered and that written."""
        while self._questions and not self._asked and not self._holds & _CHOKED:
            self._asked, message = self._questions.popleft()
            self.notify(RequestReceived(self._asked, message))

    def _answered(self, request_id: int) -> None:
        self._requests.pop(request_id, None)
        if request_id == self._asked:
            self._asked = 0

    def _stream_error(self, stream: Stream, message: Error) -> None:
        """A client reports an error by cancelling; this says why, for the log."""

    def _request_error(self, request_id: int, message: Error) -> None:
        raise ProtocolViolation(
            Code.WRONG_STATE, f"ERROR for request {request_id}, servers make none"
        )

    @property
    def handlers(self) -> Mapping[FrameType, FrameHandler]:
        """Of the control frames that a server gets."""
        return HANDLERS

    @staticmethod
    def server_handlers() -> dict[FrameType, FrameHandler]:
        """Return the handlers of all frames that a server gets."""
        return {
            **COMMON_HANDLERS,
            FrameType.HELLO: ServerConnection._hello,
            FrameType.RESUME: ServerConnection._resume_received,
            FrameType.CONFIRM: ServerConnection._confirm,
            FrameType.OPEN: ServerConnection._open,
            FrameType.CANCEL: ServerConnection._cancel,
            FrameType.RELEASE: ServerConnection._release,
            FrameType.BLOCKED: ServerConnection._blocked,
            FrameType.LIST: _request_of(List),
            FrameType.STATUS: _request_of(Status),
            FrameType.DELETE: _request_of(Delete),
            FrameType.SEAL: _request_of(Seal),
            FrameType.CONFIGURE: _request_of(Configure),
        }


def _portions(
    answers: Sequence[ResumedStream], room: int
) -> list[tuple[ResumedStream, ...]]:
    """Cut answers into frames: with outcomes and ranges they differ much in size."""
    portions: list[list[ResumedStream]] = [[]]
    left = room
    for answer in answers:
        size = len(encode(answer))
        if size > left and portions[-1]:
            portions.append([])
            left = room
        portions[-1].append(answer)
        left -= size
    return [tuple(portion) for portion in portions]


_REPLIES = {
    "Listed": FrameType.LISTED,
    "StatusReport": FrameType.STATUS_REPORT,
    "Done": FrameType.DONE,
    "Outcome": FrameType.OUTCOME,
}


HANDLERS = ServerConnection.server_handlers()
