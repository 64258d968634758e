"""A feed of which a reader that is behind gets less: the lossy policies (SPEC.md §16).

Nothing is queued for such a reader: what it has next is decided when its sender asks,
which is when there may be room to send. So it costs no memory to be behind, and what is
left out is a gap between two ids, whatever has become of the events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ackline.proto.batches import (
    DEFINITION_KIND,
    GAP_KIND,
    encode_entries,
    gap_entry,
    kind_definition,
    merge,
)
from ackline.proto.feed import EventFeed
from ackline.proto.limits import MAX_PAYLOAD
from ackline.proto.merging import Merging
from ackline.proto.values import GapReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.batches import Batch
    from ackline.proto.kinds import KindTable
    from ackline.proto.messages import End
    from ackline.proto.policies import Policy
    from ackline.proto.proofs import ProofSum

__all__ = ["ConflatedFeed", "SharedFeed"]


class SharedFeed(EventFeed, Protocol):
    """What a `ConflatedFeed` reads: no event is missing in it from `first_id` on."""

    def peek(self, position: int) -> Batch | None:
        """Return events from `position` on if they are in memory; else do nothing."""
        ...


class Selection(Protocol):
    """What a policy wants next of a feed."""

    def select(
        self, position: int, first_id: int, next_id: int
    ) -> tuple[int, int, GapReason]:
        """Return `start`, `stop` and a reason: the events [start, stop) are next.

        What is before them is left out for that reason. There may be no event yet:
        then the two are equal, and above `position`.

        Args:
            position: the next id of the reader, below `next_id`.
            first_id: the oldest that is retained; `start` is not below it.
            next_id: the id after the newest.
        """
        ...


class ConflatedFeed:
    """One reader's view of a feed, with gaps for what its policy leaves out.

    An `EventFeed` of which every position can be asked for: what is not retained any
    more is a gap too. Its sender calls `sent()`.

    Args:
        feed: shared with other readers.
        policy: one that does not block.
    """

    __slots__ = ("_announced", "_feed", "_selection", "_told", "_unsent", "generation")

    def __init__(self, feed: SharedFeed, policy: Policy) -> None:
        self.generation = feed.generation
        self._feed = feed
        self._selection: Selection = (
            Merging(feed, policy.value) if policy.merges else _Newest(policy.newest)
        )
        # Kinds that the reader knows, and whether the next is on its way to the sender.
        self._told, self._unsent = len(feed.kinds), False
        # The event that the gap which was offered last leads up to.
        self._announced = -1

    @property
    def kinds(self) -> KindTable:
        """The names of kinds so far."""
        return self._feed.kinds

    @property
    def first_id(self) -> int:
        """The oldest id that can be asked for."""
        return 0

    @property
    def next_id(self) -> int:
        """The id after the newest."""
        return self._feed.next_id

    @property
    def end(self) -> End | None:
        """How the sequence ended, once it has."""
        return self._feed.end

    def sum_at(self, position: int) -> ProofSum | None:
        """Return the sums of everything before `position`, if they are known."""
        return self._feed.sum_at(position)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there may be more."""
        self._feed.watch(wake)

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End `watch`."""
        self._feed.unwatch(wake)

    def sent(self) -> None:
        """Take note that what was offered last is on its way, or its beginning."""
        if self._unsent:
            self._told, self._unsent = self._told + 1, False

    def has_more(self, position: int) -> bool:
        """Tell whether there is an event from `position` on, or the end."""
        return self._feed.has_more(position)

    def next_batch(self, position: int) -> Batch | None:
        """Return what the reader has next, or None if there is nothing now."""
        self._unsent = False
        feed = self._feed
        next_id = feed.next_id
        if position >= next_id:
            return feed.next_batch(position)
        first = feed.first_id
        if first <= position == self._announced:
            # The gap before it went alone, for it fits no frame with the gap. Another
            # choice now would be another gap, and so on: the reader got no event.
            start, stop, reason = position, position + 1, GapReason.DROPPED
        else:
            start, stop, reason = self._selection.select(position, first, next_id)
        batch = None
        if start < stop:
            batch = feed.next_batch(start)
            if batch is None:
                return None
            batch = batch.before(stop).without_definitions()
        if self._told < len(feed.kinds):  # now that the feed has looked
            return self._definition(position)
        if start == position:
            return batch
        self._announced = start if start < stop else -1
        gap = encode_entries(
            position, [(GAP_KIND, gap_entry(start - position, reason))]
        )
        if batch is None or len(gap.payload) + len(batch.payload) > MAX_PAYLOAD:
            return gap
        return merge([gap, batch])

    def _definition(self, position: int) -> Batch:
        """Return a batch of one kind: whose first event was may be left out.

        One, and not with an event, for it takes up a unit of a window of perhaps two.
        """
        self._unsent = True
        number = self._told + 1
        body = kind_definition(number, self._feed.kinds.names[number])
        return encode_entries(position, [(DEFINITION_KIND, body)])


class _Newest:
    """So many of the newest events."""

    def __init__(self, count: int) -> None:
        self._count = count

    def select(
        self, position: int, first_id: int, next_id: int
    ) -> tuple[int, int, GapReason]:
        """Leave out what is older, and what is not retained any more."""
        start = max(position, next_id - self._count)
        if start < first_id:
            return first_id, next_id, GapReason.TRIMMED
        return start, next_id, GapReason.DROPPED
