"""Where an event sender takes its batches from, and the buffer that runs write into.

An `EventFeed` is read at positions, by any number of senders; a batch is encoded once
and shared by all of them. `EventBuffer` is the feed in memory: the replay buffer of a
publisher and of a run.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from ackline.proto.batches import (
    DEFINITION_KIND,
    Batch,
    encode_batch,
    encode_entries,
    encode_event,
    kind_definition,
    merge,
)
from ackline.proto.kinds import KindTable
from ackline.proto.proofs import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.messages import End
    from ackline.proto.proofs import ProofSum

__all__ = ["EventBuffer", "EventFeed"]

BATCH_BYTES = 64 * 2**10
"""Most payload bytes sealed into one batch: small enough that a token of another
stream does not wait long behind it, large enough that its 24-byte header and one call
each of encode, CRC and write are nothing beside it."""

SMALL_BATCH = 4 * 2**10
"""A reader that is behind gets neighbours below this size merged into one frame."""

_UNNAMED = KindTable()
"""What all buffers share that have no kinds yet: a run keeps 200 bytes less for it."""


class EventFeed(Protocol):
    """A sequence of events that senders read at their own positions."""

    generation: int

    @property
    def kinds(self) -> KindTable:
        """The names of kinds so far."""
        ...

    @property
    def first_id(self) -> int:
        """The oldest retained id."""
        ...

    @property
    def next_id(self) -> int:
        """The id after the newest."""
        ...

    @property
    def end(self) -> End | None:
        """How the sequence ended, once it has."""
        ...

    def has_more(self, position: int) -> bool:
        """Tell whether there is an event from `position` on, or the end."""
        ...

    def next_batch(self, position: int) -> Batch | None:
        """Return events from `position` on, or None if there are none at the moment.

        After None, and after events up to `next_id`, every watcher is called when there
        may be more.
        """
        ...

    def sum_at(self, position: int) -> ProofSum | None:
        """Return the running sums of everything before `position`, if known."""
        ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there may be more."""
        ...

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End `watch`."""
        ...


class EventBuffer:
    """Events in memory, from the oldest that somebody may still want.

    The producer calls `append()` and stops while `full`; readers call `next_batch()`.
    `set_floor()` says what nobody needs any more.

    A producer of very many events asks for the `room()`, appends that many plain bodies
    to `tail` itself and calls `wake()` whenever the buffer is `idle`: 25 ns for each
    event instead of 140, because nothing is counted before it is read or asked for.

    Args:
        generation: identifies this sequence of events (SPEC.md §1).
        max_events: events held before `full`.
        max_bytes: bytes of bodies and entries held before `full`.
        keep: hold what is below the floor too, as long as there is room: for runs,
            where a late reader may want the beginning. A publisher lets it go at once.
        start: id of the first event.
        sums: the sums of everything before `start`, where known, for proofs.
        kinds: the names of kinds; definitions go into the batches if `define` is set.
        define: whether to tell readers of kinds that are added later.

    Attributes:
        floor: nobody needs what is before it; beyond every id if nobody needs anything.
        end: how the sequence ended, once it has.
        tail: bodies of the newest events, which are in no batch yet; always this list.
        idle: whether a reader found nothing and waits to be woken.
    """

    __slots__ = (
        "_batches",
        "_below",
        "_bytes",
        "_counted",
        "_define",
        "_definitions",
        "_first",
        "_keep",
        "_kinds",
        "_max_bytes",
        "_max_events",
        "_sealed",
        "_starts",
        "_sums",
        "_tail_bytes",
        "_watchers",
        "end",
        "floor",
        "generation",
        "idle",
        "kinds",
        "tail",
    )

    def __init__(
        self,
        *,
        generation: int,
        max_events: int,
        max_bytes: int,
        keep: bool = False,
        start: int = 0,
        sums: ProofSum | None = None,
        kinds: KindTable | None = None,
        define: bool = False,
    ) -> None:
        self.generation = generation
        self.kinds = _UNNAMED if kinds is None else kinds
        self.end: End | None = None
        self.floor = start
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._keep = keep
        self._define = define
        self._starts: list[int] = []
        self._batches: list[Batch] = []
        if sums is None and start == 0:
            sums = NOTHING
        self._sums: list[ProofSum] = [] if sums is None else [sums]
        self._bytes = 0
        self._first = self._sealed = start
        self.tail: list[bytes] = []
        self.idle = False
        # Of the tail: how many are counted, their bytes, and kinds up to the last that
        # is not 0.
        self._counted = self._tail_bytes = 0
        self._kinds = bytearray()
        self._definitions: tuple[bytes, ...] = ()
        # A tuple: most buffers have one watcher, for which a dict takes 232 bytes.
        self._watchers: tuple[Callable[[], None], ...] = ()
        self._below: Callable[[], None] | None = None

    @property
    def first_id(self) -> int:
        """The oldest retained id."""
        return self._first

    @property
    def next_id(self) -> int:
        """The id of the next event to be appended."""
        return self._sealed + len(self.tail)

    @property
    def retained_bytes(self) -> int:
        """Bytes held: bodies and four for every entry."""
        self._count()
        return self._bytes + self._tail_bytes

    @property
    def full(self) -> bool:
        """Whether the producer has to wait for its slowest reader."""
        if not self._holds(self._max_events, self._max_bytes):
            return False
        self._trim()
        return self._holds(self._max_events, self._max_bytes)

    def room(self) -> tuple[int, int]:
        """Return how many events and bytes may be added before it is `full`."""
        if self._keep:
            self._trim()
        return (
            self._max_events - (self.next_id - self._first),
            self._max_bytes - self.retained_bytes,
        )

    def know(self, sums: ProofSum) -> None:
        """State the sums of everything before the first event, if they come late.

        Only before the first `append()`: those of later positions follow from them.
        """
        if not self._sums and self.next_id == self._first:
            self._sums = [sums]

    def on_room(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called once when the floor rises, to look at `full` again."""
        self._below = callback

    def append(self, body: bytes, kind: int = 0) -> None:
        """Add one event; the caller looks at `full` and at MAX_EVENT."""
        if kind:
            self._pad_kinds()
            self._kinds.append(kind)
        self.tail.append(body)
        if self.idle:
            self.wake()

    def wake(self) -> None:
        """Tell the readers that there is more."""
        self.idle = False
        for wake in self._watchers:
            wake()

    def define(self, name: str) -> int:
        """Return the number of a kind, giving it one if it has none.

        Raises:
            UsageError: there are 239 kinds already.
        """
        number = self.kinds.number_of(name)
        if number is not None:
            return number
        if self.kinds is _UNNAMED:
            self.kinds = KindTable()
        number = self.kinds.define(name)
        if self._define:
            self._seal()
            self._definitions += (kind_definition(number, name),)
        return number

    def finish(self, end: End) -> None:
        """State the end; nothing is appended after it."""
        if self.end is None:
            self.end = end
            self.wake()

    def set_floor(self, position: int) -> None:
        """Let go of everything before `position`, as far as nothing else wants it."""
        if position > self.floor:
            self.floor = position
            if not self._keep:
                self._trim()
            if self._below is not None:
                callback, self._below = self._below, None
                callback()

    def restart(self, position: int) -> None:
        """Let go of all events and go on at `position`: with others, or computed again.

        Kinds keep their numbers; readers further on wait until they are reached.
        """
        sums = NOTHING if position == 0 else self.sum_at(position)
        self._sums = [] if sums is None else [sums]
        self._starts, self._batches = [], []
        self.tail.clear()
        self._kinds = bytearray()
        self._bytes = self._counted = self._tail_bytes = 0
        self.floor = self._first = self._sealed = position

    def has_more(self, position: int) -> bool:
        """Tell whether there is an event from `position` on, or the end."""
        return position < self.next_id or self.end is not None

    def next_batch(self, position: int) -> Batch | None:
        """Return events from `position` on, or None."""
        tail = self.tail
        if position >= self._sealed:
            if position >= self._sealed + len(tail):
                self.idle = True
                return None
            if len(tail) == 1 and not self._kinds and not self._definitions:
                self.idle = True
                return self._seal_lone()
            self._seal()
        batches = self._batches
        at = len(batches) - 1
        # Nearly every reader is at the newest batch; the search is for the others.
        if at < 0 or position < self._starts[at]:
            at = bisect_right(self._starts, position) - 1
            if at < 0:
                return None
        batch = batches[at]
        if at + 1 == len(self._batches):
            self.idle = True  # the reader need not ask in vain to be woken
        elif batch.first_id >= position and len(batch.payload) < SMALL_BATCH:
            return self._merged(at)
        return batch.tail(position)

    def peek(self, position: int) -> Batch | None:
        """Return what a reader may look at ahead of its position: all is in memory."""
        return self.next_batch(position)

    def sum_at(self, position: int) -> ProofSum | None:
        """Return the sums of all events before `position`, or None if trimmed."""
        if not self._first <= position <= self.next_id:
            return None
        self._seal()
        if not self._starts:
            return self._sums[0] if self._sums else None
        at = bisect_right(self._starts, position) - 1
        before = self._sum_before(at)
        if before is None:
            return None
        batch = self._batches[at]
        if batch.first_id == position:
            return before
        return before.extended(*batch.proof_parts(position))

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there may be more."""
        self._watchers = (*self._watchers, wake)

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End `watch`."""
        self._watchers = tuple(each for each in self._watchers if each != wake)

    def _holds(self, events: int, size: int) -> bool:
        """Tell whether it holds that many events or bytes."""
        self._count()
        return (
            self._sealed + len(self.tail) - self._first >= events
            or self._bytes + self._tail_bytes >= size
        )

    def _count(self) -> None:
        new = len(self.tail) - self._counted
        if new:
            self._tail_bytes += 4 * new + sum(map(len, self.tail[self._counted :]))
            self._counted += new

    def _pad_kinds(self) -> None:
        self._kinds += bytes(len(self.tail) - len(self._kinds))

    def _seal(self) -> None:
        if not self.tail:
            return
        if len(self.tail) == 1 and not self._kinds and not self._definitions:
            self._seal_lone()
            return
        self._count()
        if self._kinds:
            self._pad_kinds()
        bodies, kinds, size = self.tail[:], self._kinds or None, self._tail_bytes
        self.tail.clear()
        self._counted = self._tail_bytes = 0
        self._kinds = bytearray()
        if self._definitions:  # with the first event that may need them
            entries = [(DEFINITION_KIND, body) for body in self._definitions]
            self._definitions = ()
            entries.append((kinds[0] if kinds else 0, bodies[0]))
            self._keep_batch(encode_entries(self._sealed, entries))
            bodies, kinds = bodies[1:], kinds and kinds[1:]
        if size <= BATCH_BYTES and bodies:
            self._keep_batch(encode_batch(self._sealed, bodies, kinds))
        else:
            self._seal_parts(bodies, kinds)

    def _seal_lone(self) -> Batch:
        """Seal the only event of the tail, of kind 0."""
        batch = encode_event(self._sealed, self.tail.pop())
        self._counted = self._tail_bytes = 0
        self._keep_batch(batch)
        return batch

    def _seal_parts(self, bodies: list[bytes], kinds: bytearray | None) -> None:
        """Seal more than one batch."""
        sizes = list(accumulate(map(len, bodies)))
        begin = 0
        while begin < len(bodies):
            done = sizes[begin - 1] if begin else 0
            # Four bytes an entry are added below: with tiny bodies they are most of it.
            stop = min(
                max(begin + 1, bisect_right(sizes, done + BATCH_BYTES)),
                begin + BATCH_BYTES // 8,
            )
            self._keep_batch(
                encode_batch(
                    self._sealed, bodies[begin:stop], kinds and kinds[begin:stop]
                )
            )
            begin = stop

    def _keep_batch(self, batch: Batch) -> None:
        self._starts.append(batch.first_id)
        self._batches.append(batch)
        self._sealed = batch.next_id
        self._bytes += len(batch.payload) - 4

    def _merged(self, at: int) -> Batch:
        size, stop = 0, at
        while stop < len(self._batches):
            size += len(self._batches[stop].payload)
            if size > BATCH_BYTES:
                break
            stop += 1
        if stop == len(self._batches):
            self.idle = True  # as with the newest batch alone
        return merge(self._batches[at : max(stop, at + 1)])

    def _sum_before(self, at: int) -> ProofSum | None:
        """Sums before batch `at`; each batch is summed once, and only if needed."""
        if not self._sums:
            return None
        while len(self._sums) <= at:
            batch = self._batches[len(self._sums) - 1]
            self._sums.append(self._sums[-1].extended(*batch.proof_parts()))
        return self._sums[at]

    def _split(self, at: int) -> None:
        """Make two batches of one."""
        batch = self._batches[at]
        middle = batch.first_id + batch.count // 2
        self._batches[at : at + 1] = [batch.before(middle), batch.tail(middle)]
        self._starts.insert(at + 1, middle)
        self._bytes += sum(len(b.payload) - 4 for b in self._batches[at : at + 2])
        self._bytes -= len(batch.payload) - 4

    def _trim(self) -> None:
        cut = 0
        # Where nobody holds anything back, nobody may have read it either.
        unheld = self.floor > self._sealed
        if unheld and self._holds(self._max_events, self._max_bytes):
            self._seal()
        keep = self._keep or unheld
        # Less than all: a batch comes for every one that goes, and if it had to fit
        # the same room each would be smaller than the one before.
        events = self._max_events - self._max_events // 16
        size = self._max_bytes - self._max_bytes // 16
        while cut < len(self._batches):
            batch = self._batches[cut]
            if batch.next_id > self.floor or (keep and not self._holds(events, size)):
                break
            if unheld and batch.next_id == self.next_id and batch.count > 1:
                self._split(cut)  # who is behind still gets the newest
                continue
            cut += 1
            self._bytes -= len(batch.payload) - 4
            self._first = batch.next_id
        if not cut:
            return
        if self._sums:
            if cut < len(self._batches):
                self._sum_before(cut)
            else:
                last = self._sum_before(cut - 1)
                assert last is not None
                self._sums.append(last.extended(*self._batches[cut - 1].proof_parts()))
            del self._sums[:cut]
        del self._starts[:cut], self._batches[:cut]
