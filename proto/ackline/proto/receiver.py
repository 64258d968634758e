"""The receiving half of a stream: what both kinds of unit have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.messages import Ack, Durability, Proof, Standing
from ackline.proto.windows import Grant

if TYPE_CHECKING:
    from ackline.proto.messages import End
    from ackline.proto.stream import Stream
    from ackline.proto.token_bucket import TokenBucket
    from ackline.proto.windows import Budget

__all__ = ["LATE", "SOON", "Receiver"]

SOON = 1.0
"""Seconds. A window grows while half of it is used up, or a chunk of it stored, sooner
than this: so it ends at a few seconds of what disk or consumer do, which is enough for
any round trip, and holds memory of those that move."""

LATE = 4.0
"""Seconds. It shrinks when that takes longer: more on the way would only lie there."""


class Receiver:
    """Receives units in order, checks them, and states what is kept.

    In: frames, through the connection; `stored()` and `consumed()` from whoever keeps
    or uses the units. Out: notices, and `ack()`, which the connection calls when an
    ACK is due.

    Attributes:
        stream: whose half this is.
        grant: the window, as granted and as used.
        durability: what an ACK promises.
        stored: position below which everything is kept; the END counts as one once
            `end_stored()` was called.
        consumed: position the consumer has reached.
        end: the END, once it has come.
        ready: whether it is known what was there before; on a server that is later
            than the first early data.
        duplicates, received_units: since the start, for statistics.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        budget: Budget,
        durability: Durability,
        position: int = 0,
    ) -> None:
        self.stream = stream
        self.budget = budget
        self.grant = Grant()
        self.durability = durability
        self.stored = position
        self.consumed = position
        self.log_position = 0
        self.end: End | None = None
        self.end_number: int | None = None
        self.ready = False
        self.duplicates = 0
        self.received_units: int = 0
        self.retry_after = 0.0
        self.retry_code = 0
        self.rewind_due = False
        self._promised = 0
        self._pending: int = 0
        self._asked: int = 0
        self._bucket: TokenBucket | None = None
        # Spent on what was granted and has not come.
        self._ahead_units = self._ahead_bytes = 0
        self._resync = False
        self._rewound = False
        self._end_came = False
        self._end_stored = False

    # In

    def begin_early(self, limit_units: int, limit_bytes: int) -> bool:
        """Begin with the window a client may use from OPEN on (SPEC.md §9.2).

        Returns:
            False if there is no memory for it.
        """
        beside = max(0, self._least_window() - limit_bytes) if limit_bytes else 0
        if not self.budget.take(limit_bytes, beside=beside):
            return False
        self._promised = limit_bytes
        self.grant.restart(limit_units, limit_bytes)
        return True

    def grow(self) -> None:
        """Grant the first window of a stream that is accepted."""
        self.meter()
        self._top_up()

    def blocked(self, limit_bytes: int) -> None:
        """Take BLOCKED: the next event needs this limit (SPEC.md §12)."""
        self._asked = limit_bytes
        if self.ready:  # else `grow()` grants it
            self._top_up()
            self.stream.ack_due()

    def meter(self) -> None:
        """Server: spend what came early, and from now on what comes, on the bucket.

        What is refused costs nothing: trying it again would never be paid for.
        """
        connection = self.stream.connection
        if self._bucket is None and connection is not None:
            self._bucket = connection.bucket
            self._spend(self.grant.units, self.grant.bytes)

    def attach(self) -> None:
        """Begin an attachment, with a new window from 0."""
        self._withdraw()
        self.retry_after = 0.0
        self.rewind_due = self._resync = self._rewound = False
        self._bucket = None
        self.meter()
        self._end_came = False  # it comes again, and only then its ACK
        if self._end_stored and self.end_number is not None:
            self.stored = self.end_number
        self._top_up()

    def detach(self) -> None:
        """Stop: the connection is gone. What was promised is promised no more."""
        self._withdraw()

    def end_received(self, number: int, end: End) -> bool:
        """Take the END; return whether it is new.

        Raises:
            ProtocolViolation: it is out of place.
        """
        if not self._end_fits(number, end):
            if self._resync:
                return False  # sent before the REWIND was heard: it comes again
            raise ProtocolViolation(
                Code.BAD_FRAME,
                f"END as unit {number} of stream {self.stream.id} is out of place",
            )
        self._end_came = True
        if self.end is not None:
            self.duplicates += 1
            if self._end_stored:
                self.stored = number + 1
            self.stream.ack_due()
            return False
        self.end, self.end_number = end, number
        return True

    def end_stored(self) -> None:
        """State that everything is kept, the END included: acknowledge it."""
        assert self.end_number is not None
        self._end_stored = True
        if self._end_came:
            self.stored = self.end_number + 1
            self.stream.ack_due()

    # Out

    @property
    def waits_for_memory(self) -> bool:
        """Whether the window waits for the budget."""
        return self.budget.waits(self._served)

    @property
    def held_back(self) -> bool:
        """Whether the window waits because the identity has moved all it may."""
        return self._bucket is not None and self._bucket.waits(self._in_turn)

    def ack(self) -> tuple[int, Ack, bool]:
        """Return position, ACK and REWIND as they are now."""
        rewind, self.rewind_due = self.rewind_due, False
        retry_after, self.retry_after = self.retry_after, 0.0
        return (
            self.stored,
            Ack(
                limit_units=self.grant.limit_units,
                limit_bytes=self.grant.limit_bytes,
                consumed=self.consumed,
                durability=self.durability,
                ranges=self.ranges(),
                retry_after=retry_after,
                code=self.retry_code if retry_after else 0,
                log_position=self.log_position,
            ),
            rewind,
        )

    def standing(self, *, verified: bool = False) -> Standing:
        """Return where this half stands, for OPENED and RESUMED."""
        return Standing(
            generation=self.stream.generation,
            epoch=self.stream.epoch,
            position=self.stored,
            durable=self.stored,
            limit_units=self.grant.limit_units,
            limit_bytes=self.grant.limit_bytes,
            ranges=self.ranges(),
            held=self.held()[0],
            held_crc=self.held()[1],
            proof=self.proof(),
            verified=verified,
            paused=self.stream.paused_here,
            outcome=self.stream.outcome,
            log_position=self.log_position,
        )

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return what is stored beyond `stored`, as [first, end) pairs."""
        return ()

    def held(self) -> tuple[int, int]:
        """Return bytes of the incomplete chunk `stored`, and their CRC."""
        return (0, 0)

    def _rewind(self, code: int, retry_after: float) -> None:
        """Have everything that is not stored sent again."""
        self.retry_after, self.retry_code = retry_after, code
        self.rewind_due = self._resync = self._rewound = True
        self.end = self.end_number = None

    def _take_credit(self, units: int, size: int) -> None:
        """Count against both windows; connection credit is returned at once.

        The caller says what becomes of the bytes: `_keep()` or `_discard()`.
        """
        connection = self.stream.connection
        assert connection is not None
        self.grant.take(units, size)
        connection.arrived(units, size)
        if self._bucket is not None:
            self._spend(units, size)

    @property
    def _unused(self) -> int:
        """Bytes that were granted and have not come."""
        return self.grant.limit_bytes - self.grant.bytes

    def _keep(self, size: int) -> None:
        """Hold bytes in memory until `_settle()`, over reconnects too."""
        self._pending += size

    def _settle(self, size: int) -> None:
        """Give back the memory of bytes that were held."""
        self._pending -= size
        self._discard(size)

    def _discard(self, size: int) -> None:
        """Give back the memory of bytes that came and are not held."""
        give = min(size, self._promised)
        self._promised -= give
        self.budget.give(give)
        self._top_up()

    def _in_debt(self) -> bool:
        """Tell whether no window may be raised for now; then `_in_turn` does it."""
        bucket, connection = self._bucket, self.stream.connection
        if bucket is None or connection is None or not bucket.owed(connection.now):
            return False
        bucket.wait(self._in_turn, connection.now)
        return True

    def _in_turn(self) -> None:
        self._top_up()
        self.stream.ack_due()

    def _spend(self, units: int, size: int) -> None:
        """Spend what came on the bucket, unless that was done ahead."""
        bucket, connection = self._bucket, self.stream.connection
        if bucket is None or connection is None:
            return
        known_units = min(units, self._ahead_units)
        known_bytes = min(size, self._ahead_bytes)
        self._ahead_units -= known_units
        self._ahead_bytes -= known_bytes
        events = 0 if self.stream.use.chunks else units - known_units
        bucket.spend(events, size - known_bytes, connection.now)

    def _spend_ahead(self, units: int, size: int) -> None:
        """Spend what was granted: else all who wait would have a window at once."""
        bucket, connection = self._bucket, self.stream.connection
        if bucket is None or connection is None:
            return
        self._ahead_units += units
        self._ahead_bytes += size
        bucket.spend(units, size, connection.now)

    def _unmeter(self) -> None:
        """Leave the bucket, and take back what was spent ahead."""
        if self._bucket is not None:
            self._bucket.forget(self._in_turn)
            self._bucket.refund(self._ahead_units, self._ahead_bytes)
            self._ahead_units = self._ahead_bytes = 0

    def _withdraw(self) -> None:
        """Take back what was granted; what came already stays in memory."""
        self._unmeter()
        self.budget.forget(self._served)
        self._asked = 0
        self.grant.restart(0, 0)
        give = max(0, self._promised - self._pending)
        self._promised -= give
        self.budget.give(give)

    def _wait_for(self, size: int) -> None:
        """Have `_top_up` called in turn."""
        self.budget.wait(size, self._served)
        connection = self.stream.connection
        assert connection is not None
        connection.short_of(self.budget)

    def _served(self) -> None:
        self._top_up(served=True)
        self.stream.ack_due()

    def close(self) -> None:
        """End: give back all memory."""
        self._unmeter()
        self.budget.forget(self._served)
        promised, self._promised = self._promised, 0
        self.budget.give(promised)

    @abstractmethod
    def proof(self) -> Proof | None:
        """Return a proof over everything received, or None."""

    @abstractmethod
    def _top_up(self, *, served: bool = False) -> None:
        """Raise the window as far as memory and consumer allow.

        Args:
            served: whether it is this receiver's turn to be given memory.
        """

    @abstractmethod
    def _least_window(self) -> int:
        """Return the bytes of a window that every unit to come fits."""

    @abstractmethod
    def _end_fits(self, number: int, end: End) -> bool:
        """Tell whether this is where the END belongs."""
