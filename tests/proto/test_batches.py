"""Batches of events (`SPEC.md §11`); refusals are mostly in the golden vectors."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ackline.proto.batches import (
    DEFINITION_KIND,
    GAP_KIND,
    Batch,
    Event,
    Gap,
    KindTable,
    encode_batch,
    encode_entries,
    encode_event,
    gap_entry,
    kind_definition,
    merge,
    parse_batch,
)
from ackline.proto.checksums import crc32c
from ackline.proto.entries import LeftOut
from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.limits import MAX_EVENT, MAX_PAYLOAD
from ackline.proto.messages import GapReason

Item = tuple[int, bytes]

NAMES = ("one", "two", "three")
DEFINITIONS = [
    (DEFINITION_KIND, kind_definition(n, name)) for n, name in enumerate(NAMES, 1)
]

ids = st.integers(0, 2**40)
bodies = st.binary(max_size=12)
event_items = st.tuples(st.integers(0, 3), bodies)
gap_items = st.builds(
    lambda count, reason: (GAP_KIND, gap_entry(count, reason)),
    st.integers(1, 9),
    st.sampled_from(GapReason),
)
plain_items = st.lists(event_items, min_size=1, max_size=12)
any_items = st.lists(
    st.one_of(event_items, gap_items, st.sampled_from(DEFINITIONS)),
    min_size=1,
    max_size=12,
)


def table() -> KindTable:
    return KindTable(NAMES)


def meaning(first_id: int, items: list[Item]) -> list[Event | Gap]:
    """Return what the entries mean, by a model of its own."""
    found: list[Event | Gap] = []
    for kind, body in items:
        if kind == GAP_KIND:
            count = int.from_bytes(body[:8], "big")
            found.append(Gap(first_id, count, GapReason(body[8])))
            first_id += count
        elif kind != DEFINITION_KIND:
            found.append(Event(first_id, ("", *NAMES)[kind], body))
            first_id += 1
    return found


def cut(found: list[Event | Gap], start_id: int) -> list[Event | Gap]:
    """Return what is left of `found` from an id on."""
    left: list[Event | Gap] = []
    for each in found:
        if isinstance(each, Gap) and each.id < start_id < each.id + each.count:
            each = Gap(start_id, each.id + each.count - start_id, each.reason)  # noqa: PLW2901
        if each.id >= start_id:
            left.append(each)
    return left


@given(ids, any_items)
def test_batch_means_the_same_after_the_wire(first: int, items: list[Item]) -> None:
    batch = encode_entries(first, items)
    parsed = parse_batch(first, batch.payload, special=batch.special)
    assert parsed == batch
    assert batch.crc == crc32c(batch.payload)
    assert batch.entries == len(items)
    assert batch.special == any(kind >= 254 for kind, _ in items)
    batch.check_kinds(table())
    assert batch.events(table()) == meaning(first, items)
    covered = [
        each.count if isinstance(each, Gap) else 1 for each in meaning(first, items)
    ]
    assert batch.next_id == first + batch.count == first + sum(covered)


@given(ids, st.lists(bodies, min_size=1, max_size=20))
def test_batch_without_kinds_is_that_of_kind_0(first: int, data: list[bytes]) -> None:
    batch = encode_batch(first, data)
    assert batch == encode_batch(first, data, [0] * len(data))
    assert batch == encode_entries(first, [(0, body) for body in data])
    assert batch.events(KindTable()) == [
        Event(first + number, "", body) for number, body in enumerate(data)
    ]
    assert bytes(batch.bodies()) == b"".join(data)
    lengths = b"".join(len(body).to_bytes(4, "big") for body in data)
    assert bytes(batch.columns()) == lengths


@given(ids, bodies)
def test_a_batch_of_one_event_is_the_same_made_faster(first: int, body: bytes) -> None:
    assert encode_event(first, body) == encode_batch(first, [body])


@given(ids, any_items, st.integers(-3, 60))
def test_events_from_an_id_on_are_the_rest(
    first: int, items: list[Item], offset: int
) -> None:
    batch = encode_entries(first, items)
    start = max(0, first + offset)
    assert batch.events(table(), start) == cut(meaning(first, items), start)


@given(ids, any_items, st.integers(0, 60))
def test_tail_is_a_batch_of_the_rest(
    first: int, items: list[Item], offset: int
) -> None:
    batch = encode_entries(first, items)
    start = first + offset
    assume(start < batch.next_id)
    tail = batch.tail(start)
    assert tail.first_id == start
    assert tail.next_id == batch.next_id
    assert tail.events(table()) == cut(meaning(first, items), start)
    assert parse_batch(start, tail.payload, special=tail.special) == tail
    definitions = [item for item in items if item[0] == DEFINITION_KIND]
    assert [item for item in tail._items() if item[0] == DEFINITION_KIND] == definitions


@given(ids, any_items, st.integers(1, 60))
def test_before_is_a_batch_of_the_beginning(
    first: int, items: list[Item], offset: int
) -> None:
    batch = encode_entries(first, items)
    until = first + offset
    part = batch.before(until)
    whole = meaning(first, items)
    assert part.events(table()) == [each for each in whole if each.id < until]
    assert parse_batch(first, part.payload, special=part.special) == part


@given(ids, any_items)
def test_without_definitions_the_rest_is_the_same(
    first: int, items: list[Item]
) -> None:
    assume(any(kind != DEFINITION_KIND for kind, _ in items))
    batch = encode_entries(first, items)
    part = batch.without_definitions()
    assert part.events(table()) == meaning(first, items)
    assert all(kind != DEFINITION_KIND for kind, _ in part._items())
    assert parse_batch(first, part.payload, special=part.special) == part


@given(ids, any_items, st.integers(0, 240))
def test_definitions_of_kinds_that_are_not_known_stay(
    first: int, items: list[Item], known: int
) -> None:
    left = [each for each in items if each[0] != DEFINITION_KIND or each[1][0] > known]
    assume(left)
    batch = encode_entries(first, items)
    assert list(batch.without_definitions(known)._items()) == left
    numbers = [body[0] for kind, body in items if kind == DEFINITION_KIND]
    assert batch.last_defined() == max(numbers, default=0)


@given(ids, any_items, st.integers(-3, 60))
def test_gaps_are_those_from_an_id_on(
    first: int, items: list[Item], offset: int
) -> None:
    start = max(0, first + offset)
    found = encode_entries(first, items).gaps(start)
    expected = cut(meaning(first, items), start)
    assert found == [each for each in expected if isinstance(each, Gap)]
    left_out = LeftOut(dropped=1).plus(found)
    assert left_out.total == 1 + sum(gap.count for gap in found)
    for reason in GapReason:
        count = sum(gap.count for gap in found if gap.reason == reason)
        own = getattr(left_out, reason.name.lower())
        assert own == count + (reason is GapReason.DROPPED)


@pytest.mark.parametrize(
    "items", [[(0, b"a")], [(GAP_KIND, gap_entry(1, GapReason.MERGED))]]
)
def test_tail_beyond_a_batch_is_a_mistake(items: list[Item]) -> None:
    batch = encode_entries(5, items)
    assert batch.tail(4) is batch.tail(5) is batch
    with pytest.raises(UsageError, match="nothing at 6"):
        batch.tail(6)


@given(ids, any_items, st.integers(0, 14), st.integers(0, 250))
def test_head_is_the_longest_beginning_that_fits(
    first: int, items: list[Item], entries: int, size: int
) -> None:
    batch = encode_entries(first, items)
    fitting = 0
    for number in range(1, len(items) + 1):
        part = items[:number]
        if number <= entries and 4 + sum(4 + len(body) for _, body in part) <= size:
            fitting = number
    head = batch.head(entries, size)
    covers = meaning(first, items[:fitting])
    if fitting == len(items):
        assert head is batch
    elif not covers:
        assert head is None
    else:
        assert head == encode_entries(first, items[:fitting])


@pytest.mark.parametrize(("entries", "size"), [(0, 100), (1, 7), (1, 10), (1, -5)])
def test_no_beginning_fits_a_window_below_the_first_event(
    entries: int, size: int
) -> None:
    batch = encode_batch(0, [b"abc", b""])
    assert batch.head(1, 11) == encode_batch(0, [b"abc"])
    assert batch.head(entries, size) is None


def test_definitions_alone_are_no_beginning() -> None:
    batch = encode_entries(0, [*DEFINITIONS, (1, b"a"), (0, b"b")])
    assert batch.head(3, 1_000) is None
    assert batch.head(4, 1_000) == encode_entries(0, [*DEFINITIONS, (1, b"a")])


@given(ids, any_items, st.data())
def test_merged_parts_are_the_whole(
    first: int, items: list[Item], data: st.DataObject
) -> None:
    cuts = data.draw(st.sets(st.integers(1, len(items)), max_size=4))
    edges = sorted({0, *cuts, len(items)})
    parts: list[Batch] = []
    at = first
    for begin, end in pairwise(edges):
        parts.append(encode_entries(at, items[begin:end]))
        at = parts[-1].next_id
    assert merge(parts) == encode_entries(first, items)


def test_merging_one_batch_copies_nothing() -> None:
    batch = encode_batch(0, [b"a"])
    assert merge([batch]) is batch


def test_batches_that_do_not_follow_are_not_merged() -> None:
    with pytest.raises(UsageError, match="from 2 does not follow 1"):
        merge([encode_batch(0, [b"a"]), encode_batch(2, [b"b"])])
    with pytest.raises(UsageError, match="no batch"):
        merge([])


@given(ids, any_items, st.integers(-2, 60), st.integers(-2, 60))
def test_proof_parts_are_the_entries_and_bodies_between_two_ids(
    first: int, items: list[Item], begin: int, end: int
) -> None:
    batch = encode_entries(first, items)
    start, until = max(0, first + begin), max(0, first + end)
    words, data, at = b"", b"", first
    for kind, body in items:
        if kind == GAP_KIND:
            at += int.from_bytes(body[:8], "big")
        elif kind != DEFINITION_KIND:
            if start <= at < until:
                words += (kind << 24 | len(body)).to_bytes(4, "big")
                data += body
            at += 1
    parts = batch.proof_parts(until, from_id=start)
    assert (bytes(parts[0]), bytes(parts[1])) == (words, data)


@given(ids, plain_items)
def test_proof_parts_of_a_whole_plain_batch_are_not_copied(
    first: int, items: list[Item]
) -> None:
    batch = encode_entries(first, items)
    entries, joined = batch.proof_parts()
    assert entries.obj is joined.obj is batch.payload


def test_proofs_start_again_after_the_last_gap() -> None:
    gap = (GAP_KIND, gap_entry(10, GapReason.DROPPED))
    batch = encode_entries(5, [(0, b"a"), gap, (0, b"b"), gap, (0, b"c"), (0, b"d")])
    assert batch.gap_end() == 27
    assert batch.gap_end(29) == 27
    assert batch.gap_end(20) == 20  # within the second gap
    assert batch.gap_end(17) == 16
    assert batch.gap_end(6) is None
    assert encode_batch(5, [b"a"]).gap_end() is None


@given(ids, any_items, st.data())
def test_any_flipped_bit_is_refused_or_another_batch(
    first: int, items: list[Item], data: st.DataObject
) -> None:
    batch = encode_entries(first, items)
    payload = bytearray(batch.payload)
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    try:
        parsed = parse_batch(first, bytes(payload), special=batch.special)
        parsed.check_kinds(table())
        events = parsed.events(table())
    except ProtocolViolation as violation:
        assert violation.code is Code.BAD_FRAME  # noqa: PT017
    else:
        assert parsed.entries == batch.entries
        assert len(events) <= parsed.entries


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_batch_or_a_bad_frame(payload: bytes, special: bool) -> None:
    try:
        parsed = parse_batch(0, payload, special=special)
    except ProtocolViolation as violation:
        assert violation.code is Code.BAD_FRAME  # noqa: PT017
    else:
        assert encode_entries(0, parsed._items()) == parsed


def test_known_crc_is_not_computed_again() -> None:
    batch = encode_batch(0, [b"a"])
    assert parse_batch(0, batch.payload, special=False, crc=7).crc == 7


def test_definitions_are_learned_by_checking_and_by_reading() -> None:
    items = [(0, b"a"), DEFINITIONS[0], (1, b"b")]
    for learn in (Batch.check_kinds, Batch.events):
        kinds = KindTable()
        batch = encode_entries(0, items)
        learn(batch, kinds)
        learn(batch, kinds)
        assert kinds.listed() == ("one",)


@pytest.mark.parametrize(
    "items", [[(2, b"a")], [DEFINITIONS[0], (2, b"a")], [(2, b"a"), DEFINITIONS[0]]]
)
def test_event_of_a_kind_without_a_name_is_refused(items: list[Item]) -> None:
    batch = encode_entries(0, items)
    for learn in (Batch.check_kinds, Batch.events):
        with pytest.raises(ProtocolViolation, match="kind 2") as refused:
            learn(batch, KindTable())
        assert refused.value.code is Code.BAD_FRAME


def test_text_of_an_event_is_utf_8() -> None:
    assert Event(0, "", "größe".encode()).text == "größe"
    with pytest.raises(UnicodeDecodeError):
        _ = Event(0, "", b"\xff").text


def test_largest_event_fits_and_a_larger_one_does_not() -> None:
    largest = encode_batch(0, [bytes(MAX_EVENT)])
    assert len(largest.payload) == 262_144
    assert parse_batch(0, largest.payload, special=False) == largest
    with pytest.raises(UsageError, match="send it as a file"):
        encode_batch(0, [bytes(MAX_EVENT + 1)])


def test_event_above_the_limit_is_refused_in_a_payload_that_holds_it() -> None:
    size = MAX_EVENT + 1
    payload = b"\0\0\0\1" + size.to_bytes(4, "big") + bytes(size)
    with pytest.raises(ProtocolViolation, match="262137 bytes") as refused:
        parse_batch(0, payload, special=False)
    assert refused.value.code is Code.LIMIT_EXCEEDED


def test_large_batch_of_smaller_events_is_accepted() -> None:
    batch = encode_batch(0, [bytes(MAX_EVENT)] * 3)
    assert parse_batch(0, batch.payload, special=False) == batch


def test_batch_above_the_largest_payload_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=str(MAX_PAYLOAD)):
        encode_batch(0, [bytes(MAX_EVENT)] * 5)
    half = [bytes(MAX_EVENT)] * 3
    with pytest.raises(UsageError, match=str(MAX_PAYLOAD)):
        merge([encode_batch(0, half), encode_batch(3, half)])


def test_batch_has_at_least_one_entry() -> None:
    with pytest.raises(UsageError, match="at least one"):
        encode_batch(0, [])
    with pytest.raises(UsageError, match="at least one"):
        encode_batch(0, [], [])
    with pytest.raises(UsageError, match="at least one"):
        encode_entries(0, [])


@pytest.mark.parametrize("kind", [-1, 240, 253, 256])
def test_kinds_that_are_no_events_are_refused(kind: int) -> None:
    with pytest.raises(UsageError):
        encode_batch(0, [b"a", b"b"], [0, kind])
    with pytest.raises(UsageError):
        encode_entries(0, [(kind, b"a")])


@pytest.mark.parametrize(("number", "name"), [(0, "a"), (240, "a"), (1, ""), (1, "\n")])
def test_definition_of_what_cannot_be_a_kind_is_a_mistake(
    number: int, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        kind_definition(number, name)


@pytest.mark.parametrize("count", [0, -1, 2**64])
def test_gap_of_no_countable_events_is_a_mistake(count: int) -> None:
    with pytest.raises(UsageError, match="gap of"):
        gap_entry(count, GapReason.TRIMMED)


def test_events_from_an_id_on_leave_out_what_is_before() -> None:
    batch = encode_batch(10, [b"a", b"bb", b"", b"d"])
    for start in range(9, 16):
        found = batch.events(KindTable(), start)
        assert [event.id for event in found] == list(range(max(start, 10), 14))
        assert found == batch.events(KindTable())[max(start - 10, 0) :]
