"""What a subscription to a log reads from: memory where possible, else the disk."""

from __future__ import annotations

import logging
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from ackline.proto.batches import (
    DEFINITION_KIND,
    GAP_KIND,
    Batch,
    KindTable,
    encode_entries,
    gap_batch,
    kind_definition,
    merge,
)
from ackline.proto.limits import MAX_PAYLOAD
from ackline.proto.messages import End, Intent
from ackline.proto.proofs import NOTHING
from ackline.server import outcomes
from ackline.server.stores.errors import (
    EventsLost,
    NotFound,
    PositionTrimmed,
    StoreError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from ackline.proto.proofs import ProofSum
    from ackline.server.stores.entities import StoredBatch
    from ackline.server.stores.seams import Log

__all__ = ["FeedReader", "LogFeed"]

log = logging.getLogger(__name__)

BATCH_BYTES = 64 * 2**10
"""Payload bytes put into one frame, for a reader that is behind."""

SMALL_BATCH = 4 * 2**10
"""Batches below this are merged with their neighbours."""

LOAD_BYTES = 512 * 2**10
"""Bytes read from the disk at once for one reader that is far behind."""

_NONE_KNOWN: Final[Mapping[int, ProofSum]] = MappingProxyType({})


class FeedReader(Protocol):
    """Who reads a feed."""

    @property
    def position(self) -> int:
        """The id after the last event that was sent."""
        ...

    def feed_failed(self, error: StoreError) -> None:
        """Take note of what makes going on impossible."""
        ...

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], what: str
    ) -> asyncio.Task[None]:
        """Run what reads from the disk."""
        ...


@lru_cache(maxsize=256)
def _table(names: tuple[str, ...]) -> KindTable:
    """Return a table that all who know these kinds share: nobody changes it."""
    return KindTable(names)


class LogFeed:
    """One subscription's view of a log: an `EventFeed`.

    Each has its own, because a kind that is added later must be defined once to every
    subscriber, wherever it is. What they read is shared: the store's batches. There are
    many, and most are idle: what an idle one does not need is made when it does.

    Args:
        source: the log.
        reader: told of what is not there.
        gaps: whether events that are not retained are told as a gap.
        defines: whether kinds that are added later are told in the batches.
    """

    __slots__ = (
        "_defines",
        "_gaps",
        "_known",
        "_loaded",
        "_loading",
        "_log",
        "_offered",
        "_reader",
        "_wake",
        "generation",
        "kinds",
    )

    def __init__(
        self, source: Log, reader: FeedReader, *, gaps: bool, defines: bool = True
    ) -> None:
        self.generation = source.record.generation
        self.kinds = _table(source.record.kinds)
        self._log = source
        self._reader = reader
        self._gaps = gaps
        self._defines = defines
        # Where kinds were offered, and how many are known once that is sent.
        self._offered: tuple[int, int] | None = None
        self._loaded: Sequence[StoredBatch] = ()
        self._loading = False
        self._known: Mapping[int, ProofSum] = _NONE_KNOWN
        self._wake: Callable[[], None] | None = None

    @property
    def first_id(self) -> int:
        """The oldest id that can be asked for."""
        return 0 if self._gaps else self._log.first_id

    @property
    def oldest_id(self) -> int:
        """The oldest id that is retained, whatever may be told as a gap."""
        return self._log.first_id

    @property
    def next_id(self) -> int:
        """The id after the newest that is durable."""
        return self._log.next_id

    @property
    def end(self) -> End | None:
        """How the log was sealed, if it was."""
        sealed = self._log.record.sealed
        if sealed is None:
            return None
        outcome = outcomes.load(sealed)
        return End(Intent(int(outcome.outcome)), outcome.code, outcome.text)

    def has_more(self, position: int) -> bool:
        """Tell whether there is an event from `position` on, or the end."""
        source = self._log
        return position < source.next_id or source.record.sealed is not None

    def next_batch(self, position: int) -> Batch | None:
        """Return events from `position` on, or None if there are none in memory."""
        newest = self._log.newest
        if self._offered is None:
            for last, at, kinds, shared in _shared:
                if last is newest and at == position and kinds is self.kinds:
                    return shared
        batch = self._events(position)
        if len(self._log.record.kinds) > len(self.kinds):
            if not self._defines:
                self.know_kinds()
            elif batch is not None:
                return self._defined(batch, position)
        if (
            batch is not None
            and newest is not None
            and batch.next_id == newest.next_id
            and not batch.special  # the gap may be one that only this reader is told
        ):
            _shared[:] = [(newest, position, self.kinds, batch), *_shared[:1]]
        return batch

    def _events(self, position: int) -> Batch | None:
        source = self._log
        if position >= source.next_id:
            return None
        if position < source.first_id:
            return self._trimmed(position)
        batches: Sequence[StoredBatch] | None = source.cached(position, BATCH_BYTES)
        if batches is None:
            batches = self._find_loaded(position)
        if not batches:
            self._load(position)
            return None
        return _join(batches, position)

    def peek(self, position: int) -> Batch | None:
        """Return events from `position` on if they are in memory."""
        source = self._log
        if len(source.record.kinds) > len(self.kinds):
            self.know_kinds()
        if not source.first_id <= position < source.next_id:
            return None
        batches: Sequence[StoredBatch] | None = source.cached(position, BATCH_BYTES)
        if batches is None:
            batches = [b for b in self._loaded if b.next_id > position]
        if not batches or batches[0].first_id > position:
            return None
        return _join(batches, position)

    def sum_at(self, position: int) -> ProofSum | None:
        """Return the sums before `position`, if they are in memory.

        `prepare()` brings them there.
        """
        if position == 0:
            return NOTHING
        known = self._known.get(position)
        if known is not None:
            return known
        batches = self._log.cached(position - 1, 1)
        return _sum_in(batches, position) if batches else None

    async def prepare(self, positions: Iterable[int]) -> None:
        """Have the sums before these positions in memory, where they can be known.

        Raises:
            StoreError: the log cannot be read.
        """
        self.know_kinds()
        self._known = _NONE_KNOWN
        known: dict[int, ProofSum] = {}
        for position in positions:
            readable = self._log.first_id < position <= self._log.next_id
            if not readable or self.sum_at(position) is not None:
                continue
            batches = await self._log.load(position - 1, 1)
            if batches:
                known[position] = _sum_in(batches, position)
        if known:
            self._known = known

    def know_kinds(self) -> None:
        """Take over the kinds that a Standing tells the subscriber now."""
        self.kinds = _table(self._log.record.kinds)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there may be more; one who watches is enough."""
        self._wake = wake
        self._log.watch(wake, self._changed)
        if self._log.deleted:
            self._changed()

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End `watch`."""
        if self._wake == wake:
            self._wake = None
            self._log.unwatch(wake)

    def _changed(self) -> None:
        source = self._log
        if source.deleted:
            self._reader.feed_failed(NotFound("log", source.record.name))
        elif source.recovery.lost_events and source.next_id < self._reader.position:
            # Its ids will be given again: what follows would not be what follows.
            self._reader.feed_failed(
                EventsLost(
                    source.record.name,
                    position=self._reader.position,
                    next_id=source.next_id,
                )
            )
        elif self._wake is not None:
            self._wake()

    def _defined(self, batch: Batch, position: int) -> Batch:
        """Return a batch behind the definitions of the kinds added meanwhile.

        They are known when the batch was sent, which the next position asked for shows:
        what is offered may have to wait for room, and other kinds be added by then.
        """
        names = self._log.record.kinds
        known = len(self.kinds)
        if self._offered is not None and position > self._offered[0]:
            known = max(known, self._offered[1])  # a resume may have told more
            self.kinds = _table(names[:known])
        if known == len(names):
            self._offered = None
            return batch
        self._offered = position, len(names)
        definitions = [
            (DEFINITION_KIND, kind_definition(number, name))
            for number, name in enumerate(names[known:], known + 1)
        ]
        head = encode_entries(position, definitions)
        if len(head.payload) + len(batch.payload) <= MAX_PAYLOAD:
            return merge([head, batch])
        self.know_kinds()  # alone: no position will show that they were sent
        return head

    def _trimmed(self, position: int) -> Batch | None:
        first = self._log.first_id
        if self._gaps:
            return gap_batch(position, first)
        self._reader.feed_failed(
            PositionTrimmed(self._log.record.name, position=position, first_id=first)
        )
        return None

    def _find_loaded(self, position: int) -> Sequence[StoredBatch]:
        found = [b for b in self._loaded if b.next_id > position]
        self._loaded = found if found and found[0].first_id <= position else ()
        return self._loaded

    def _load(self, position: int) -> None:
        if not self._loading:
            self._loading = True
            self._reader.spawn(self._read(position), "read")

    async def _read(self, position: int) -> None:
        try:
            self._loaded = await self._log.load(position, LOAD_BYTES)
        except PositionTrimmed:
            pass  # asked again, it is answered with a gap or an error
        except NotFound:
            return  # who watches the log knows
        except StoreError as error:
            log.error("log %r: %s", self._log.record.name, error)
            self._reader.feed_failed(error)
            return
        finally:
            self._loading = False
        if self._wake is not None:
            self._wake()


_shared: list[tuple[StoredBatch, int, KindTable, Batch]] = []
"""What was read last: the newest batch of the log then, the position, the kinds the
reader knew, which were all, and all that it got. All subscribers of a log ask for the
same one by one: finding it anew is a tenth of what an event to each of 1,000 costs, and
those who are behind must not fall back further because each joins the same batches. Two
for those who are, and those who are not."""


def _batch(stored: StoredBatch) -> Batch:
    """Return a stored batch as the core sends it: events, and gaps of publishers."""
    payload = stored.payload
    entries = int.from_bytes(payload[:4], "big")
    special = entries != stored.count or GAP_KIND in payload[4 : 4 + 4 * entries : 4]
    return Batch(
        stored.first_id, stored.count, entries, payload, stored.payload_crc, special
    )


def _join(batches: Sequence[StoredBatch], position: int) -> Batch:
    """Return the events from `position` on, small batches together."""
    first = batches[0]
    if first.first_id < position:
        return _batch(first).tail(position)
    if len(first.payload) >= SMALL_BATCH or len(batches) == 1:
        return _batch(first)
    size, count = 0, 0
    for stored in batches:
        size += len(stored.payload)
        if size > BATCH_BYTES:
            break
        count += 1
    return merge([_batch(stored) for stored in batches[: max(count, 1)]])


def _sum_in(batches: Sequence[StoredBatch], position: int) -> ProofSum:
    """Return the sums before `position`, which the first batch reaches."""
    stored = batches[0]
    return stored.sums_before.extended(*_batch(stored).proof_parts(position))
