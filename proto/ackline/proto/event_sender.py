"""The sending half of an event stream: a cursor on a feed (SPEC.md §11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import structs

from ackline.proto.entries import LeftOut
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import SPECIAL, FrameType, pack_header
from ackline.proto.limits import MAX_EVENT, MAX_PAYLOAD
from ackline.proto.messages import Proof
from ackline.proto.proofs import NOTHING
from ackline.proto.sender import Sender

if TYPE_CHECKING:
    from ackline.proto.batches import Batch
    from ackline.proto.feed import EventFeed
    from ackline.proto.messages import Ack, End, Standing
    from ackline.proto.proofs import ProofSum
    from ackline.proto.stream import Stream

__all__ = ["EventSender"]

NO_GAPS = LeftOut()
"""What most streams leave out: shared."""

NOT_DEFINED: Final = (-1, 0)
"""No definitions went alone."""


_EVENTS: Final = FrameType.EVENTS.value

LARGEST_EVENT: Final = MAX_EVENT + 8
"""Bytes of the largest event with its entry: what every window holds (SPEC.md §12)."""

SMALL: Final = 2**10
"""Bytes of a payload that is copied behind its header."""


class Framed:
    """The last small frame: to all subscribers of a log the same is sent.

    Most of them have a connection each, and so the same stream id too.

    Attributes:
        batch: which was framed.
        stream_id: for whom.
        frame: the bytes.
    """

    __slots__ = ("batch", "frame", "stream_id")

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.stream_id = 0
        self.frame = b""

    def of(self, batch: Batch, stream_id: int) -> bytes:
        """Return the whole frame of a batch."""
        if batch is not self.batch or stream_id != self.stream_id:
            self.batch, self.stream_id = batch, stream_id
            self.frame = _header(batch, stream_id) + batch.payload
        return self.frame


_FRAMED: Final = Framed()


def _header(batch: Batch, stream_id: int) -> bytes:
    flags, size = SPECIAL if batch.special else 0, len(batch.payload)
    return pack_header(_EVENTS, flags, 0, stream_id, batch.first_id, size, batch.crc)


def _frame(batch: Batch, stream_id: int) -> list[bytes | memoryview]:
    if len(batch.payload) > SMALL:
        return [_header(batch, stream_id), batch.payload]
    # One part costs the socket less than two, and copying this little is nothing.
    return [_FRAMED.of(batch, stream_id)]


class EventSender(Sender):
    """Sends what its feed has, from its own position on.

    Args:
        stream: whose half this is.
        feed: where the batches come from.
        position: the first id to send.
        priority: 0 (first) to 7.

    Attributes:
        position: the next id to send.
        left_out: what was sent as gaps, replays not counted.
    """

    __slots__ = (
        "_asked",
        "_defined",
        "_start_sum",
        "feed",
        "left_out",
        "position",
        "start",
    )

    def __init__(
        self, stream: Stream, feed: EventFeed, *, position: int, priority: int
    ) -> None:
        super().__init__(stream, priority=priority, position=position)
        self.feed = feed
        self.start = self.position = position
        self.left_out = NO_GAPS
        # The event whose definitions went alone, before it, and the last one's number.
        self._defined = NOT_DEFINED
        self._start_sum = feed.sum_at(position)
        self._asked = 0
        feed.watch(self.wake)

    def begin(self, limit_units: int, limit_bytes: int) -> None:
        """Begin an attachment."""
        self._asked = 0
        super().begin(limit_units, limit_bytes)

    def close(self) -> None:
        """Leave the feed."""
        self.feed.unwatch(self.wake)

    def finish(self, end: End) -> None:
        """Send END after the newest event; only for a feed of this sender's own."""
        self.end = end
        self.wake()

    def move(self, position: int) -> None:
        """Go on at `position`: for a server that resumes its subscriber there."""
        self._defined = NOT_DEFINED
        self.position = self.stored = position
        self._highest = max(self._highest, position)

    def verify(self, proof: Proof) -> bool | None:
        """Compare a receiver's proof with the feed; None if it cannot be known."""
        base = self._sum_before(proof.base)
        here = self.feed.sum_at(proof.position)
        if base is None or here is None or proof.position < proof.base:
            return None
        part = here.since(base, proof.position - proof.base)
        return (
            part.bytes == proof.bytes
            and part.lengths_crc == proof.lengths_crc
            and part.bodies_crc == proof.bodies_crc
        )

    def _sum_before(self, position: int) -> ProofSum | None:
        if position == self.start and self._start_sum is not None:
            return self._start_sum
        # Sums are over everything, so those before the first event need no event.
        return NOTHING if position == 0 else self.feed.sum_at(position)

    def _next(self, limit: int) -> list[bytes | memoryview] | None:
        batch = self.feed.next_batch(self.position)
        if batch is None:
            return self._end()
        if self._defined[0] == batch.first_id and batch.count:
            # Kinds that were added since are still to be told.
            batch = self._smallest(batch.without_definitions(self._defined[1]))
        payload, units = batch.payload, batch.entries
        size = len(payload)
        connection = self.stream.connection
        assert connection is not None
        bucket = connection.bucket
        if size > limit or (bucket is not None and units > bucket.batch):
            # A frame that a dying link never carries whole would be sent for ever, and
            # on a slow one it would hold the other streams up (SPEC.md §21).
            most = units if bucket is None else bucket.batch
            batch = self._cut(batch, most, limit) or self._smallest(batch)
            payload, units = batch.payload, batch.entries
            size = len(payload)
        if size > connection.peer_largest or not self._room(units, size):
            part = self._part(batch)
            if part is None:
                self._wait_for(batch)
                return None
            batch, payload, units = part, part.payload, part.entries
            size = len(payload)
        self._reserve(units, size)
        first = batch.first_id
        self.position = first + batch.count
        if batch.special:
            if not batch.count:
                self._defined = first, batch.last_defined()
            self.left_out = self.left_out.plus(batch.gaps(self._highest))
        self._count(first, self.position)
        connection.rate.shared(connection.now)
        return _frame(batch, self.stream.id)

    def exhausted(self) -> bool:
        """Tell whether there is nothing more to send until the feed wakes this."""
        return self.end is None and not self.feed.has_more(self.position)

    def _largest(self) -> int:
        """Return the largest payload the peer ever takes, in a frame and in flight."""
        connection = self.stream.connection
        assert connection is not None
        return connection.peer_largest

    def _end(self) -> list[bytes | memoryview] | None:
        if self.end is None and self.feed.end is not None:
            # The feed is shared; what END states is what this cursor covers.
            size = self.feed.next_id - self.start
            self.end = structs.replace(self.feed.end, size=size)
        if self.end is None or self.end_sent or self.position < self.feed.next_id:
            return None
        return self._end_frame(self.position)

    def _part(self, batch: Batch) -> Batch | None:
        """Cut a batch to what the windows and the peer's frame limit allow."""
        connection = self.stream.connection
        assert connection is not None
        credit = connection.credit
        units = min(
            self.window.limit_units - self.window.units,
            credit.limit_units - credit.units,
        )
        size = min(
            self.window.limit_bytes - self.window.bytes,
            credit.limit_bytes - credit.bytes,
            self._largest(),
        )
        if units < 1:
            return None
        return self._cut(batch, units, size)

    def _cut(self, batch: Batch, entries: int, size: int) -> Batch | None:
        """Return the longest beginning that fits and may travel alone."""
        part = batch.head(entries, size)
        if part is not None and not part.special:
            return part
        smallest = self._smallest(batch)
        if part is not None:
            return None if part.entries < smallest.entries else part
        fits = smallest.entries <= entries and len(smallest.payload) <= size
        return smallest if fits else None

    def _smallest(self, batch: Batch) -> Batch:
        """Return the first event, with the gaps and definitions before it.

        Gaps wait for the event behind them, which a policy chooses when there is room
        for both (SPEC.md §16): a consumer that is stuck would else be told of one gap
        after the other. They go alone if no frame can hold both, or not every window.
        """
        gaps: Batch | None = None
        most = min(self._largest(), LARGEST_EVENT)
        for entries in range(1, batch.entries + 1):
            part = batch.head(entries, MAX_PAYLOAD)
            if part is None:  # definitions
                continue
            if part.gap_end() != part.next_id:
                if len(part.payload) <= most:
                    return part
                return gaps or part.definitions() or part
            gaps = part
        return batch

    def _wait_for(self, batch: Batch) -> None:
        """Wait for the window that is too small, for the batch's first event."""
        connection = self.stream.connection
        assert connection is not None
        first = self._smallest(batch)
        size = len(first.payload)
        if size <= self._largest():
            if not self._room(first.entries, size):
                self._ask(self.window.bytes + size)
            return
        self.stream.broken(
            Code.LIMIT_EXCEEDED,
            f"event {first.first_id} needs a frame of {size} bytes, the receiver's"
            f" max_payload and window allow {self._largest()}: raise them",
        )

    def _ask(self, limit_bytes: int) -> None:
        """Tell a server, once, which limit the next event waits for (SPEC.md §12)."""
        connection = self.stream.connection
        assert connection is not None
        if (
            limit_bytes > max(self.window.limit_bytes, self._asked)
            and connection.is_client
            and connection.peer_limits is not None  # else WELCOME brings more anyhow
        ):
            self._asked = limit_bytes
            connection.send(
                FrameType.BLOCKED, stream_id=self.stream.id, sequence=limit_bytes
            )

    def _continue_begun(self, limit: int) -> list[bytes | memoryview] | None:
        return None

    def _move_to(self, standing: Standing) -> None:
        position = standing.position
        if position == self.feed.next_id + 1 and (self.end or self.feed.end):
            position -= 1  # the END is there too: it comes again, for its ACK
        if position > self.feed.next_id:
            raise ProtocolViolation(
                Code.POSITION_BEYOND,
                f"the receiver is at {position}, there are {self.feed.next_id} events",
            )
        if position < min(self.stored, self._highest):
            raise ProtocolViolation(
                Code.POSITION_LOST,
                f"the receiver is at {position} and had acknowledged {self.stored}",
            )
        proof = standing.proof
        if (
            proof is not None
            and proof.position == position
            and self.verify(proof) is False
        ):
            raise ProtocolViolation(
                Code.PROOF_MISMATCH,
                f"the receiver holds other events before position {position}",
            )
        self.position, self._defined = position, NOT_DEFINED
        self.stored = max(self.stored, position)
        self._highest = max(self._highest, position)
        self.stream.stored_moved(position)

    def _forget(self, ack: Ack) -> None:
        self.stream.stored_moved(min(self.stored, self._highest))

    def _rewind(self) -> None:
        self._defined = NOT_DEFINED
        self.position = min(self.stored, self._highest)
