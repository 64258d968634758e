"""The client's end of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.client_session import LOST_PUBLISHER
from ackline.proto.connection import COMMON_HANDLERS, Connection, Phase
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import MORE, FrameType
from ackline.proto.limits import (
    EARLY_BYTES,
    EARLY_UNITS,
    MAX_STRING,
    MIN_INITIAL_BYTES,
    MIN_INITIAL_UNITS,
    MIN_PAYLOAD,
    VERSION,
    validated,
)
from ackline.proto.messages import (
    Cancel,
    Done,
    Error,
    FetchOpened,
    Hello,
    Listed,
    Opened,
    Outcome,
    OutcomeKind,
    PublishDetail,
    Redirect,
    Resume,
    Resumed,
    ResumedStream,
    Scope,
    StatusReport,
    SubscribeOpened,
    UploadDetail,
    Welcome,
    clipped,
    decode,
    encode,
    open_detail,
    opened_detail,
)
from ackline.proto.notices import (
    OutcomeReceived,
    Redirected,
    ReplyReceived,
    SessionResumed,
    StreamError,
    StreamOpened,
    StreamRefused,
    Welcomed,
)
from ackline.proto.values import too_long

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from msgspec import Struct

    from ackline.proto.client_session import ClientSession
    from ackline.proto.connection import FrameHandler
    from ackline.proto.messages import Limits, Open, Standing
    from ackline.proto.notices import Notice
    from ackline.proto.stats import Stats
    from ackline.proto.stream import Stream

__all__ = ["ClientConnection"]

RESUME_AT_ONCE = 80
"""Streams in one RESUME frame: each takes at most 90 bytes, the frame 8 KiB, and the
session's id and token come on top."""


REOPENED = 256
"""Bytes that opening again adds to an OPEN, at most: windows, a position, a proof."""


def _reply_of(message: type[Listed | StatusReport | Done]) -> FrameHandler:
    """Return what handles an answer."""

    def handle(
        connection: ClientConnection,
        _flags: int,
        _id: int,
        sequence: int,
        payload: bytes | memoryview,
    ) -> None:
        connection.notify(ReplyReceived(sequence, decode(message, payload)))

    return handle


def _is_large(message: Open) -> bool:
    """Tell whether an OPEN may be too large for a server that has not said WELCOME."""
    return len(encode(message)) > MIN_PAYLOAD - REOPENED


class ClientConnection(Connection):
    """Speaks first.

    Call `start()`, then `open()`, `cancel()`, `release()`, `request()` at any time.

    Args:
        session: lives longer than this connection; its streams are resumed.
        limits: what this client enforces as a receiver.
        scratch, notify, on_output, now, stats: see `Connection`.
    """

    is_client = True

    def __init__(
        self,
        session: ClientSession,
        *,
        limits: Limits,
        scratch: memoryview,
        notify: Callable[[Notice], None],
        on_output: Callable[[], None],
        now: float,
        stats: Stats,
    ) -> None:
        super().__init__(
            limits=limits,
            scratch=scratch,
            notify=notify,
            on_output=on_output,
            now=now,
            stats=stats,
        )
        self.session = session
        self.welcomed = False
        self._resumed: list[ResumedStream] = []
        self._released: list[int] = []
        self._early: set[Stream] = set()
        self._waiting: list[Stream] = []  # OPENs too large before WELCOME
        self.credit.restart(EARLY_UNITS, EARLY_BYTES)
        self._grant.restart(limits.window_units, limits.window_bytes)
        self.reader.max_payload = limits.max_payload
        self.reader.read_size = len(scratch)

    def start(self, *, agent: str, scheme: str = "", credential: bytes = b"") -> None:
        """Send HELLO, and RESUME if there is a session to bring back."""
        held = self.session.session
        self.send(
            FrameType.HELLO,
            Hello(
                version=VERSION,
                oldest=VERSION,
                scheme=scheme,
                credential=credential,
                agent=agent,
                resume=held is not None,
                limits=self.limits,
            ),
        )
        if held is None:
            self.phase = Phase.GREETED
            for stream in list(self.session.streams.values()):
                if not stream.ended:
                    self.open(stream)
            return
        self.phase = Phase.RESUMING
        self.adopt(self.session.established())
        streams = self.session.resume_streams()
        for at in range(0, max(len(streams), 1), RESUME_AT_ONCE):
            self.send(
                FrameType.RESUME,
                Resume(
                    session_id=held.session_id,
                    token=held.token,
                    streams=tuple(streams[at : at + RESUME_AT_ONCE]),
                ),
                flags=0 if at + RESUME_AT_ONCE >= len(streams) else MORE,
            )

    def open(self, stream: Stream) -> None:
        """Send OPEN, and data at once where SPEC.md §9.2 lets it.

        Where RESUMED is awaited the stream is opened after it.
        """
        if self.phase not in (Phase.GREETED, Phase.OPEN):
            return
        if not self.welcomed and (self._waiting or _is_large(stream.open)):
            self._waiting.append(stream)  # and all later ones: ids only go up
            return
        self.adopt([stream])
        message = stream.open
        if stream.receiver is not None:
            opened = self.session.reopened(stream)
            assert opened is not None
            message = opened
        size = len(encode(message))
        if size > self.peer_payload:
            self._too_large(stream, size)
            return
        self.send(FrameType.OPEN, message, stream_id=stream.id)
        if stream.paused_here:
            self.pause_due(stream, "")
        self._send_cancel(stream)
        detail = open_detail(message)
        early = (isinstance(detail, UploadDetail) and detail.early) or (
            isinstance(detail, PublishDetail) and not message.key
        )
        if early and stream.sender is not None:
            limits = self.peer_limits
            self._early.add(stream)
            stream.sender.begin_early(
                limits.initial_units if limits else MIN_INITIAL_UNITS,
                limits.initial_bytes if limits else MIN_INITIAL_BYTES,
            )
            stream.wants_chunk()
            stream.sender.wake()

    def cancel(self, stream: Stream, *, scope: Scope, text: str = "") -> None:
        """Send CANCEL; nothing more is sent on the stream.

        It is sent again with every resume and OPEN, until there is an outcome.
        """
        stream.cancelling = True
        stream.cancel = Cancel(scope=scope, text=clipped(text))
        if isinstance(stream.receiver, EventReceiver):
            stream.receiver.drop()
        if stream.sender is not None:
            stream.sender.close()
        if self.phase is not Phase.RESUMING:
            self._send_cancel(stream)

    def release(self, stream: Stream) -> None:
        """Send RELEASE: this stream id is not asked for again."""
        known = self.streams.get(stream.id) is stream
        stream.released = True
        self.forget(stream)
        self.session.forget(stream)
        stream.close()
        if known and self.phase is Phase.RESUMING:
            self._released.append(stream.id)
        elif known:
            self.send(FrameType.RELEASE, stream_id=stream.id)

    def request(self, kind: FrameType, request_id: int, message: Struct) -> None:
        """Send LIST, STATUS, DELETE, SEAL, CONFIGURE, or CANCEL with a target.

        What the server could not read is answered here: it would end the connection.
        """
        for name in message.__struct_fields__:
            value = getattr(message, name)
            if isinstance(value, (str, bytes)) and too_long(value):
                text = f"{name} is longer than {MAX_STRING} bytes"
                error = Error(code=Code.INVALID_ARGUMENT, text=text, retry=False)
                self.notify(ReplyReceived(request_id, error))
                return
        self.send(kind, message, sequence=request_id)

    # Private

    def _too_large(self, stream: Stream, size: int) -> None:
        """Refuse here what would end the connection for all streams."""
        text = (
            f"OPEN would have {size} bytes, and the server's max_payload is"
            f" {self.peer_payload}: shorten its parameters"
        )
        if stream.opened:
            stream.broken(Code.LIMIT_EXCEEDED, text)
        else:
            self._stream_error(
                stream, Error(code=Code.LIMIT_EXCEEDED, text=text, retry=False)
            )

    def _send_cancel(self, stream: Stream) -> None:
        if stream.cancel is not None and self.streams.get(stream.id) is stream:
            self.send(FrameType.CANCEL, stream.cancel, stream_id=stream.id)

    def _allowed(self, kind: FrameType) -> bool:
        if not self.welcomed:
            return kind in (FrameType.WELCOME, FrameType.ERROR, FrameType.REDIRECT)
        if self.phase is Phase.RESUMING:
            return kind in (
                FrameType.RESUMED,
                FrameType.ERROR,
                FrameType.REDIRECT,
                FrameType.GOAWAY,
                FrameType.PING,
                FrameType.PONG,
                FrameType.CREDIT,
            )
        return kind not in (FrameType.WELCOME, FrameType.RESUMED)

    def _welcome(
        self, _flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        welcome = decode(Welcome, payload)
        if welcome.version != VERSION:
            raise ProtocolViolation(
                Code.UNSUPPORTED_VERSION,
                f"the server chose version {welcome.version}, this client speaks"
                f" {VERSION}",
            )
        limits = validated(welcome.limits, of_server=True)
        self._know_peer(limits)
        self.credit.raise_to(limits.window_units, limits.window_bytes)
        self.welcomed = True
        if self.phase is Phase.GREETED:
            if welcome.session is None:
                raise ProtocolViolation(Code.BAD_FRAME, "WELCOME without a session")
            self.session.session = welcome.session
            self.phase = Phase.OPEN
        self.refilled()
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            if not stream.released and not stream.ended:
                self.open(stream)
        for stream in self._early:
            assert stream.sender is not None
            stream.sender.widen(limits.initial_units, limits.initial_bytes)
            stream.wants_chunk()
        self.notify(Welcomed(welcome))

    def _resumed_received(
        self, flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Resumed, payload)
        self._resumed += message.streams
        if len(self._resumed) > len(self.streams) + len(self._released):
            raise ProtocolViolation(
                Code.BAD_FRAME, "RESUMED has more streams than RESUME named"
            )
        if flags & MORE:
            return
        answers, self._resumed = self._resumed, []
        released, self._released = self._released, []
        self.session.session = message.session
        self.phase = Phase.OPEN
        self.send(FrameType.CONFIRM, sequence=message.session.epoch)
        self.notify(SessionResumed(message.code, message.text))
        if message.code:
            if message.code == Code.UNKNOWN_SESSION:
                self._reopen_all()
            return
        for stream_id in released:
            self.send(FrameType.RELEASE, stream_id=stream_id)
        self._go_on(answers)
        for stream in list(self.session.streams.values()):
            if not stream.established and not stream.ended:
                self.session.renumber(stream)
                self.open(stream)

    def _go_on(self, answers: list[ResumedStream]) -> None:
        by_id = {answer.stream_id: answer for answer in answers}
        for stream in list(self.streams.values()):
            answer = by_id.get(stream.id)
            if answer is None:
                stream.broken(Code.UNKNOWN_STREAM, "the server does not name it")
            elif answer.standing is not None and answer.standing.outcome is not None:
                self._ended(stream, answer.standing.outcome)
            elif answer.code or answer.standing is None:
                stream.broken(answer.code, answer.text)
            else:
                self._standing(stream, answer.standing)
                self._send_cancel(stream)

    def _standing(self, stream: Stream, standing: Standing) -> None:
        if stream.generation and standing.generation != stream.generation:
            stream.broken(Code.GENERATION_CHANGED, "it was deleted and made again")
            return
        receiver = stream.receiver
        if isinstance(receiver, EventReceiver):
            for number, name in enumerate(standing.kinds, 1):
                receiver.kinds.learn(number, name)
        elif isinstance(receiver, ChunkReceiver):
            receiver.confirmed(standing.position)
        stream.go_on(standing)

    def _reopen_all(self) -> None:
        for stream in list(self.session.streams.values()):
            self.forget(stream)
            if stream.ended:
                continue
            stream.established = False
            again = self.session.reopened(stream)
            if again is None:
                stream.broken(*LOST_PUBLISHER)
                continue
            stream.open = again
            self.open(stream)

    def _redirect(
        self, _flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        self.notify(Redirected(decode(Redirect, payload)))

    def _opened(
        self, _flags: int, stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        opened = decode(Opened, payload)
        stream = self._stream(stream_id)
        if stream is None or stream.ended:
            return
        standing = opened.standing
        again = stream.opened
        early = stream in self._early
        self._early.discard(stream)
        stream.opened = stream.established = True
        stream.last_opened = opened
        stream.resource = opened.id
        if not again or not stream.generation:
            stream.generation = standing.generation
        if stream.receiver is not None:
            stream.ack_due()  # its window may have grown since OPEN
        self._halves(stream, opened, again=again)
        self.notify(StreamOpened(stream, opened))
        if standing.outcome is not None:
            self._ended(stream, standing.outcome)
        elif early and stream.sender is not None:
            stream.opened_early(standing)
        else:
            self._standing(stream, standing)

    def _halves(self, stream: Stream, opened: Opened, *, again: bool) -> None:
        """Fit the receiving half to what the server says."""
        receiver = stream.receiver
        if isinstance(receiver, EventReceiver):
            if not again:
                receiver.start_at(opened.standing.position)
            source = opened_detail(stream.use, opened)
            assert isinstance(source, SubscribeOpened)
            receiver.waited_for(source.ahead_units, source.ahead_bytes)
        elif isinstance(receiver, ChunkReceiver):
            detail = opened_detail(stream.use, opened)
            assert isinstance(detail, FetchOpened)
            receiver.agreed(detail.chunk_size, detail.length)

    def _outcome(
        self, _flags: int, stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        outcome = decode(Outcome, payload)
        if not stream_id:
            self.notify(ReplyReceived(sequence, outcome))
            return
        stream = self._stream(stream_id)
        if stream is not None and not stream.ended:
            self._ended(stream, outcome)

    def _ended(self, stream: Stream, outcome: Outcome) -> None:
        if outcome.outcome == OutcomeKind.STILL_STOPPING:
            return
        stream.decide(outcome)
        self.notify(OutcomeReceived(stream, outcome))

    def _stream_error(self, stream: Stream, message: Error) -> None:
        if stream.opened:
            self.notify(StreamError(stream, message))
        else:
            self._early.discard(stream)
            self.forget(stream)
            self.session.forget(stream)
            stream.released = True
            stream.close()
            self.notify(StreamRefused(stream, message))

    def _request_error(self, request_id: int, message: Error) -> None:
        self.notify(ReplyReceived(request_id, message))

    @property
    def handlers(self) -> Mapping[FrameType, FrameHandler]:
        """Of the control frames that a client gets."""
        return HANDLERS

    @staticmethod
    def client_handlers() -> dict[FrameType, FrameHandler]:
        """Return the handlers of all frames that a client gets."""
        return {
            **COMMON_HANDLERS,
            FrameType.WELCOME: ClientConnection._welcome,
            FrameType.RESUMED: ClientConnection._resumed_received,
            FrameType.REDIRECT: ClientConnection._redirect,
            FrameType.OPENED: ClientConnection._opened,
            FrameType.OUTCOME: ClientConnection._outcome,
            FrameType.LISTED: _reply_of(Listed),
            FrameType.STATUS_REPORT: _reply_of(StatusReport),
            FrameType.DONE: _reply_of(Done),
        }


HANDLERS = ClientConnection.client_handlers()
