"""The sending half of a stream: what both kinds of unit have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import FrameType, encode_frame
from ackline.proto.messages import Ack, End, Intent, Standing, encode
from ackline.proto.windows import Window

if TYPE_CHECKING:
    from ackline.proto.stream import Stream

__all__ = ["Sender"]


class Sender:
    """Sends units in order within two windows, and forgets what is acknowledged.

    In: `acknowledged()`, `hold()`, `attach()`, `detach()`, and the units as the
    subclasses take them. Out: `next_frame()`, called by the scheduler.

    Attributes:
        stream: whose half this is.
        window: the stream's own window.
        stored: position below which everything is acknowledged, as durable as ACK
            says; the END counts as one.
        durability: as last told by the receiver.
        consumed: as last told by the receiver.
        log_position: as last told by the receiver (publish).
        end: the END to send, or sent.
        sent_units, replayed_units: since the start of the stream, for statistics.
    """

    __slots__ = (
        "_attached",
        "_highest",
        "_stalled",
        "consumed",
        "deficit",
        "durability",
        "end",
        "end_sent",
        "held_code",
        "held_until",
        "log_position",
        "priority",
        "replayed_units",
        "scheduled",
        "sent_units",
        "stored",
        "stream",
        "window",
    )

    def __init__(self, stream: Stream, *, priority: int, position: int = 0) -> None:
        self.stream = stream
        self.priority = priority
        self.deficit = 0
        self.scheduled = False
        self.window = Window()
        self.stored = position
        self.durability = 0
        self.consumed = position
        self.log_position = 0
        self.end: End | None = None
        self.end_sent = False
        self.held_until = 0.0
        self.held_code = 0
        self.sent_units = 0
        self.replayed_units = 0
        self._attached = False
        self._highest = position
        self._stalled = False

    # In

    def attach(self, standing: Standing) -> None:
        """Go on where the receiver stands, within its new window.

        Raises:
            ProtocolViolation: position_lost or proof_mismatch: the receiver does not
                have what it acknowledged.
        """
        self.begin(standing.limit_units, standing.limit_bytes)
        self._move_to(standing)
        self.log_position = standing.log_position
        self.wake()

    def begin_early(self, limit_units: int, limit_bytes: int) -> None:
        """Begin before OPENED, from the first unit, within the initial window.

        What was sent after an OPEN that was never answered is gone with it.
        """
        self.begin(limit_units, limit_bytes)
        self._rewind()

    def begin(self, limit_units: int, limit_bytes: int) -> None:
        """Begin an attachment."""
        self._attached = True
        self.window.restart(limit_units, limit_bytes)
        self.end_sent = self._stalled = False
        self.held_until = 0.0
        if self.held_code:
            self.held_code = 0
            self.stream.sender_held(0)

    def opened_early(self, standing: Standing) -> None:
        """Take OPENED after data was sent without waiting for it (SPEC.md §9.2)."""
        self.widen(standing.limit_units, standing.limit_bytes)

    def widen(self, limit_units: int, limit_bytes: int) -> None:
        """Take a wider window."""
        self.window.raise_to(limit_units, limit_bytes)
        self.wake()

    def detach(self) -> None:
        """Stop: the connection is gone."""
        self._attached = False

    def acknowledged(self, position: int, ack: Ack, *, rewind: bool, now: float) -> int:
        """Take the receiver's state; return how many units are newly stored.

        Raises:
            ProtocolViolation: it acknowledges what was never sent.
        """
        if position > self._highest + self.end_sent:
            raise ProtocolViolation(
                Code.BAD_FRAME,
                f"ACK of position {position}, only {self._highest} units were sent",
            )
        new = max(0, position - self.stored)
        self.stored = max(self.stored, position)
        self.durability = ack.durability
        self.consumed = ack.consumed
        self.log_position = max(self.log_position, ack.log_position)
        self.window.raise_to(ack.limit_units, ack.limit_bytes)
        self._forget(ack)
        held_code = self.held_code if self.held_until > now else 0
        if ack.retry_after > 0:
            self.held_until = now + ack.retry_after
            held_code = ack.code
        if held_code != self.held_code:
            self.held_code = held_code
            self.stream.sender_held(held_code)
        if rewind:
            self.end_sent = False
            self._rewind()
        if not self.exhausted():
            self.wake()
        return new

    @property
    def stalled(self) -> bool:
        """Whether the stream's window has no room for what is to be sent."""
        return self._stalled and self._attached

    @property
    def acknowledged_units(self) -> int:
        """Position of the units that are acknowledged, the END not counted."""
        return min(self.stored, self._highest)

    @property
    def outstanding(self) -> bool:
        """Whether something was sent that is not acknowledged: what a drain awaits."""
        return self.stored < self._highest + self.end_sent

    @property
    def sent_position(self) -> int:
        """Position of the units that were sent, whatever became of them."""
        return self._highest

    @property
    def end_acknowledged(self) -> bool:
        """Whether the receiver has everything, the END included."""
        return self.end_sent and self.stored > self._highest

    # Out

    def wake(self) -> None:
        """Have the scheduler ask for the next frame."""
        connection = self.stream.connection
        if connection is not None and self._attached:
            connection.activate(self)

    def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
        """Return the parts of the next data frame, or None if there is none now."""
        stream = self.stream
        connection = stream.connection
        if (
            connection is None
            or not self._attached
            or stream.lifecycle.ended
            or stream.cancelling
        ):
            return None
        if stream.paused or connection.draining or self.held_until > connection.now:
            return self._continue_begun(limit)
        return self._next(limit)

    def exhausted(self) -> bool:
        """Tell whether there is nothing more to send until there is a new unit."""
        return False

    def _end_frame(self, number: int) -> list[bytes | memoryview]:
        assert self.end is not None
        self.end_sent = True
        return [
            encode_frame(
                FrameType.END,
                encode(self.end),
                stream_id=self.stream.id,
                sequence=number,
            )
        ]

    def _room(self, units: int, size: int) -> bool:
        """Tell whether both windows have room; count the stall if not."""
        connection = self.stream.connection
        assert connection is not None
        if not self.window.fits(units, size):
            if not self._stalled:
                self._stalled = True
                connection.stats.stalls_stream += 1
            return False
        if not connection.credit.fits(units, size):
            connection.starving(self)
            return False
        self._stalled = False
        return True

    def _reserve(self, units: int, size: int) -> None:
        connection = self.stream.connection
        assert connection is not None
        self.window.reserve(units, size)
        connection.credit.reserve(units, size)
        if connection.bucket is not None and not self.stream.use.chunks:
            connection.bucket.spend(units, size, connection.now)

    def _unreserve(self, size: int) -> None:
        """Free what was reserved for bytes that will not be sent (SPEC.md §12)."""
        connection = self.stream.connection
        if connection is not None:
            self.window.release(size)
            connection.credit.release(size)
            connection.refilled()

    def _count(self, first: int, next_unit: int) -> None:
        """Count units as sent; those sent before are replays."""
        self.sent_units += next_unit - first
        if first < self._highest:
            self.replayed_units += min(self._highest, next_unit) - first
        self._highest = max(self._highest, next_unit)
        self.stream.unit_moved()

    def fail(self, code: int, text: str) -> None:
        """End with intent failed after the last unit that is complete."""
        self.finish(End(intent=Intent.FAILED, code=code, text=text))

    @abstractmethod
    def finish(self, end: End) -> None:
        """Send END after the last unit."""

    @abstractmethod
    def close(self) -> None:
        """Send nothing more: let go of everything held for that."""

    @abstractmethod
    def _next(self, limit: int) -> list[bytes | memoryview] | None: ...

    @abstractmethod
    def _continue_begun(self, limit: int) -> list[bytes | memoryview] | None: ...

    @abstractmethod
    def _move_to(self, standing: Standing) -> None: ...

    @abstractmethod
    def _forget(self, ack: Ack) -> None: ...

    @abstractmethod
    def _rewind(self) -> None: ...
