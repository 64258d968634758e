"""Of the events with one key only the newest: the policy `merge` (SPEC.md §16)."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from itertools import accumulate
from struct import unpack
from typing import TYPE_CHECKING, Final

from ackline.proto.proofs import ENTRY_SIZE
from ackline.proto.values import GapReason

if TYPE_CHECKING:
    from ackline.proto.batches import Batch
    from ackline.proto.conflation import SharedFeed
    from ackline.proto.values import Value

__all__ = ["Merging"]

SCAN_EVENTS: Final = 8192
"""Events looked at for one answer, where each may be a key: some 5 ms, after which
other streams have their turn."""

SCAN_BATCHES: Final = 64
"""Batches looked at for one answer, where the kind is the key: 4 MiB."""

MAX_KEYS: Final = 4096
"""Keys remembered for one reader: 1 MiB. What comes behind so many is looked at when
some of them have been sent."""

KEY_DIGEST: Final = 16
"""Bytes kept of a key: whoever publishes chooses it, up to the size of an event."""

_LENGTH_MASK: Final = 0xFFFFFF


class _Group:
    """Events [start, stop) that are sent or left out together; stop None while open."""

    __slots__ = ("start", "stop")

    def __init__(self, start: int, stop: int | None) -> None:
        self.start = start
        self.stop = stop


class Merging:
    """What waits, by key.

    Every event is looked at once, as the reader comes near it or is behind.

    Args:
        feed: where the events are.
        kind: of the events that begin a group and are its key; None if every event is a
            group, and its kind the key.
    """

    __slots__ = ("_feed", "_groups", "_kind", "_open", "_reached", "_scanned")

    def __init__(self, feed: SharedFeed, kind: Value) -> None:
        self._feed = feed
        self._kind = kind
        # The newest group of each key, in the order of their ids.
        self._groups: OrderedDict[object, _Group] = OrderedDict()
        self._open: _Group | None = None
        self._scanned = self._reached = 0

    def select(
        self, position: int, first_id: int, next_id: int
    ) -> tuple[int, int, GapReason]:
        """Return the oldest group that is its key's newest, or what is left of it."""
        if position < first_id:
            return first_id, first_id, GapReason.TRIMMED
        if position < self._reached:  # a resume: what was passed is wanted again
            self._groups.clear()
            self._scanned = 0
        self._reached = position
        self._scan(position, next_id)
        while self._groups:
            group = next(iter(self._groups.values()))
            stop = self._scanned if group.stop is None else group.stop
            if stop > position:
                return max(group.start, position), stop, GapReason.MERGED
            if group.stop is None:  # its key is remembered for what comes
                break
            self._groups.popitem(last=False)
        # Nothing is in memory: have it loaded.
        return position, position + 1, GapReason.MERGED

    def _scan(self, position: int, next_id: int) -> None:
        at = self._scanned
        if position > at or not self._groups:
            # Whose the next event is, if it is no key itself, is not known.
            self._groups.clear()
            at, self._open = position, None
        events, batches = SCAN_EVENTS, SCAN_BATCHES
        while at < next_id and len(self._groups) < MAX_KEYS and events > 0 < batches:
            batch = self._feed.peek(at)
            if batch is None:
                break
            if self._kind is None:
                self._take_kinds(batch, at)
            else:
                events -= self._take_keys(batch, at)
            at, batches = batch.next_id, batches - 1
        self._scanned = at

    def _take_kinds(self, batch: Batch, at: int) -> None:
        if batch.special:  # ids do not follow one another where a publisher left a gap
            last = {kind: position for position, kind, _ in batch.numbered(at)}
        else:
            columns, _bodies = batch.proof_parts(from_id=at)
            kinds = bytes(columns[::ENTRY_SIZE])
            last = {kind: at + kinds.rfind(kind) for kind in set(kinds)}
        for kind, position in sorted(last.items(), key=lambda item: item[1]):
            self._put(kind, _Group(position, position + 1))

    def _take_keys(self, batch: Batch, at: int) -> int:
        """Return the cost, in events."""
        keys = self._keys_in(batch, at)
        if self._open is None and (not keys or keys[0][0] > at):
            self._open = _Group(at, None)
            self._put(None, self._open)
        for position, body in keys:
            if self._open is not None:
                self._open.stop = position
            self._open = _Group(position, None)
            self._put(_key(body), self._open)
        return batch.entries if keys else 1

    def _keys_in(self, batch: Batch, at: int) -> list[tuple[int, bytes | memoryview]]:
        """Return the ids and bodies of the events that are keys."""
        number = self._feed.kinds.number_of(str(self._kind))
        if number is None:
            return []
        if batch.special:
            return [(i, body) for i, kind, body in batch.numbered(at) if kind == number]
        columns, bodies = batch.proof_parts(from_id=at)
        kinds = bytes(columns[::ENTRY_SIZE])
        place = kinds.find(number)
        if place < 0:
            return []
        words = unpack(f">{len(kinds)}I", columns)
        ends = [0, *accumulate(word & _LENGTH_MASK for word in words)]
        found: list[tuple[int, bytes | memoryview]] = []
        while place >= 0:
            found.append((at + place, bodies[ends[place] : ends[place + 1]]))
            place = kinds.find(number, place + 1)
        return found

    def _put(self, key: object, group: _Group) -> None:
        self._groups[key] = group
        self._groups.move_to_end(key)


def _key(body: bytes | memoryview) -> bytes:
    if len(body) <= KEY_DIGEST:
        return bytes(body)
    return blake2b(body, digest_size=KEY_DIGEST).digest()
