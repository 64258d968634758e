"""What a subscription to a run reads from: the run's buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ackline.proto.batches import gap_batch
from ackline.proto.errors import Code
from ackline.proto.messages import Intent

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.batches import Batch
    from ackline.proto.feed import EventBuffer
    from ackline.proto.kinds import KindTable
    from ackline.proto.messages import End
    from ackline.proto.proofs import ProofSum

__all__ = ["RunFeed"]


class RunReader(Protocol):
    """Who reads a run."""

    def trimmed(self, position: int, first_id: int) -> None:
        """Fail: what is before `first_id` is gone, and `position` was to be next."""
        ...

    def fail_soon(self, code: int, text: str) -> None:
        """Fail, once it is answered."""
        ...


class RunFeed:
    """One cursor's view of a run's buffer: an `EventFeed` that tells what is trimmed.

    It is here and not in the server because it is asked three times for each lone
    event: compiled with the rest, that takes 0.2 us instead of 0.7.

    Args:
        buffer: shared by all cursors of the run.
        reader: told of what is not there.
        gaps: whether events that are not retained are told as a gap.

    Attributes:
        reached: an id that this cursor knows to exist though the run, which is computed
            again, is not there yet.
    """

    __slots__ = ("_buffer", "_gaps", "_reader", "generation", "reached")

    def __init__(self, buffer: EventBuffer, reader: RunReader, *, gaps: bool) -> None:
        self.generation = buffer.generation
        self._buffer = buffer
        self._reader = reader
        self._gaps = gaps
        self.reached = 0

    @property
    def kinds(self) -> KindTable:
        """The names of kinds so far."""
        return self._buffer.kinds

    @property
    def first_id(self) -> int:
        """The oldest id that can be asked for."""
        return 0 if self._gaps else self._buffer.first_id

    @property
    def next_id(self) -> int:
        """The id after the newest."""
        return max(self._buffer.next_id, self.reached)

    @property
    def end(self) -> End | None:
        """How the run ended, once it has."""
        end = self._buffer.end
        if end is not None and self.reached > self._buffer.next_id:
            return None if end.intent is Intent.COMPLETED else end
        return end

    def sum_at(self, position: int) -> ProofSum | None:
        """Return the sums of everything before `position`, if they are known."""
        return self._buffer.sum_at(position)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there may be more."""
        self._buffer.watch(wake)

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End `watch`."""
        self._buffer.unwatch(wake)

    def peek(self, position: int) -> Batch | None:
        """Return events from `position` on: all of them are in memory."""
        return self._buffer.next_batch(position)

    def has_more(self, position: int) -> bool:
        """Tell whether there is an event from `position` on, or the end."""
        return position < self.next_id or self.end is not None

    def next_batch(self, position: int) -> Batch | None:
        """Return events from `position` on, or None if there are none yet."""
        first = self._buffer.first_id
        if position >= first:
            batch = self._buffer.next_batch(position)
            if batch is None:
                self._ended_at(position)
            return batch
        if self._gaps:
            return gap_batch(position, first)
        self._reader.trimmed(position, first)
        return None

    def _ended_at(self, position: int) -> None:
        """See whether what was computed again ended before what is known of it."""
        end = self._buffer.end
        if end is None or position <= self._buffer.next_id:
            return
        self.reached = position
        if end.intent is Intent.COMPLETED:
            self._reader.fail_soon(
                Code.PROOF_MISMATCH,
                f"computed again, the run had {self._buffer.next_id} events, and at"
                f" least {position} before: its source has to produce the same again",
            )
