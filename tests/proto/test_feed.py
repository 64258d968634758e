"""Events in memory, for those who read them at their own positions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.batches import Event
from ackline.proto.feed import BATCH_BYTES, SMALL_BATCH, EventBuffer
from ackline.proto.messages import End, Intent
from ackline.proto.proofs import NOTHING, ProofSum


def feed(
    *,
    events: int = 1000,
    size: int = 10**6,
    keep: bool = False,
    start: int = 0,
    sums: ProofSum | None = None,
    define: bool = False,
) -> EventBuffer:
    return EventBuffer(
        generation=1,
        max_events=events,
        max_bytes=size,
        keep=keep,
        start=start,
        sums=sums,
        define=define,
    )


def filled(count: int, *, start: int = 0, sums: ProofSum | None = None) -> EventBuffer:
    buffer = feed(start=start, sums=sums)
    for number in range(start, start + count):
        buffer.append(b"%d" % number)
    return buffer


def read(buffer: EventBuffer, position: int) -> list[bytes]:
    """Return all events from a position on."""
    found: list[bytes] = []
    while (batch := buffer.next_batch(position)) is not None:
        for event in batch.events(buffer.kinds, position):
            assert isinstance(event, Event)
            found.append(event.data)
        position = batch.next_id
    return found


@given(
    bodies=st.lists(st.binary(max_size=2000), max_size=60),
    reads=st.sets(st.integers(0, 60)),
    position=st.integers(0, 60),
)
def test_every_reader_gets_all_from_its_position_on(
    bodies: list[bytes], reads: set[int], position: int
) -> None:
    buffer = feed()
    for number, body in enumerate(bodies):
        if number in reads:
            buffer.next_batch(number)  # seals what is there
        buffer.append(body)
    assert read(buffer, position) == bodies[position:]
    assert buffer.next_id == len(bodies)


def test_a_batch_is_no_larger_than_it_may_be() -> None:
    buffer = feed()
    for _ in range(50):
        buffer.append(b"x" * 5000)
    for _ in range(30_000):
        buffer.append(b"")
    position = 0
    while (batch := buffer.next_batch(position)) is not None:
        assert len(batch.payload) <= BATCH_BYTES * 3 // 2
        position = batch.next_id
    assert position == 30_050


def test_small_neighbours_are_merged_for_a_reader_that_is_behind() -> None:
    buffer = feed()
    for number in range(40):
        buffer.append(b"x" * (SMALL_BATCH // 8))
        buffer.next_batch(number)
    batch = buffer.next_batch(0)
    assert batch is not None
    assert batch.count == 40
    for number in range(40, 300):
        buffer.append(b"x" * (SMALL_BATCH // 8))
        buffer.next_batch(number)
    batch = buffer.next_batch(0)
    assert batch is not None
    assert BATCH_BYTES // 2 < len(batch.payload) <= BATCH_BYTES


def test_what_a_producer_puts_into_the_tail_itself_is_counted_and_read() -> None:
    buffer = feed(events=6, size=100)
    assert buffer.room() == (6, 100)
    tail = buffer.tail
    tail += [b"0", b"11"]
    assert (buffer.next_id, buffer.retained_bytes) == (2, 11)
    buffer.append(b"222", buffer.define("kind"))
    tail.append(b"3333")
    assert buffer.room() == (2, 74)
    batch = buffer.next_batch(0)
    assert batch is not None
    assert batch.events(buffer.kinds) == [
        Event(0, "", b"0"),
        Event(1, "", b"11"),
        Event(2, "kind", b"222"),
        Event(3, "", b"3333"),
    ]
    assert buffer.next_batch(4) is None
    assert buffer.idle
    woken: list[int] = []
    buffer.watch(lambda: woken.append(1))
    tail += [b"4", b""]
    buffer.wake()
    assert (woken, buffer.idle, buffer.full) == ([1], False, True)
    assert read(buffer, 3) == [b"3333", b"4", b""]
    buffer.set_floor(6)
    assert buffer.room() == (6, 100)


def test_kinds_stay_with_their_events_over_several_batches() -> None:
    buffer = feed(events=10**6)
    kinds = [buffer.define(str(number)) for number in range(3)]
    for number in range(40):
        buffer.append(b"x" * 5000, kinds[number % 3] if number % 4 else 0)
    found: list[str] = []
    while (batch := buffer.next_batch(len(found))) is not None:
        for event in batch.events(buffer.kinds):
            assert isinstance(event, Event)
            found.append(event.kind)
    assert found == [str(n % 3) if n % 4 else "" for n in range(40)]


def test_watchers_are_called_when_there_is_something_after_nothing() -> None:
    buffer = feed()
    called: list[str] = []
    buffer.watch(lambda: called.append("first"))
    buffer.append(b"nobody waits yet")
    assert called == []
    assert read(buffer, 0) != []
    buffer.append(b"one")
    buffer.append(b"two")
    assert called == ["first"]


def test_a_reader_that_got_all_in_one_merged_batch_is_woken() -> None:
    """It does not ask in vain before it waits."""
    buffer = EventBuffer(generation=1, max_events=100, max_bytes=10**6, keep=True)
    for position in range(3):
        buffer.append(b"small")
        assert buffer.next_batch(position)  # another reader's, which has each at once
    woken: list[int] = []
    buffer.watch(lambda: woken.append(buffer.next_id))
    buffer.append(b"for the other reader")
    buffer.append(b"and more")
    assert buffer.next_batch(3)
    buffer.wake()
    woken.clear()
    batch = buffer.next_batch(0)
    assert batch is not None
    assert batch.next_id == buffer.next_id
    buffer.append(b"new")
    assert woken == [buffer.next_id]


def test_who_wants_only_what_comes_next_gets_nothing_before() -> None:
    buffer = filled(3)
    called: list[int] = []
    buffer.watch(lambda: called.append(1))
    assert buffer.next_batch(3) is None
    buffer.append(b"3")
    assert called == [1]
    assert read(buffer, 3) == [b"3"]


def test_who_has_left_is_not_called() -> None:
    buffer = feed()
    called: list[str] = []

    def wake() -> None:
        called.append("left")

    buffer.watch(wake)
    buffer.unwatch(wake)
    buffer.unwatch(wake)
    buffer.finish(End(Intent.COMPLETED, 0, ""))
    assert called == []


def test_the_first_end_stays() -> None:
    buffer = feed()
    called: list[int] = []
    buffer.watch(lambda: called.append(1))
    buffer.finish(End(Intent.FAILED, 5, "first"))
    buffer.finish(End(Intent.COMPLETED, 0, "second"))
    assert buffer.end == End(Intent.FAILED, 5, "first")
    assert called == [1]


def test_a_buffer_is_full_by_events_or_bytes_until_the_floor_rises() -> None:
    by_events, by_bytes = feed(events=3), feed(size=30)
    for buffer in (by_events, by_bytes):
        for _ in range(2):
            buffer.append(b"123456")
        assert not buffer.full
        buffer.append(b"123456")
        assert buffer.full
        read(buffer, 0)
        buffer.set_floor(3)
        assert not buffer.full
        assert (buffer.first_id, buffer.retained_bytes) == (3, 0)
        assert buffer.next_batch(0) is None


def test_only_whole_batches_are_let_go() -> None:
    buffer = filled(10)
    read(buffer, 0)
    buffer.set_floor(5)
    assert buffer.first_id == 0
    assert read(buffer, 5) == [b"5", b"6", b"7", b"8", b"9"]


def test_the_floor_does_not_sink() -> None:
    buffer = filled(3)
    read(buffer, 0)
    buffer.set_floor(3)
    buffer.set_floor(1)
    assert buffer.floor == 3


def test_what_is_kept_for_late_readers_goes_when_there_is_no_room() -> None:
    buffer = feed(events=4, keep=True)
    for number in range(4):
        buffer.append(b"%d" % number)
        buffer.next_batch(number)
    buffer.set_floor(4)
    assert buffer.first_id == 0
    assert not buffer.full
    assert buffer.first_id == 1
    assert read(buffer, 1) == [b"1", b"2", b"3"]


def test_batches_stay_as_large_as_they_are_in_a_buffer_that_is_always_full() -> None:
    # Each would fit only where one before it was, and after a while each be of one
    # event, if no more room were made than is needed.
    buffer = feed(events=1600, keep=True)
    counts: list[int] = []
    for _ in range(1000):
        events, _size = buffer.room()
        buffer.tail.extend([b"x"] * min(events, 50 - len(counts) % 7))
        batch = buffer.next_batch(buffer.next_id - 1)
        assert batch is not None
        counts.append(batch.count)
        buffer.set_floor(buffer.next_id)
    assert buffer.next_id - buffer.first_id > 1400
    events, _size = buffer.room()
    assert events >= 100


def test_a_producer_that_waits_is_called_once_when_the_floor_rises() -> None:
    buffer = filled(3)
    called: list[int] = []
    buffer.on_room(lambda: called.append(1))
    buffer.set_floor(0)
    assert called == []
    buffer.set_floor(1)
    buffer.set_floor(2)
    assert called == [1]


def test_a_kind_is_told_to_readers_only_if_they_cannot_know_it() -> None:
    silent, telling = feed(), feed(define=True)
    for buffer in (silent, telling):
        buffer.append(b"before")
        number = buffer.define("token")
        assert number == buffer.define("token") == 1
        buffer.append(b"after", number)
        batch = buffer.next_batch(1)
        assert batch is not None
        assert batch.special == (buffer is telling)
        assert read(buffer, 0) == [b"before", b"after"]


def test_kinds_that_come_late_do_not_change_those_before() -> None:
    buffer = feed()
    buffer.append(b"a")
    buffer.append(b"b", buffer.define("late"))
    buffer.append(b"c")
    batch = buffer.next_batch(0)
    assert batch is not None
    kinds = [event.kind for event in batch.events(buffer.kinds)]  # type: ignore[union-attr]
    assert kinds == ["", "late", ""]


@given(
    bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=30),
    seals=st.sets(st.integers(0, 30)),
    floor=st.integers(0, 30),
)
def test_sums_are_over_everything_before_whatever_was_let_go(
    bodies: list[bytes], seals: set[int], floor: int
) -> None:
    buffer = feed()
    expected = [NOTHING]
    for number, body in enumerate(bodies):
        buffer.append(body)
        word = len(body).to_bytes(4, "big")
        expected.append(expected[-1].extended(word, body))
        if number in seals:
            buffer.next_batch(number)
    buffer.next_batch(0)
    buffer.set_floor(min(floor, len(bodies)))
    for position, sums in enumerate(expected):
        known = buffer.sum_at(position)
        assert known == (sums if position >= buffer.first_id else None)
    assert buffer.sum_at(len(bodies) + 1) is None


def test_sums_are_not_known_where_the_beginning_is_not() -> None:
    buffer = filled(3, start=7)
    assert buffer.sum_at(7) is None
    assert buffer.sum_at(9) is None
    read(buffer, 7)
    buffer.set_floor(10)
    assert buffer.sum_at(10) is None


def test_an_empty_buffer_knows_the_sums_it_was_given() -> None:
    sums = ProofSum(5, 6, 7)
    late = feed(start=7)
    assert late.sum_at(7) is None
    late.know(sums)
    assert late.sum_at(7) == sums
    late.know(ProofSum(1, 1, 1))
    assert late.sum_at(7) == feed(start=7, sums=sums).sum_at(7) == sums


def test_sums_that_come_after_the_first_event_are_too_late() -> None:
    buffer = filled(2, start=7)
    buffer.know(ProofSum(5, 6, 7))
    assert buffer.sum_at(7) is None


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    keep=st.booleans(),
    looks=st.booleans(),
)
def test_what_nobody_holds_never_stops_a_producer_and_keeps_the_newest(
    sizes: list[int], keep: bool, looks: bool
) -> None:
    buffer = feed(events=16, keep=keep, define=True)
    buffer.floor = 2**64
    sums = [NOTHING]
    for number, size in enumerate(sizes):
        kind = buffer.define(f"kind {number}")
        for _ in range(size):
            body = b"%d" % buffer.next_id
            buffer.append(body, kind)
            entry = (kind << 24 | len(body)).to_bytes(4, "big")
            sums.append(sums[-1].extended(entry, body))
            assert not buffer.full
        if looks:
            buffer.next_batch(buffer.first_id)
            assert buffer.room()[0] > 0
    first = buffer.first_id
    assert first < buffer.next_id
    assert read(buffer, first) == [b"%d" % n for n in range(first, buffer.next_id)]
    for position in range(first, buffer.next_id + 1):
        assert buffer.sum_at(position) == sums[position]
    cost = sum(4 + len(b"%d" % n) for n in range(first, buffer.next_id))
    assert cost <= buffer.retained_bytes <= cost + 20 * len(sizes)


def test_a_single_event_that_is_too_large_for_others_goes() -> None:
    buffer = feed(size=100)
    buffer.floor = 2**64
    buffer.append(b"x" * 50)
    assert not buffer.full
    buffer.append(b"y" * 200)
    assert not buffer.full
    assert buffer.first_id == buffer.next_id == 2
