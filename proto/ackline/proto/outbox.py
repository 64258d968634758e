"""Control frames that wait to be written: state, not a queue (SPEC.md §21).

At most one PAUSE, one ACK and one OUTCOME wait for each stream and one CREDIT and one
PONG for the connection; a later one replaces it, because the frame is made when it is
written.
Answers and OPENs do queue: a server reads no further while its peer takes none of them.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from ackline.proto.frames import HEADER_SIZE, REWIND, FrameType, encode_frame
from ackline.proto.messages import Credit, Pause, encode

if TYPE_CHECKING:
    from ackline.proto.stats import Stats
    from ackline.proto.stream import Stream
    from ackline.proto.windows import Grant

__all__ = ["ACKS_AT_ONCE", "ACK_DELAY", "ACK_PAUSE", "Outbox", "count_sent"]

ACK_DELAY = 0.5
"""Seconds an ACK that only returns credit may wait: a stream of 50 events/s then costs
a 25th as many ACKs, one of 10,000 a 5,000th. One that uses its window up faster gets
its ACK at half of it. About: the 1,000 subscribers of a log take an event at one time
and would acknowledge at one time, which held the next events up by 12 ms. By the
millisecond in which each has it, three to five eighths of a second, they spread."""

ACKS_AT_ONCE = 16
ACK_PAUSE = 0.01
"""How many of those ACKs go at once, and the seconds until the next as many: 1,000
streams that are consumed in one tick would delay the data of another by the 10 ms that
their ACKs take together. An ACK costs both sides as much as two events: with 64 at once
those of 1,000 streams with 50 events/s took a fifth of the time, now a twentieth."""


class Outbox:
    """What one connection has to say besides data.

    Args:
        grant: the connection's window, for CREDIT.

    Attributes:
        size: bytes of the frames that queue.
    """

    __slots__ = (
        "_acks",
        "_control",
        "_grant",
        "_outcomes",
        "_pauses",
        "_soon",
        "_soon_at",
        "credit_due",
        "pong",
        "size",
    )

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._control: list[bytes] = []
        self._pauses: dict[Stream, str] = {}
        self._acks: dict[Stream, None] = {}
        self._soon: dict[Stream, None] = {}
        self._soon_at = inf
        self._outcomes: dict[Stream, None] = {}
        self.credit_due = False
        self.pong: bytes | None = None
        self.size = 0

    def add(self, frame: bytes) -> None:
        """Queue a frame."""
        self._control.append(frame)
        self.size += len(frame)

    def pause(self, stream: Stream, text: str) -> None:
        """Write a PAUSE."""
        self._pauses[stream] = text

    def ack(self, stream: Stream) -> None:
        """Write an ACK."""
        self._acks[stream] = None
        self._soon.pop(stream, None)

    def ack_soon(self, stream: Stream, now: float) -> bool:
        """Write an ACK in about `ACK_DELAY`; return whether that begins a wait."""
        if stream in self._acks:
            return False
        begins = not self._soon
        if begins:
            self._soon_at = now + ACK_DELAY * (0.75 + now * 1000 % 16 / 32)
        self._soon[stream] = None
        return begins

    def outcome(self, stream: Stream) -> None:
        """Write an OUTCOME, after the ACK that belongs to it."""
        self._outcomes[stream] = None

    def tells(self, stream: Stream) -> bool:
        """Return whether an OUTCOME of the stream waits to be written."""
        return stream in self._outcomes

    def due(self) -> float:
        """Return when ACKs that wait are to be written; infinity if none does."""
        return self._soon_at if self._soon else inf

    def ripen(self, now: float) -> bool:
        """Take note of the time; return whether ACKs are to be written now."""
        if now < self.due():
            return False
        if len(self._soon) <= ACKS_AT_ONCE:
            self._acks.update(self._soon)
            self._soon.clear()
        else:
            for stream in list(islice(self._soon, ACKS_AT_ONCE)):
                self._acks[stream] = self._soon.pop(stream)
            self._soon_at = now + ACK_PAUSE
        return True

    def forget(self, stream: Stream) -> None:
        """Write nothing more for a stream."""
        self._pauses.pop(stream, None)
        self._acks.pop(stream, None)
        self._soon.pop(stream, None)
        self._outcomes.pop(stream, None)

    def clear(self) -> None:
        """Write nothing of all that waits."""
        self._control.clear()
        self._pauses.clear()
        self._acks.clear()
        self._soon.clear()
        self._outcomes.clear()
        self.credit_due = False
        self.pong = None
        self.size = 0

    def frames(self, *, streams: bool) -> list[bytes | memoryview]:
        """Return all that waits, and forget it.

        Args:
            streams: whether the peer knows the streams now; if not, what is about them
                waits on.
        """
        parts: list[bytes | memoryview] = []
        if not self._waits:
            return parts
        parts += self._control
        self._control.clear()
        self.size = 0
        if self.credit_due:
            self.credit_due = False
            limits = Credit(self._grant.limit_units, self._grant.limit_bytes)
            parts.append(encode_frame(FrameType.CREDIT, encode(limits)))
        if self.pong is not None:
            parts.append(self.pong)
            self.pong = None
        return parts + self._stream_frames() if streams else parts

    @property
    def _waits(self) -> bool:
        """Whether there is anything: mostly there is not, beside an event."""
        return bool(
            self._control
            or self._acks
            or self.credit_due
            or self.pong is not None
            or self._pauses
            or self._outcomes
        )

    def _stream_frames(self) -> list[bytes | memoryview]:
        parts: list[bytes | memoryview] = []
        if self._pauses:
            pauses, self._pauses = self._pauses, {}
            parts += [pause_frame(stream, text) for stream, text in pauses.items()]
        if self._acks:
            acks, self._acks = self._acks, {}
            parts += [ack_frame(stream) for stream in acks]
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, {}
            parts += [outcome_frame(stream) for stream in outcomes]
        return parts


def pause_frame(stream: Stream, text: str) -> bytes:
    """Return the PAUSE of a stream as it stands now."""
    return encode_frame(
        FrameType.PAUSE,
        encode(Pause(paused=stream.paused_here, text=text)),
        stream_id=stream.id,
    )


def ack_frame(stream: Stream) -> bytes:
    """Return the ACK of a stream as it stands now."""
    assert stream.receiver is not None
    position, ack, rewind = stream.receiver.ack()
    return encode_frame(
        FrameType.ACK,
        encode(ack),
        flags=REWIND if rewind else 0,
        stream_id=stream.id,
        sequence=position,
    )


def outcome_frame(stream: Stream) -> bytes:
    """Return the OUTCOME of a stream that has one."""
    assert stream.outcome is not None
    return encode_frame(
        FrameType.OUTCOME,
        encode(stream.outcome),
        stream_id=stream.id,
        sequence=stream.outcome.position,
    )


def count_sent(parts: list[bytes | memoryview], stats: Stats) -> int:
    """Count frames and payload by type, and return the bytes of all parts.

    A data frame is two parts, a header and its payload; a control frame is one.
    """
    size, kind, payload_follows = 0, 0, False
    for part in parts:
        length = len(part)
        size += length
        if payload_follows:
            payload_follows = False
            stats.payload_sent[kind] += length
            continue
        kind = part[4]
        stats.frames_sent[kind] += 1
        payload_follows = length == HEADER_SIZE and part[:4] != b"\0\0\0\0"
    stats.bytes_sent += size
    return size
