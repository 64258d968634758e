"""The receiving half of an event stream (SPEC.md §11, §13)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ackline.proto.batches import LONE_BODY_AT, Batch, parse_batch, parse_lone
from ackline.proto.entries import Event, Gap, LeftOut
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.kinds import KindTable
from ackline.proto.messages import Durability, Use
from ackline.proto.notices import BatchReceived
from ackline.proto.proofs import ProofSum, with_lone
from ackline.proto.receiver import LATE, SOON, Receiver
from ackline.proto.windows import (
    BYTES_PER_UNIT,
    FIRST_WINDOW_BYTES,
    MAX_WINDOW_BYTES,
    PUBLISHER_WINDOW_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ackline.proto.messages import Ack, End, Proof
    from ackline.proto.stream import Stream
    from ackline.proto.windows import Budget

__all__ = ["EventReceiver"]

SUMMED_AT_ONCE = 16
SMALL_EVENT = 256
"""Lone events up to that many bytes, payload and all, are summed so many at a time: one
by one that is an eighth of what receiving them costs. Only a resume asks for the sums,
and 4 KiB are the most that a stream keeps for it."""

ANY_DISTANCE = 2**60


class EventReceiver(Receiver):
    """Checks batches and keeps them until they are taken.

    `take()` batches, tell `consumed_to()` when they have been used and `stored_to()`
    when they are kept. Every new batch is announced by `BatchReceived`.

    Args:
        stream: whose half this is.
        budget: memory for windows.
        durability: what an ACK promises.
        position: the first id wanted.
        kinds: names of kinds 1, 2, …
        definitions: whether the peer may define kinds in a batch: a server may.
        max_window: bytes; at least the first window is granted.
        max_units: entries on their way at most; None for what the bytes allow.
        lazy: whether ACKs may wait a little, because nobody waits for them: for
            subscriptions, where an ACK only returns credit.

    Attributes:
        left_out: gaps among the `received_units`.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        budget: Budget,
        durability: Durability,
        position: int = 0,
        kinds: Sequence[str] = (),
        definitions: bool = False,
        max_window: int = MAX_WINDOW_BYTES,
        max_units: int | None = None,
        lazy: bool = False,
    ) -> None:
        super().__init__(
            stream, budget=budget, durability=durability, position=position
        )
        self.kinds = KindTable.received(kinds)
        self.batches: deque[Batch] = deque()
        self.position = position
        self.start = position
        self.lazy = lazy
        self.ready = False
        self._definitions = definitions
        self._base = position
        self._sum = ProofSum()
        self._unsummed: list[bytes] = []
        self._proven = True
        self._news = BatchReceived(stream)
        self._first_window = (
            PUBLISHER_WINDOW_BYTES if stream.use is Use.PUBLISH else FIRST_WINDOW_BYTES
        )
        self._max_window = max(max_window, self._first_window)
        self._max_units = max_units or MAX_WINDOW_BYTES
        self._window = self._window_units = 0
        self._lead_units = self._lead_bytes = ANY_DISTANCE
        self._ack_units = self._ack_bytes = 0
        self._resize(self._first_window)
        self.left_out = LeftOut()
        self._covered_before: int = 0
        self._consumed_since = 0
        connection = stream.connection
        self._adapted_at = 0.0 if connection is None else connection.now
        # Consumed, and given back to the window with the next ACK: it costs as much for
        # many events as for one.
        self._unsettled = 0
        # With the last ACK: what was consumed and stored, and the bytes that had come.
        self._told = self._told_stored = position
        self._told_bytes = 0
        self._ack_waits = False
        self._unannounced: list[Batch] = []
        self._delivered: Batch | None = None
        self._line: deque[Stream] | None = None
        self._line_begins: Callable[[], None] | None = None
        self._waiting_units = 0

    # What is there already

    def restore(
        self, position: int, *, sums: ProofSum | None = None, log_position: int = 0
    ) -> None:
        """Begin at a position; what came early below it is dropped.

        Args:
            position: the next id wanted.
            sums: of everything from `base` (0) to `position`, if known.
            log_position: of the log, for a publisher.
        """
        early, self._unannounced = self._unannounced, []
        self.ready = True
        self.stored = max(self.stored, position)
        self.consumed = self.stored
        self.log_position = log_position
        if position and sums is None:
            self._base, self._proven = position, False
        elif sums is not None:
            self._base, self._sum = 0, sums
        self.position = max(self.position, position)
        for batch in early:
            self._waiting_units -= batch.entries
            if batch.next_id <= position:
                self._settle(len(batch.payload))
                continue
            part = batch.tail(position)
            self._settle(len(batch.payload) - len(part.payload))
            if sums is not None:
                self._sum = self._summed().extended(*part.proof_parts())
            self._waiting_units += part.entries
            self._announce(part)

    def start_at(self, position: int) -> None:
        """Take the position where the server begins a new subscription."""
        self.position = self.start = self._base = position
        self.stored = self.consumed = position
        self.ready = True

    def waited_for(self, ahead_units: int, ahead_bytes: int) -> None:
        """Take how far the sender gets ahead of what is stored here, before it waits.

        Args:
            ahead_units: as OPENED states them (SPEC.md §9.2); 0 is any distance.
            ahead_bytes: the same.
        """
        self._lead_units = ahead_units or ANY_DISTANCE
        self._lead_bytes = ahead_bytes or ANY_DISTANCE
        self._resize(self._window)

    def opened_again(self) -> None:
        """Count what is covered from here: another subscription continues this one."""
        self._covered_before = self.received_units

    # Frames

    def events(
        self, first: int, payload: bytes | memoryview, crc: int, *, special: bool
    ) -> None:
        """Take one checked EVENTS frame.

        Raises:
            ProtocolViolation: it is malformed, out of place or beyond the window.
        """
        data = bytes(payload)
        size = len(data)
        if (
            first == self.position
            and not special
            and self.ready
            and self.end is None
            and (lone := parse_lone(first, data, crc)) is not None
        ):
            self._accept_lone(lone, data, size)
            return
        batch = parse_batch(first, data, special=special, crc=crc)
        self._take_credit(batch.entries, size)
        known = len(self.kinds)
        batch.check_kinds(self.kinds)
        if len(self.kinds) > known and not self._definitions:
            raise ProtocolViolation(
                Code.BAD_FRAME, "kind definitions come from servers only"
            )
        if self.end is not None and batch.next_id > self.position:
            raise ProtocolViolation(Code.BAD_FRAME, "events after END")
        if first > self.position:
            if self._resync:
                self._discard(size)
                return
            raise ProtocolViolation(
                Code.BAD_FRAME,
                f"event {first} came, event {self.position} was expected",
            )
        if first < self.position:
            self.duplicates += min(batch.next_id, self.position) - first
            if batch.next_id <= self.position:
                self._discard(size)
                self.stream.ack_due()
                return
            batch = batch.tail(self.position)
            self._discard(size - len(batch.payload))
        self._resync = False
        self._accept(batch)

    def end_received(self, number: int, end: End) -> bool:
        """Take the END; from a server its size tells whether anything is missing."""
        new = super().end_received(number, end)
        covered = self.received_units - self._covered_before
        if new and self._definitions and end.size != covered:
            gaps = self.left_out
            self.stream.broken(
                Code.SIZE_MISMATCH,
                f"END states {end.size} events, {covered} came: received and merged"
                f" ({gaps.merged}), dropped ({gaps.dropped}), trimmed ({gaps.trimmed})",
            )
        return new

    def _accept_lone(self, batch: Batch, data: bytes, size: int) -> None:
        """Take one event that is the next one: what `_accept` does, for tokens."""
        self._take_credit(1, size)
        self._resync = False
        self._pending += size
        self._unsummed.append(data)
        if size > SMALL_EVENT or len(self._unsummed) >= SUMMED_AT_ONCE:
            self._summed()
        self.received_units += 1
        self.position += 1
        self._waiting_units += 1
        self.stream.unit_moved()
        self.batches.append(batch)
        if len(self.batches) == 1:
            self._tell()

    def _accept(self, batch: Batch) -> None:
        if not batch.count:
            # Definitions, known by now: a slow consumer has no part in their credit.
            self._discard(len(batch.payload))
            self.stream.ack_due()
            return
        self._keep(len(batch.payload))
        gap_end = batch.gap_end()
        if gap_end is None:
            self._sum = self._summed().extended(*batch.proof_parts())
        else:
            self._base, self._proven = gap_end, True
            self._unsummed.clear()
            self._sum = ProofSum().extended(*batch.proof_parts(from_id=gap_end))
            self.left_out = self.left_out.plus(batch.gaps())
        self.received_units += batch.next_id - batch.first_id
        self.position = batch.next_id
        self._waiting_units += batch.entries
        self.stream.unit_moved()
        if self.ready:
            self._announce(batch)
        else:
            self._unannounced.append(batch)

    def _announce(self, batch: Batch) -> None:
        self.batches.append(batch)
        if len(self.batches) == 1:
            self._tell()

    def _tell(self) -> None:
        line = self._line
        if line is None:
            self.stream.notify(self._news)
            return
        line.append(self.stream)
        if len(line) == 1 and self._line_begins is not None:
            self._line_begins()

    # Consumer and store

    def take(self) -> Batch | None:
        """Return the next batch, or None if there is none now."""
        if not self.batches:
            return None
        batch = self.batches.popleft()
        self._waiting_units -= batch.entries
        return batch

    def queue_in(
        self, line: deque[Stream] | None, begins: Callable[[], None] | None = None
    ) -> None:
        """Have this stream wait in a line when it has batches, without a notice.

        For who consumes many streams: calling somebody for each lone event is a third
        of what it costs.

        Args:
            line: of streams to look at; None to give notice again.
            begins: called for the first one in the line.
        """
        self._line, self._line_begins = line, begins

    def next_events(self, *, stored: bool) -> list[Event | Gap] | None:
        """Return the events of the next batch; None if there is none now.

        Those returned before count as consumed then.

        Args:
            stored: as of `consumed_to()`.
        """
        self.consume_delivered(stored=stored)
        batch = self._delivered = self.take()
        return None if batch is None else batch.events(self.kinds)

    def consume_delivered(self, *, stored: bool) -> None:
        """State that all events returned by `next_events()` were used."""
        batch = self._delivered
        if batch is not None:
            self._delivered = None
            position = batch.first_id + batch.count
            self.consumed_to(position, len(batch.payload), stored=stored)

    def used(self, *, stored: bool) -> bool:
        """State that all events returned by `next_events()` were used.

        Args:
            stored: as of `consumed_to()`.

        Returns:
            Whether nothing follows them yet: no events, and no end.
        """
        self.consume_delivered(stored=stored)
        return not self.batches and self.end is None

    @property
    def delivered_to(self) -> int:
        """The id after the last event that `next_events()` returned."""
        batch = self._delivered
        return self.consumed if batch is None else batch.next_id

    def consumed_to(self, position: int, size: int, *, stored: bool = False) -> None:
        """State that everything before `position` was used.

        Args:
            position: the next id that was not.
            size: payload bytes of what was used since the last call.
            stored: whether it is kept too: as `stored_to()`, without its notice.
        """
        self.consumed = position
        if stored and position > self.stored:
            self.stored = position
        self._consumed_since += size
        self._unsettled += size
        if (
            self._unsettled * 2 >= self._ack_bytes
            or (position - self._told) * 2 >= self._ack_units
            or self.budget.waiting
        ):
            self._settle_consumed()
            self.stream.ack_due()
        elif not self._ack_waits:
            self._ack_waits = self.stream.ack_soon()
            if not self._ack_waits:  # nobody to tell
                self._settle_consumed()

    def ack(self) -> tuple[int, Ack, bool]:
        """Return position, ACK and REWIND, with what was consumed given back."""
        self._ack_waits = False
        if self._consumed_since * 2 >= self._window:
            self._adapt()
        self._settle_consumed()
        self._told, self._told_stored = self.consumed, self.stored
        self._told_bytes = self.grant.bytes
        return super().ack()

    def stored_to(self, position: int, *, log_position: int = 0) -> None:
        """State that everything before `position` is kept."""
        if position > self.stored:
            self.stored = position
            self.log_position = max(self.log_position, log_position)
            self.stream.stored_moved(position)
            if self.lazy and not self._is_waited_for():
                self.stream.ack_soon()
            else:
                self.stream.ack_due()

    def refused(self, position: int, *, code: int, retry_after: float) -> None:
        """State that nothing from `position` on could be kept; it is sent again."""
        self.drop()
        self.position = position
        self._base, self._proven = position, False
        self._rewind(code, retry_after)
        self.stream.ack_due()

    def drop(self) -> None:
        """Discard what was not taken: the stream was cancelled."""
        while (batch := self.take()) is not None:
            self._settle(len(batch.payload))

    @property
    def complete(self) -> bool:
        """Whether the END is in and everything before it stored."""
        return self.end_number is not None and self.stored >= self.end_number

    # Receiver

    def proof(self) -> Proof | None:
        """Return the proof over everything received since the last gap."""
        if not self._proven or self.position == self._base:
            return None
        return self._summed().proof(self._base, self.position)

    def _summed(self) -> ProofSum:
        """Return the sums of all that has come since the base."""
        if self._unsummed:
            self._sum = with_lone(self._sum, self._unsummed, LONE_BODY_AT)
            self._unsummed.clear()
        return self._sum

    def _is_waited_for(self) -> bool:
        """Tell whether the sender may be half as far ahead as it gets."""
        return (self.stored - self._told_stored) * 2 >= self._lead_units or (
            self.grant.bytes - self._told_bytes
        ) * 2 >= self._lead_bytes

    def attach(self) -> None:
        """Begin an attachment."""
        super().attach()
        self._told, self._told_stored = self.consumed, self.stored
        self._told_bytes = 0
        connection = self.stream.connection
        if connection is not None:
            self._consumed_since, self._adapted_at = 0, connection.now

    def _adapt(self) -> None:
        """Have the window follow how long the consumer took for half of it.

        With an ACK, because only then the connection's clock is that of now.
        """
        connection = self.stream.connection
        assert connection is not None
        took, self._adapted_at = connection.now - self._adapted_at, connection.now
        self._consumed_since = 0
        before = self._window
        if took <= SOON:
            faster = 2 if before >= FIRST_WINDOW_BYTES else 4
            self._resize(min(before * faster, self._max_window))
        elif took > LATE:
            self._resize(max(before // 2, self._first_window))
        self._settle_consumed()
        if self._window > before:
            self._top_up()
            if self._unused + self._pending < self._window:
                self._resize(before)  # there is no memory for more

    def _resize(self, window: int) -> None:
        self._window = window
        self._window_units = min(window // BYTES_PER_UNIT, self._max_units)
        self._ack_units = min(self._window_units, self._lead_units)
        self._ack_bytes = min(window, self._lead_bytes)

    def _settle_consumed(self) -> None:
        size, self._unsettled = self._unsettled, 0
        if size:
            self._settle(size)

    def _withdraw(self) -> None:
        self._pending -= self._unsettled
        self._unsettled, self._ack_waits = 0, False
        super()._withdraw()

    def _top_up(self, *, served: bool = False) -> None:
        """Grant up to the window, and what was asked for.

        Rests of windows may lie unused for ever. What is asked for is used at once and
        given back; so beside all rests there stays memory for one largest event, and
        who asks is always served in turn.
        """
        if self.stream.ended or self.stream.connection is None:
            return
        grant, units = self.grant, self._missing_units()
        open_ = self._unused + self._pending
        asked = min(self._asked - grant.bytes, FIRST_WINDOW_BYTES)
        least = max(self._first_window, asked)
        want = max(self._window, least) - open_
        if (not units and want <= 0) or (not served and self._in_debt()):
            return
        grant.limit_units += units
        self._spend_if_shared(units, 0)
        if want <= 0:
            return
        budget = self.budget
        if not budget.take(want, spare=True, beside=budget.kept_free):
            # Only the least is waited for: more is for when there is plenty.
            want = least - open_
            if want <= 0:
                return
            beside = FIRST_WINDOW_BYTES if least == PUBLISHER_WINDOW_BYTES else 0
            if not budget.take(want, spare=not served, beside=beside):
                self._wait_for(want + beside)
                return
        self._promised += want
        grant.limit_bytes += want
        self._spend_if_shared(0, want)

    def _missing_units(self) -> int:
        """Return how many units the window is too small.

        From what waits, not from the bytes: tiny events use up units faster.
        """
        grant, most = self.grant, self._window_units
        if self._bucket is not None:
            most = min(most, self._bucket.window)
        units = max(grant.units - self._waiting_units + most, 1)
        return max(0, units - grant.limit_units)

    def _spend_if_shared(self, units: int, size: int) -> None:
        """Spend what was granted, if others wait; a window may else never be used."""
        if self._bucket is not None and self._bucket.waiting:
            self._spend_ahead(units, size)

    def _least_window(self) -> int:
        return FIRST_WINDOW_BYTES

    def _end_fits(self, number: int, end: End) -> bool:
        return number == self.position
