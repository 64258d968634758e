"""One connection, as both sides see it: frames in, frames out, time.

The layer above owns the socket and the clock:

- **bytes in**: read into `buffer()`, then call `received(n, now)`;
- **bytes out**: whenever `on_output` was called, and again when the socket has taken
  everything: write all parts that `data_to_send(now)` returns, until it returns none;
- **time**: call `handle_timeout(now)` when `next_timeout()` is reached; tell
  `output_blocked(now)` and `output_taken(now, size)` what the socket does;
- **notices** come through `notify`; `closing` says to write what is left and close.

`now` is a monotonic clock in seconds. `ClientConnection` and `ServerConnection` add
what only one side may send; everything about units is the same class on both.
"""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import (
    LAST,
    REWIND,
    SPECIAL,
    FrameType,
    encode_frame,
    frame_type,
)
from ackline.proto.heartbeat import DrainRate, Heartbeat, Pulse
from ackline.proto.limits import MIN_PAYLOAD
from ackline.proto.messages import (
    Ack,
    Credit,
    End,
    Error,
    GoAway,
    Limits,
    Pause,
    Ping,
    clipped,
    decode,
    encode,
)
from ackline.proto.notices import (
    ConnectionFailed,
    EndReceived,
    PeerLeft,
    PeerPaused,
    PongReceived,
)
from ackline.proto.outbox import Outbox, count_sent
from ackline.proto.reader import FrameReader
from ackline.proto.scheduler import Scheduler
from ackline.proto.stats import Stats
from ackline.proto.windows import STUCK, Grant, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    from msgspec import Struct

    from ackline.proto.notices import Notice
    from ackline.proto.sender import Sender
    from ackline.proto.stream import Stream
    from ackline.proto.token_bucket import TokenBucket
    from ackline.proto.windows import Budget

    #: Called with the connection, flags, stream id, sequence number and payload.
    FrameHandler: TypeAlias = Callable[..., None]

__all__ = ["COMMON_HANDLERS", "PARTS_AT_ONCE", "Connection", "Phase"]

PARTS_AT_ONCE = 64
"""Parts written at once, one a small data frame and two a large one: of 1,000 small
frames the peer has the first while the last are made, instead of when they all are."""

_EVENTS: Final = FrameType.EVENTS.value
_CHUNK: Final = FrameType.CHUNK.value


class Phase(Enum):
    """How far a connection is."""

    NEW = "new"
    GREETED = "greeted"
    RESUMING = "resuming"
    OPEN = "open"
    CLOSED = "closed"


class ConnectionReader(FrameReader):
    """Cuts the bytes of a connection.

    Compiled, it calls it directly: through the sink that a reader may have, eight
    arguments became objects, 3 % of what a lone event costs its receiver.
    """

    __slots__ = ("_connection",)

    def __init__(
        self,
        connection: Connection,
        scratch: memoryview,
        *,
        max_payload: int,
        read_size: int,
    ) -> None:
        super().__init__(
            connection, scratch, max_payload=max_payload, read_size=read_size
        )
        self._connection: Connection | None = connection

    def part(self) -> None:
        """Let the connection go: no more bytes come."""
        super().part()
        self._connection = None

    def _hand_out(
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
        if self._connection is not None:
            self._connection.frame_received(
                kind, flags, fragment, stream_id, sequence, payload, crc, in_place
            )


class Connection:
    """Everything both sides have in common.

    Args:
        limits: what this side enforces as a receiver.
        scratch: shared read buffer.
        notify: takes the notices.
        on_output: called when there is something to write where there was nothing.
        now: seconds, monotonic.
        stats: counters, shared by connections if the caller wants.

    Attributes:
        bucket: Server: what the client's identity may move, if there is a limit to it.
        failed: Whether this side ended it with an ERROR, which the peer is to read.
    """

    __slots__ = (
        "_awaited_pong",
        "_grant",
        "_has_turn",
        "_held",
        "_held_until",
        "_least_window",
        "_outbox",
        "_output_asked",
        "_ping_number",
        "_scheduler",
        "_short",
        "_stir_at",
        "_written",
        "bucket",
        "bytes_sent",
        "credit",
        "draining",
        "failed",
        "highest_id",
        "life",
        "limits",
        "notify",
        "now",
        "on_output",
        "peer_largest",
        "peer_limits",
        "peer_payload",
        "phase",
        "rate",
        "reader",
        "reading",
        "stats",
        "streams",
    )

    is_client: ClassVar[bool]

    def __init__(
        self,
        *,
        limits: Limits,
        scratch: memoryview,
        notify: Callable[[Notice], None],
        on_output: Callable[[], None],
        now: float,
        stats: Stats,
    ) -> None:
        self.limits = limits
        self.notify = notify
        self.on_output = on_output
        self.now = now
        self.stats = stats
        self.bucket: TokenBucket | None = None
        self._has_turn = False
        self.phase = Phase.NEW
        self.reading = True
        self.draining = False
        self.failed = False
        self.credit = Window()
        self.peer_payload = MIN_PAYLOAD
        self.peer_largest = MIN_PAYLOAD
        self.peer_limits: Limits | None = None
        self.streams: dict[int, Stream] = {}
        self.highest_id = 0
        self.rate = DrainRate()
        self.life = Heartbeat(limits.heartbeat, now)
        self.bytes_sent = 0
        self.reader: FrameReader = ConnectionReader(
            self, scratch, max_payload=MIN_PAYLOAD, read_size=MIN_PAYLOAD
        )
        self._grant = Grant()
        # CREDIT for every half of the window; but a largest chunk must always fit.
        self._least_window = max(
            limits.window_bytes // 2, limits.max_chunk_size, limits.max_payload
        )
        self._scheduler = Scheduler()
        self._outbox = Outbox(self._grant)
        self._held: dict[Sender, float] = {}
        self._held_until = inf
        self._short: set[Budget] = set()
        self._stir_at = inf
        self._written: list[Callable[[], None]] = []
        self._output_asked = False
        self._ping_number = 0
        self._awaited_pong = 0

    @property
    @abstractmethod
    def handlers(self) -> Mapping[FrameType, FrameHandler]:
        """Of the control frames that this side may get."""

    # Bytes in

    def buffer(self) -> memoryview:
        """Return where to read the next bytes to."""
        if self.phase is Phase.CLOSED:
            # The place of a half-read chunk may be another stream's buffer by now.
            return self.reader.scratch
        return self.reader.buffer()

    def received(self, count: int, now: float) -> None:
        """Take bytes that were read into `buffer()`."""
        self.now = self.life.heard = now
        self.stats.bytes_received += count
        if self.phase is Phase.CLOSED:
            return
        frames = self.reader.frames if self.reader.missing else -1
        try:
            self.reader.received(count)
            if self.reader.frames != frames:
                self.life.begun_at = now
        except ProtocolViolation as violation:
            self.fail(violation.code, violation.text, stream_id=self.reader.stream_id)

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
        """Take one frame from the reader."""
        if self.phase is Phase.CLOSED:
            return
        self.stats.frames_received[kind] += 1
        self.stats.payload_received[kind] += len(payload)
        if kind == _EVENTS:
            self._events(flags, stream_id, sequence, payload, crc)
        elif kind == _CHUNK:
            self._chunk(flags, fragment, stream_id, sequence, payload, crc, in_place)
        else:
            self._control_frame(kind, flags, stream_id, sequence, payload)

    def place_for(
        self, kind: int, fragment: int, stream_id: int, sequence: int, length: int
    ) -> memoryview | None:
        """Return where an incomplete body belongs."""
        if kind not in (_CHUNK, _EVENTS):
            return None
        stream = self.streams.get(stream_id)
        if stream is None or stream.ended or stream.cancelling:
            return None
        if kind == _CHUNK and isinstance(stream.receiver, ChunkReceiver):
            return stream.receiver.place_for(sequence, fragment, length)
        if isinstance(stream.receiver, EventReceiver):
            stream.receiver.grant.check(length)
        return None

    # Bytes out

    def data_to_send(self, now: float) -> list[bytes | memoryview]:
        """Return the parts of the next frames, or nothing.

        The caller has written everything returned before: the socket has taken it.
        """
        self.now = now
        for release in self._written:
            release()
        self._written.clear()
        while True:
            self._output_asked = False
            parts = self._next_parts()
            # Asking the senders may have brought about something to say, and nobody
            # asks again after nothing.
            if parts or not self._output_asked:
                self.bytes_sent += count_sent(parts, self.stats)
                return parts

    @property
    def more_to_send(self) -> bool:
        """Whether there may be more, now that the socket has all that was returned.

        Most connections have one event at a time: asking again in vain would cost a
        quarter of what sending it does.
        """
        return self._output_asked or bool(self._written)

    def _next_parts(self) -> list[bytes | memoryview]:
        # Until RESUMED it is not known whether the server knows the streams.
        parts = self._outbox.frames(streams=self.phase is not Phase.RESUMING)
        if self.phase not in (Phase.CLOSED, Phase.RESUMING):
            size, limit, bucket = 0, self.rate.fragment, self.bucket
            if bucket is not None:
                limit = min(limit, bucket.fragment)
            most = len(parts) + PARTS_AT_ONCE
            while size < limit and len(parts) < most:
                if bucket is not None and self._in_debt(bucket):
                    break
                frame = self._scheduler.next(limit)
                if frame is None:
                    break
                for part in frame:
                    parts.append(part)
                    size += len(part)
            else:
                self._output_asked = True
        return parts

    def _know_peer(self, limits: Limits) -> None:
        """Take what the peer enforces as a receiver."""
        self.peer_limits = limits
        self.peer_payload = limits.max_payload
        self.peer_largest = min(limits.max_payload, limits.window_bytes)

    def _in_debt(self, bucket: TokenBucket) -> bool:
        """Tell whether nothing may be sent for now; then wait for this one's turn.

        A turn is good for a frame: another connection may write first, and make debt.
        """
        if self._has_turn or not bucket.owed(self.now):
            self._has_turn = False
            return False
        if self._scheduler.waiting:
            bucket.wait(self._in_turn, self.now)
        return True

    def _in_turn(self) -> None:
        self._has_turn = True
        self.output()

    @property
    def held_back(self) -> bool:
        """Whether data waits because the client's identity has moved all it may."""
        return self.bucket is not None and self.bucket.waits(self._in_turn)

    @property
    def closing(self) -> bool:
        """Whether to close the socket once everything is written."""
        return self.phase is Phase.CLOSED

    def output_blocked(self, now: float) -> None:
        """Take note that the socket takes no more."""
        self.life.blocked_at = now

    def output_taken(self, now: float, size: int) -> None:
        """Take note that the socket has taken `size` bytes since it was blocked."""
        since, self.life.blocked_at = self.life.blocked_at, None
        if since is not None:
            self.rate.taken(size, now - since, now)

    # Time

    def next_timeout(self) -> float:
        """Return when to call `handle_timeout`, at the latest; infinity if never."""
        if self.phase is Phase.CLOSED:
            return inf
        # By twos: compiled, those are comparisons, and `min()` of four a call.
        due = min(self.life.due(), self._outbox.due())
        later = min(self._held_until, self._stir_at)
        return min(due, later)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self.now = now
        if self.phase is Phase.CLOSED:
            return
        if self._outbox.ripen(now):
            self.output()
        if now >= self._held_until:
            due = [sender for sender, when in self._held.items() if when <= now]
            for sender in due:
                del self._held[sender]
            self._held_until = min(self._held.values(), default=inf)
            for sender in due:
                sender.wake()
        if now >= self._stir_at:
            self._stir(now)
        self._check_life(now)

    # What halves and streams call

    def activate(self, sender: Sender) -> None:
        """Ask a sender for frames."""
        if sender.held_until > self.now:
            self.wake_at(sender, sender.held_until)
        self._scheduler.activate(sender)
        self.output()

    def wake_at(self, sender: Sender, when: float) -> None:
        """Ask a sender for frames then; only the last call counts."""
        self._held[sender] = when
        self._held_until = min(self._held_until, when)

    def short_of(self, budget: Budget) -> None:
        """Take note that a receiver waits for memory."""
        self._short.add(budget)
        self._stir_at = min(self._stir_at, self.now + STUCK)

    def starving(self, sender: Sender) -> None:
        """Take note that a sender waits for connection credit."""
        if self._scheduler.starve(sender):
            self.stats.stalls_connection += 1

    def starves(self, sender: Sender) -> bool:
        """Tell whether a sender waits for connection credit."""
        return self._scheduler.starves(sender)

    def refilled(self) -> None:
        """Take note that there is more connection credit."""
        self._scheduler.refill()
        self.output()

    def after_write(self, release: Callable[[], None]) -> None:
        """Call `release` when what is returned next has been written."""
        self._written.append(release)

    def arrived(self, units: int, size: int) -> None:
        """Count data against the connection window, and return the credit at once."""
        grant, limits = self._grant, self.limits
        grant.take(units, size)
        if (
            grant.limit_bytes - grant.bytes < self._least_window
            or (grant.limit_units - grant.units) * 2 < limits.window_units
        ):
            grant.limit_bytes = grant.bytes + limits.window_bytes
            grant.limit_units = grant.units + limits.window_units
            self._outbox.credit_due = True
            self.output()

    def ack_due(self, stream: Stream) -> None:
        """Send an ACK with the next write."""
        self._outbox.ack(stream)
        self.output()

    def ack_soon(self, stream: Stream) -> None:
        """Send an ACK in about `ACK_DELAY`."""
        if self._outbox.ack_soon(stream, self.now):
            self.on_output()  # has the layer above look at `next_timeout()`

    def pause_due(self, stream: Stream, text: str) -> None:
        """Send PAUSE with the next write."""
        self._outbox.pause(stream, text)
        self.output()

    def outcome_due(self, stream: Stream) -> None:
        """Send OUTCOME with the next write, after the ACK that belongs to it."""
        self._outbox.outcome(stream)
        self.output()

    def refuse(
        self, stream: Stream, code: int, text: str, *, retry_after: float = 0.0
    ) -> None:
        """Send ERROR for a stream; the connection goes on."""
        self.error(code, text, stream_id=stream.id, retry_after=retry_after)

    # For the layer above

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
        payload = b"" if message is None else encode(message)
        self._outbox.add(
            encode_frame(
                kind, payload, flags=flags, stream_id=stream_id, sequence=sequence
            )
        )
        self.output()

    def error(
        self,
        code: int,
        text: str,
        *,
        stream_id: int = 0,
        request_id: int = 0,
        retry_after: float = 0.0,
    ) -> None:
        """Queue ERROR."""
        self.stats.errors_sent[code] += 1
        retry = Code(code).retry if code in Code.__members__.values() else False
        self.send(
            FrameType.ERROR,
            Error(code=code, text=clipped(text), retry=retry, retry_after=retry_after),
            stream_id=stream_id,
            sequence=request_id,
        )

    def fail(
        self, code: int, text: str, *, retry_after: float = 0.0, stream_id: int = 0
    ) -> None:
        """End the connection with ERROR."""
        if self.phase is Phase.CLOSED:
            return
        self.failed = True
        self._outbox.clear()
        self.error(code, text, retry_after=retry_after)
        self._over(
            ConnectionFailed(
                code,
                text,
                by_peer=False,
                retry=False,
                retry_after=retry_after,
                stream_id=stream_id,
            )
        )

    def go_away(
        self,
        code: int = 0,
        text: str = "",
        *,
        retry_after: float = 0.0,
        deadline: float = 0.0,
    ) -> None:
        """Tell the peer that this side will close."""
        self.send(
            FrameType.GOAWAY,
            GoAway(code=code, text=text, retry_after=retry_after, deadline=deadline),
        )

    def ping(self) -> int:
        """Send PING now; `PongReceived` with the returned number tells of the PONG."""
        self._ping_number += 1
        self._awaited_pong = self._ping_number
        self.send(FrameType.PING, self._positions(), sequence=self._ping_number)
        return self._ping_number

    def lost(self) -> None:
        """Take note that the socket is closed: detach everything."""
        self.phase = Phase.CLOSED
        if self.bucket is not None:
            self.bucket.forget(self._in_turn)
        self._scheduler.clear()
        for stream in list(self.streams.values()):
            if stream.connection is self:
                stream.detached()
        self.streams = {}
        for release in self._written:
            release()
        self._written.clear()

    def part(self) -> None:
        """Leave no cycle behind, when nobody will use a lost connection again."""
        self.notify = _ignore
        self.on_output = _nothing
        self.reader.part()

    def output(self) -> None:
        """Have the layer above call `data_to_send()`."""
        if not self._output_asked:
            self._output_asked = True
            self.on_output()

    @abstractmethod
    def _allowed(self, kind: FrameType) -> bool:
        """Tell whether a frame may come in this phase."""

    def _control_frame(
        self,
        number: int,
        flags: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
    ) -> None:
        kind = frame_type(number)
        if kind is None:
            return
        handler = self.handlers.get(kind)
        if handler is None or not self._allowed(kind):
            raise ProtocolViolation(
                Code.WRONG_STATE if self.phase is not Phase.NEW else Code.BAD_FRAME,
                f"{kind.name} is not allowed from this side now"
                f" (connection {self.phase.value})",
            )
        handler(self, flags, stream_id, sequence, payload)

    def _stream(self, stream_id: int) -> Stream | None:
        """Return a live stream; None if it has ended.

        Raises:
            ProtocolViolation: unknown_stream: it never existed.
        """
        stream = self.streams.get(stream_id)
        if stream is None and not 0 < stream_id <= self.highest_id:
            raise ProtocolViolation(
                Code.UNKNOWN_STREAM, f"stream {stream_id} was never opened"
            )
        return stream

    def _data_allowed(self, kind: FrameType) -> None:
        if self.phase in (Phase.NEW, Phase.RESUMING):
            raise ProtocolViolation(
                Code.BAD_FRAME if self.phase is Phase.NEW else Code.WRONG_STATE,
                f"{kind.name} before the handshake was over",
            )

    def _chunk(
        self,
        flags: int,
        fragment: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
        in_place: bool,
    ) -> None:
        self._data_allowed(FrameType.CHUNK)
        stream = self._stream(stream_id)
        if stream is None or stream.ended or stream.cancelling:
            self.arrived(int(fragment == 0), len(payload))
            return
        receiver = stream.receiver
        if not isinstance(receiver, ChunkReceiver):
            raise ProtocolViolation(
                Code.WRONG_STATE, f"CHUNK on stream {stream_id}, which takes none"
            )
        receiver.fragment(
            sequence,
            fragment,
            payload,
            crc,
            last=bool(flags & LAST),
            in_place=in_place,
        )

    def _events(
        self,
        flags: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
    ) -> None:
        if self.phase is not Phase.OPEN:
            self._data_allowed(FrameType.EVENTS)
        stream = self._stream(stream_id)
        if stream is None or stream.ended or stream.cancelling:
            self.arrived(int.from_bytes(payload[:4], "big"), len(payload))
            return
        receiver = stream.receiver
        if not isinstance(receiver, EventReceiver):
            raise ProtocolViolation(
                Code.WRONG_STATE, f"EVENTS on stream {stream_id}, which takes none"
            )
        self.rate.shared(self.now)
        receiver.events(sequence, payload, crc, special=bool(flags & SPECIAL))

    def _end(
        self, _flags: int, stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        end = decode(End, payload)
        stream = self._stream(stream_id)
        if stream is None or stream.ended or stream.cancelling:
            return
        if stream.receiver is None:
            raise ProtocolViolation(
                Code.WRONG_STATE, f"END on stream {stream_id}, which this side sends"
            )
        # An END that comes before OPENED is told when the stream is accepted.
        if stream.receiver.end_received(sequence, end) and stream.receiver.ready:
            stream.notify(EndReceived(stream, end))

    def _ack(
        self, flags: int, stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        ack = decode(Ack, payload)
        stream = self._stream(stream_id)
        if stream is None or stream.ended:
            return
        if stream.sender is None:
            raise ProtocolViolation(
                Code.WRONG_STATE, f"ACK on stream {stream_id}, which this side receives"
            )
        stream.sender.acknowledged(
            sequence, ack, rewind=bool(flags & REWIND), now=self.now
        )

    def _pause(
        self, _flags: int, stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Pause, payload)
        stream = self._stream(stream_id)
        if stream is None or stream.ended or stream.paused_there == message.paused:
            return
        stream.peer_paused(paused=message.paused)
        if not self.is_client:
            stream.notify(PeerPaused(stream, message.paused, message.text))

    def _error(
        self, _flags: int, stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Error, payload)
        self.stats.errors_received[message.code] += 1
        if stream_id:
            stream = self._stream(stream_id)
            if stream is not None:
                self._stream_error(stream, message)
        elif sequence:
            self._request_error(sequence, message)
        else:
            self._over(
                ConnectionFailed(
                    message.code,
                    message.text,
                    by_peer=True,
                    retry=message.retry,
                    retry_after=message.retry_after,
                )
            )

    @abstractmethod
    def _stream_error(self, stream: Stream, message: Error) -> None: ...

    @abstractmethod
    def _request_error(self, request_id: int, message: Error) -> None: ...

    def _credit(
        self, _flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(Credit, payload)
        if self.credit.raise_to(message.limit_units, message.limit_bytes):
            self.refilled()

    def _ping(
        self, _flags: int, _stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        self.life.pinged(self.now)
        decode(Ping, payload)
        self._outbox.pong = encode_frame(
            FrameType.PONG, encode(self._positions()), sequence=sequence
        )
        self.output()

    def _pong_received(
        self, _flags: int, _stream_id: int, sequence: int, payload: bytes | memoryview
    ) -> None:
        decode(Ping, payload)
        if sequence and sequence == self._awaited_pong:
            self._awaited_pong = 0
            self.notify(PongReceived(sequence))

    def _go_away(
        self, _flags: int, _stream_id: int, _sequence: int, payload: bytes | memoryview
    ) -> None:
        message = decode(GoAway, payload)
        self.draining = self.is_client
        self.notify(PeerLeft(message))

    def _positions(self) -> Ping:
        return Ping(sent_bytes=self.bytes_sent, received_bytes=self.reader.bytes)

    def _stir(self, now: float) -> None:
        """Have memory go to whoever can use it, where nothing moves."""
        short, self._short = self._short, set()
        self._stir_at = inf
        for budget in short:
            if budget.stir(now):
                self.short_of(budget)

    def _check_life(self, now: float) -> None:
        life, pulse = self.life, self.life.look(now)
        if self.reading and life.trickles(self.reader.missing, now):
            self.fail(Code.PEER_LOST, "a frame was begun and did not come to its end")
            return
        if pulse is Pulse.SILENT:
            self.fail(Code.PEER_LOST, f"nothing was heard for {life.patience:g} s")
        elif pulse is Pulse.STUCK:
            self.fail(Code.PEER_LOST, f"no output was taken for {life.patience:g} s")
        elif pulse is Pulse.PING and self.phase in (Phase.OPEN, Phase.RESUMING):
            self._ping_number += 1
            self.send(FrameType.PING, self._positions(), sequence=self._ping_number)

    def _over(self, notice: ConnectionFailed) -> None:
        self.phase = Phase.CLOSED
        # Also where output was asked for that the socket does not take: it is to close.
        self._output_asked = True
        self.on_output()
        self.notify(notice)

    def adopt(self, streams: Iterable[Stream]) -> None:
        """Carry these streams from now on."""
        for stream in streams:
            self.streams[stream.id] = stream
            self.highest_id = max(self.highest_id, stream.id)
            stream.attached(self)

    def forget(self, stream: Stream) -> None:
        """Carry a stream no more: frames for it are discarded."""
        self.streams.pop(stream.id, None)
        self._outbox.forget(stream)
        if stream.sender is not None:
            self._held.pop(stream.sender, None)

    @staticmethod
    def common_handlers() -> dict[FrameType, FrameHandler]:
        """Return the handlers of the frames that both sides get."""
        return {
            FrameType.END: Connection._end,
            FrameType.ACK: Connection._ack,
            FrameType.PAUSE: Connection._pause,
            FrameType.ERROR: Connection._error,
            FrameType.CREDIT: Connection._credit,
            FrameType.PING: Connection._ping,
            FrameType.PONG: Connection._pong_received,
            FrameType.GOAWAY: Connection._go_away,
        }


COMMON_HANDLERS = Connection.common_handlers()
"""Of the frames that both sides get; one table for all connections: bound methods in
each were 2 KiB of memory."""


def _ignore(_notice: Notice) -> None:
    """Take a notice that nobody waits for."""


def _nothing() -> None:
    """Write nothing more."""
