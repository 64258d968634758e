"""Batches of events: the payload of EVENTS (`SPEC.md §11`).

```
+----------------+------------------------+-----+------------------------+------------------+
| count u32 = n  | entry 0 u32            | ... | entry n-1 u32          | bodies, in order |
+----------------+------------------------+-----+------------------------+------------------+
  entry = kind (8 bits, most significant) | length of the body in bytes (24 bits)
```

A batch is encoded once and shared by all who send it; a receiver keeps it as it came
until somebody asks for its events. Python runs once a batch here, and per event only in
`Batch.events`. The exception are batches flagged SPECIAL, with gaps or kind definitions:
they are rare, and every method takes them apart entry by entry.
"""  # noqa: E501 - the drawing is that of SPEC.md

from __future__ import annotations

from io import BytesIO
from itertools import accumulate, islice, takewhile
from struct import Struct as Layout
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Final

from ackline.proto.checksums import crc32c
from ackline.proto.compiling import mypyc_attr
from ackline.proto.entries import (
    DEFINITION_KIND,
    FIRST_RESERVED,
    GAP_KIND,
    LAST_ID,
    Event,
    Gap,
    covers,
    gap_entry,
    kind_definition,
    parse_definition,
    parse_gap,
)
from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.kinds import KindTable
from ackline.proto.limits import MAX_EVENT, MAX_PAYLOAD
from ackline.proto.values import GapReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "DEFINITION_KIND",
    "GAP_KIND",
    "LONE_BODY_AT",
    "Batch",
    "Event",
    "Gap",
    "KindTable",
    "encode_batch",
    "encode_entries",
    "encode_event",
    "gap_batch",
    "gap_entry",
    "kind_definition",
    "merge",
    "parse_batch",
    "parse_lone",
]

#: Bytes of the count, and of each entry.
_WORD: Final = 4
_LENGTH_MASK: Final = 0xFFFFFF

_LONE_HEAD: Final = Layout(">2I")
_TOO_LARGE: Final = f"an event has at most {MAX_EVENT} bytes; send it as a file"

#: Where the body begins in a batch of one event.
LONE_BODY_AT: Final = 8


@mypyc_attr(acyclic=True)
class Batch:
    """Events with contiguous ids, encoded. Immutable.

    Made by `encode_batch`, `encode_entries`, `merge` and `parse_batch`, which leave no
    batch that breaks SPEC.md.

    A class of its own and no `Struct`: compiled, its fields are read without a call and
    take 72 bytes instead of 128. Garbage collection need not look at it either way.

    Attributes:
        first_id: Id of the first event.
        count: Ids covered; equal to `entries` unless `special`.
        entries: Entries in the payload: what windows count as units.
        payload: As on the wire.
        crc: CRC-32C of the payload, for `pack_header`.
        special: Whether there are gaps or kind definitions: the flag SPECIAL.
    """

    __slots__ = ("count", "crc", "entries", "first_id", "payload", "special")

    def __init__(
        self,
        first_id: int,
        count: int,
        entries: int,
        payload: bytes,
        crc: int,
        special: bool,
    ) -> None:
        self.first_id: Final = first_id
        self.count: Final = count
        self.entries: Final = entries
        self.payload: Final = payload
        self.crc: Final = crc
        self.special: Final = special

    def __eq__(self, other: object) -> bool:
        """Tell whether they are the same, byte by byte."""
        return isinstance(other, Batch) and self._fields == other._fields

    def __hash__(self) -> int:
        """Return what equal batches share."""
        return hash(self._fields)

    def __repr__(self) -> str:
        """Return the fields, for who looks for a fault."""
        return f"Batch{self._fields}"

    @property
    def _fields(self) -> tuple[int, int, int, bytes, int, bool]:
        return (
            *(self.first_id, self.count, self.entries),
            *(self.payload, self.crc, self.special),
        )

    @property
    def next_id(self) -> int:
        """The id after the last one covered."""
        return self.first_id + self.count

    def columns(self) -> memoryview:
        """Return the entries, without copying."""
        return memoryview(self.payload)[_WORD : self._bodies_at]

    def bodies(self) -> memoryview:
        """Return the bodies one after the other, without copying."""
        return memoryview(self.payload)[self._bodies_at :]

    def events(
        self, kinds: KindTable, start_id: int | None = None
    ) -> list[Event | Gap]:
        """Return what the batch holds, in order.

        Kind definitions go into `kinds` as they are met.

        Args:
            kinds: The names of the stream's kinds.
            start_id: Leave out what is before this id, and cut a gap that contains it.

        Raises:
            ProtocolViolation: `bad_frame`: an event of a kind without a name, or a kind
                definition that contradicts `kinds`.
        """
        if self.special:
            return self._special_events(kinds, start_id)
        payload = self.payload
        if self.entries == 1 and not payload[_WORD] and start_id is None:
            return [Event(self.first_id, "", payload[LONE_BODY_AT:])]
        words = _words(self.payload, self.entries)
        first, at = self.first_id, self._bodies_at
        if start_id is not None and start_id > first:
            skipped = min(start_id - first, self.count)
            at += _lengths(words[:skipped])
            words, first = words[skipped:], first + skipped
        # Batches of 1,000 events of 64 B: 13 M events/s on one core, 9 M with kinds.
        # A file in memory cuts faster than slices do (9 M and 7), and does not copy
        # the payload; `struct` would have to compile the lengths of each batch.
        reader = BytesIO(self.payload)
        reader.seek(at)
        read = reader.read
        if not self._kind_bytes().strip(b"\0"):
            return [
                Event(id_, "", body) for id_, body in enumerate(map(read, words), first)
            ]
        self.check_kinds(kinds)
        names = kinds.names
        return [
            Event(id_, names[word >> 24], read(word & _LENGTH_MASK))
            for id_, word in enumerate(words, first)
        ]

    def check_kinds(self, kinds: KindTable) -> None:
        """Take over the kind definitions and check that every kind has a name.

        A receiver does this as the batch arrives, `events` again when it is consumed;
        a definition met twice changes nothing.

        Raises:
            ProtocolViolation: `bad_frame`: an event of a kind without a name, or a kind
                definition that contradicts `kinds`.
        """
        if not self.special:
            if self.entries > 1 or self.payload[_WORD]:
                _check_named(max(self._kind_bytes()), kinds)
            return
        for kind, body in self._items():
            if kind == DEFINITION_KIND:
                kinds.learn(*parse_definition(body))
            elif kind != GAP_KIND:
                _check_named(kind, kinds)

    def tail(self, from_id: int) -> Batch:
        """Return the part from `from_id` on, cutting a gap that contains it.

        Kind definitions are all kept: one may belong to the event `from_id`, and a
        receiver takes a repeated one.

        Raises:
            UsageError: The batch does not reach beyond `from_id`.
        """
        if from_id <= self.first_id:
            return self
        if from_id >= self.next_id:
            raise UsageError(f"a batch up to {self.next_id} has nothing at {from_id}")
        if self.special:
            return self._special_tail(from_id)
        skipped = from_id - self.first_id
        entries_at = _WORD + skipped * _WORD
        words = _words(self.payload, skipped)
        view = memoryview(self.payload)
        left = self.entries - skipped
        payload = b"".join(
            (
                pack(">I", left),
                view[entries_at : self._bodies_at],
                view[self._bodies_at + _lengths(words) :],
            )
        )
        return Batch(from_id, left, left, payload, crc32c(payload), False)

    def before(self, until_id: int) -> Batch:
        """Return the part before `until_id`, which is beyond the first id.

        A gap is not cut.
        """
        if until_id >= self.next_id:
            return self
        if self.special:
            items = [(kind, body) for at, kind, body in self._placed() if at < until_id]
            return encode_entries(self.first_id, items)
        part = self.head(until_id - self.first_id, len(self.payload))
        assert part is not None
        return part

    def without_definitions(self, known: int = FIRST_RESERVED) -> Batch:
        """Return it for a receiver that knows the kinds up to this number."""
        if not self.special:
            return self
        items = [
            (kind, body)
            for kind, body in self._items()
            if kind != DEFINITION_KIND or body[0] > known
        ]
        return encode_entries(self.first_id, items)

    def last_defined(self) -> int:
        """Return the highest number it defines, 0 if none."""
        return max(
            (b[0] for kind, b in self._items() if kind == DEFINITION_KIND), default=0
        )

    def definitions(self) -> Batch | None:
        """Return the definitions it begins with, alone; None if there are none."""
        if not self.special:
            return None
        items = list(takewhile(lambda each: each[0] == DEFINITION_KIND, self._items()))
        return encode_entries(self.first_id, items) if items else None

    def head(self, entries: int, size: int) -> Batch | None:
        """Return the longest beginning within a window.

        Args:
            entries: The most entries it may have.
            size: The most bytes its payload may have.

        Returns:
            None if no beginning that covers an id fits; the whole if it fits.
        """
        if self.entries <= entries and len(self.payload) <= size:
            return self
        entries = min(entries, self.entries, (size - _WORD) // _WORD)
        if entries < 1:
            return None
        words = _words(self.payload, entries)
        bodies = 0
        for taken, word in enumerate(words):
            length = word & _LENGTH_MASK
            if _WORD * (taken + 2) + bodies + length > size:
                entries = taken
                break
            bodies += length
        return self._first(entries, bodies)

    def proof_parts(
        self, until_id: int | None = None, *, from_id: int = 0
    ) -> tuple[memoryview, memoryview]:
        """Return the entries and bodies that a proof covers (`SPEC.md §15`).

        Kinds 254 and 255 are left out.

        Args:
            until_id: Leave out events from this id on.
            from_id: Leave out events before this id.
        """
        if self.special:
            return self._special_parts(until_id, from_id)
        first = min(max(from_id - self.first_id, 0), self.entries)
        last = self.entries
        if until_id is not None:
            last = max(first, min(until_id - self.first_id, last))
        if not first and last == self.entries:
            return self.columns(), self.bodies()
        words = _words(self.payload, last)
        begin = _lengths(words[:first])
        end = begin + _lengths(words[first:])
        return (
            self.columns()[first * _WORD : last * _WORD],
            self.bodies()[begin:end],
        )

    def gap_end(self, until_id: int | None = None) -> int | None:
        """Return the id after the last gap, which is where proofs start again (§15).

        Args:
            until_id: Look only at what is before this id.

        Returns:
            None if there is no gap.
        """
        found = None
        if self.special:
            for position, kind, body in self._placed():
                if until_id is not None and position >= until_id:
                    break
                if kind == GAP_KIND:
                    found = position + covers(kind, body)
        if found is None or until_id is None:
            return found
        return min(found, until_id)

    def gaps(self, from_id: int = 0) -> list[Gap]:
        """Return the gaps from `from_id` on, cutting one that contains it."""
        if not self.special:
            return []
        return [
            Gap(max(at, from_id), end - max(at, from_id), GapReason(body[-1]))
            for at, kind, body in self._placed()
            if kind == GAP_KIND and (end := at + covers(kind, body)) > from_id
        ]

    def numbered(self, from_id: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield id, number of the kind and body of every event from `from_id` on."""
        for position, kind, body in self._placed():
            if position >= from_id and kind < FIRST_RESERVED:
                yield position, kind, body

    @property
    def _bodies_at(self) -> int:
        return _WORD + self.entries * _WORD

    def _kind_bytes(self) -> bytes:
        return self.payload[_WORD : self._bodies_at : _WORD]

    def _items(self) -> Iterator[tuple[int, bytes]]:
        """Yield kind and body of every entry."""
        at = self._bodies_at
        for word in _words(self.payload, self.entries):
            end = at + (word & _LENGTH_MASK)
            yield word >> 24, self.payload[at:end]
            at = end

    def _placed(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield id, kind and body of every entry."""
        position = self.first_id
        for kind, body in self._items():
            yield position, kind, body
            position += covers(kind, body)

    def _first(self, entries: int, bodies: int) -> Batch | None:
        """Return the batch of so many entries, whose bodies have so many bytes."""
        if self.special:
            items = list(islice(self._items(), entries))
            # Definitions alone cover no id: a sender of such a batch would not move.
            if not any(covers(*item) for item in items):
                return None
            return encode_entries(self.first_id, items)
        if not entries:
            return None
        view = memoryview(self.payload)
        payload = b"".join(
            (
                pack(">I", entries),
                view[_WORD : _WORD + entries * _WORD],
                view[self._bodies_at : self._bodies_at + bodies],
            )
        )
        return Batch(self.first_id, entries, entries, payload, crc32c(payload), False)

    def _special_events(
        self, kinds: KindTable, start_id: int | None
    ) -> list[Event | Gap]:
        start = self.first_id if start_id is None else start_id
        found: list[Event | Gap] = []
        for position, kind, body in self._placed():
            if kind == DEFINITION_KIND:
                kinds.learn(*parse_definition(body))
            elif kind == GAP_KIND:
                gap = parse_gap(position, body)
                end = position + gap.count
                if position >= start:
                    found.append(gap)
                elif end > start:
                    found.append(Gap(start, end - start, gap.reason))
            else:
                _check_named(kind, kinds)
                if position >= start:
                    found.append(Event(position, kinds.names[kind], body))
        return found

    def _special_tail(self, from_id: int) -> Batch:
        items: list[tuple[int, bytes]] = []
        for position, kind, body in self._placed():
            end = position + covers(kind, body)
            if kind == DEFINITION_KIND or position >= from_id:
                items.append((kind, body))
            elif end > from_id:
                items.append((kind, gap_entry(end - from_id, GapReason(body[-1]))))
        return encode_entries(from_id, items)

    def _special_parts(
        self, until_id: int | None, from_id: int
    ) -> tuple[memoryview, memoryview]:
        until = self.next_id if until_id is None else until_id
        items = [
            (kind << 24 | len(body), body)
            for position, kind, body in self._placed()
            if kind < FIRST_RESERVED and from_id <= position < until
        ]
        return (
            memoryview(pack(f">{len(items)}I", *(word for word, _ in items))),
            memoryview(b"".join(body for _, body in items)),
        )


def gap_batch(position: int, first_id: int) -> Batch:
    """Return the batch that stands for events which are no longer retained."""
    body = gap_entry(first_id - position, GapReason.TRIMMED)
    return encode_entries(position, [(GAP_KIND, body)])


def encode_batch(
    first_id: int, bodies: Sequence[bytes], kinds: Sequence[int] | None = None
) -> Batch:
    """Return a batch of events.

    Batches of 1,000 events of 64 B: 38 M events/s on one core, 11 M with kinds.

    Args:
        first_id: Id of the first event.
        bodies: At least one; all bodies and entries together within one payload.
        kinds: Number of the kind of each; None for kind 0 throughout.

    Raises:
        UsageError: There is no event, an event or all together are too large, or a kind
            number is no event's.
    """
    count = len(bodies)
    words = pack(f">{count + 1}I", count, *map(len, bodies))
    if kinds is not None:
        if count and not 0 <= min(kinds) <= max(kinds) < FIRST_RESERVED:
            raise UsageError(f"kinds of events are 0 to {FIRST_RESERVED - 1}")
        # A length that had bits there is too large for a payload, which is seen below.
        columns = bytearray(words)
        columns[_WORD::_WORD] = bytes(kinds)
        words = bytes(columns)
    payload = b"".join([words, *bodies])
    _check_sizes(bodies, payload)
    return Batch(first_id, count, count, payload, crc32c(payload), False)


def encode_event(first_id: int, body: bytes) -> Batch:
    """Return a batch of one event of kind 0: `encode_batch` in half the time.

    Raises:
        UsageError: The event is too large.
    """
    if len(body) > MAX_EVENT:
        raise UsageError(_TOO_LARGE)
    payload = _LONE_HEAD.pack(1, len(body)) + body
    return Batch(first_id, 1, 1, payload, crc32c(payload), False)


def encode_entries(first_id: int, entries: Iterable[tuple[int, bytes]]) -> Batch:
    """Return a batch of any entries, each as kind and body.

    Args:
        first_id: Id of the first event.
        entries: At least one. Bodies of `DEFINITION_KIND` come from `kind_definition`,
            those of `GAP_KIND` from `gap_entry`.

    Raises:
        UsageError: There is no entry, an event or all together are too large, or a kind
            is reserved.
    """
    items = list(entries)
    bodies = [body for _, body in items]
    kinds = [kind for kind, _ in items]
    if all(0 <= kind < FIRST_RESERVED for kind in kinds):
        return encode_batch(first_id, bodies, kinds)
    if not all(
        0 <= kind < FIRST_RESERVED or kind in (DEFINITION_KIND, GAP_KIND)
        for kind in kinds
    ):
        raise UsageError(f"kinds from {FIRST_RESERVED} on are reserved")
    words = [kind << 24 | len(body) for kind, body in items]
    payload = b"".join([pack(f">{len(words) + 1}I", len(words), *words), *bodies])
    _check_sizes(bodies, payload)
    covered = sum(covers(kind, body) for kind, body in items)
    return Batch(first_id, covered, len(words), payload, crc32c(payload), True)


def merge(batches: Sequence[Batch]) -> Batch:
    """Return one batch of several that follow one another.

    Raises:
        UsageError: There is none, they do not follow one another, or together they are
            too large for one payload.
    """
    if len(batches) == 1:
        return batches[0]
    if not batches:
        raise UsageError("there is no batch to merge")
    at = batches[0].first_id
    for batch in batches:
        if batch.first_id != at:
            raise UsageError(f"a batch from {batch.first_id} does not follow {at}")
        at = batch.next_id
    entries = sum(batch.entries for batch in batches)
    payload = b"".join(
        (
            pack(">I", entries),
            *(batch.columns() for batch in batches),
            *(batch.bodies() for batch in batches),
        )
    )
    _check_sizes((), payload)
    first_id = batches[0].first_id
    special = any(batch.special for batch in batches)
    return Batch(first_id, at - first_id, entries, payload, crc32c(payload), special)


def parse_batch(
    first_id: int, payload: bytes, *, special: bool, crc: int | None = None
) -> Batch:
    """Return the batch in the payload of an EVENTS frame.

    Batches of 1,000 events: 42 M events/s on one core, 26 M with kinds.

    Whether kinds have names is not known here; see `Batch.check_kinds`.

    Args:
        first_id: The frame's sequence number.
        payload: Kept, so it must not be a view of a buffer that is reused.
        special: The frame's flag SPECIAL.
        crc: CRC of the payload, where the caller has it.

    Raises:
        ProtocolViolation: `bad_frame`: a rule of `SPEC.md §11` is broken;
            `limit_exceeded`: an event above `MAX_EVENT`.
    """
    size = len(payload)
    crc = crc32c(payload) if crc is None else crc
    lone = None if special else parse_lone(first_id, payload, crc)
    if lone is not None:
        return lone
    entries = int.from_bytes(payload[:_WORD], "big")
    bodies_at = _WORD + entries * _WORD
    if size < _WORD or not entries or bodies_at > size:
        raise _bad(f"a batch of {size} bytes cannot have {entries} entries")
    words = _words(payload, entries)
    # The kinds in one slice: then the lengths need no mask each.
    kinds = payload[_WORD:bodies_at:_WORD]
    length = sum(words) - (sum(kinds) << 24)
    if length != size - bodies_at:
        raise _bad(f"bodies of {length} bytes are stated, {size - bodies_at} are there")
    if size > MAX_EVENT + 2 * _WORD:  # else no event can be too large
        _check_largest(words)
    covered = entries
    if special:
        covered = _covered(payload, words, bodies_at)
    elif max(kinds) >= FIRST_RESERVED:
        raise _bad(f"an entry of kind {max(kinds)} without the flag SPECIAL")
    if first_id + covered > LAST_ID:
        raise _bad(f"{covered} ids from {first_id} on do not fit 64 bits")
    return Batch(first_id, covered, entries, payload, crc, special)


def parse_lone(first_id: int, payload: bytes, crc: int) -> Batch | None:
    """Return the batch if it is one event of kind 0: a token, known in half the time.

    Args:
        first_id: The frame's sequence number.
        payload: Of a frame without the flag SPECIAL.
        crc: Of the payload.
    """
    size = len(payload) - LONE_BODY_AT
    # Byte by byte: compiled that is 0.2 us less than with slices.
    if (
        0 <= size <= MAX_EVENT
        and payload[3] == 1
        and not payload[0] | payload[1] | payload[2] | payload[4]
        and payload[5] << 16 | payload[6] << 8 | payload[7] == size
        and first_id < LAST_ID
    ):
        return Batch(first_id, 1, 1, payload, crc, False)
    return None


def _bad(text: str) -> ProtocolViolation:
    return ProtocolViolation(Code.BAD_FRAME, text)


def _words(payload: bytes, entries: int) -> tuple[int, ...]:
    """Return the first entries of a payload."""
    return unpack_from(f">{entries}I", payload, _WORD)


def _lengths(words: Iterable[int]) -> int:
    return sum([word & _LENGTH_MASK for word in words])


def _check_named(kind: int, kinds: KindTable) -> None:
    if kind >= len(kinds.names):
        raise _bad(f"an event of kind {kind}, which has no name")


def _check_largest(words: Iterable[int]) -> None:
    largest = max(word & _LENGTH_MASK for word in words)
    if largest > MAX_EVENT:
        raise ProtocolViolation(
            Code.LIMIT_EXCEEDED,
            f"an event of {largest} bytes; at most {MAX_EVENT} are allowed",
        )


def _check_sizes(bodies: Sequence[bytes], payload: bytes) -> None:
    if len(payload) <= _WORD:
        raise UsageError("a batch has at least one entry")
    if len(payload) > MAX_PAYLOAD:
        raise UsageError(
            f"a batch of {len(payload)} bytes; at most {MAX_PAYLOAD} make one payload"
        )
    if len(payload) > MAX_EVENT + 2 * _WORD and any(
        len(body) > MAX_EVENT for body in bodies
    ):
        raise UsageError(_TOO_LARGE)


def _covered(payload: bytes, words: Sequence[int], bodies_at: int) -> int:
    """Check the entries of a SPECIAL batch and return the ids it covers.

    Raises:
        ProtocolViolation: `bad_frame`: an entry breaks §11, or none is special.
    """
    covered = specials = 0
    ends = accumulate((word & _LENGTH_MASK for word in words), initial=bodies_at)
    for word, at in zip(words, ends, strict=False):
        kind, length = word >> 24, word & _LENGTH_MASK
        if kind < FIRST_RESERVED:
            covered += 1
            continue
        specials += 1
        body = payload[at : at + length]
        if kind == GAP_KIND:
            covered += parse_gap(0, body).count
        elif kind == DEFINITION_KIND:
            parse_definition(body)
        else:
            raise _bad(f"an entry of the reserved kind {kind}")
    if not specials:
        raise _bad("the flag SPECIAL on a batch without gap or kind definition")
    return covered
