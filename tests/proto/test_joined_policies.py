"""What slow consumers get, between two joined cores (SPEC.md §16)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackline.proto.batches import Event, Gap
from ackline.proto.entries import LeftOut
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import End, GapReason, Intent, OutcomeKind
from ackline.proto.resource import Resource, ResourceKind
from tests.proto.joined import MemoryClient, Pair, limits

if TYPE_CHECKING:
    from ackline.proto.stream import Stream
    from ackline.proto.values import Value

NAME = str(Resource.of(ResourceKind.SOURCES, "x"))
UNHELD = 2**64


class Reader:
    """A subscription whose consumer takes a batch when it is told to."""

    def __init__(
        self,
        policy: str,
        value: Value = None,
        *,
        linger: float = 0.0,
        max_units: int | None = 2,
        events: int = 10**6,
        client: MemoryClient | None = None,
    ) -> None:
        self.buffer = EventBuffer(
            generation=5, max_events=events, max_bytes=10**8, keep=True, define=True
        )
        self.buffer.floor = UNHELD  # nobody else reads it
        self.pair = Pair(client=client)
        self.pair.server.logs[NAME] = self.buffer
        self.pair.client.consume = False
        self.stream: Stream = self.pair.client.subscribe(
            NAME, policy, value, linger=linger, max_units=max_units
        )
        self.got: list[Event | Gap] = []
        self.produced: list[tuple[str, bytes]] = []
        self.pair.run()

    @property
    def receiver(self) -> EventReceiver:
        assert isinstance(self.stream.receiver, EventReceiver)
        return self.stream.receiver

    @property
    def sender(self) -> EventSender:
        sender = self.pair.s.streams[self.stream.id].sender
        assert isinstance(sender, EventSender)
        return sender

    @property
    def texts(self) -> list[str]:
        """What came: events as they are, gaps as count and first letter."""
        return [
            each.text
            if isinstance(each, Event)
            else f"{each.count}{each.reason.name[0].lower()}"
            for each in self.got
        ]

    def produce(self, *texts: str, kind: str = "") -> None:
        for text in texts:
            body = text.encode()
            self.produced.append((kind, body))
            self.buffer.append(body, self.buffer.define(kind) if kind else 0)
            _ = self.buffer.full  # trims, as for a producer that looks at it

    def take(self, batches: int = 1) -> None:
        """Have the consumer take what is there, then let everything come."""
        for _ in range(batches):
            batch = self.receiver.take()
            if batch is None:
                break
            self.got += batch.events(self.receiver.kinds)
            self.receiver.consumed_to(batch.next_id, len(batch.payload), stored=True)
        self.pair.run()

    def finish(self) -> None:
        """End the run and take all that is left."""
        self.buffer.finish(End(Intent.COMPLETED, 0, ""))
        self.stream.pause(paused=False)
        self.pair.run()
        while self.receiver.batches:
            self.take()
        if self.stream.id in self.pair.client.broken:
            return
        assert self.receiver.complete
        self.receiver.end_stored()
        self.pair.run()


def numbers(first: int, stop: int) -> list[str]:
    return [str(number) for number in range(first, stop)]


def test_latest_is_the_newest_when_there_is_room() -> None:
    reader = Reader("latest")
    reader.produce("0")
    reader.pair.run()
    reader.produce(*numbers(1, 100))
    reader.pair.run()
    reader.take()
    reader.produce(*numbers(100, 200))
    reader.pair.run()
    reader.take()
    reader.finish()
    # 0 was sent at once. With one unit left and a gap to tell, the next waited.
    assert reader.texts == ["0", "98d", "99", "99d", "199"]
    assert reader.receiver.left_out == LeftOut(dropped=197)
    assert reader.sender.left_out == LeftOut(dropped=197)


def test_drop_oldest_keeps_so_many() -> None:
    reader = Reader("drop-oldest", 3, max_units=4)
    reader.produce(*numbers(0, 10))
    reader.pair.run()
    reader.produce(*numbers(10, 20))
    reader.pair.run()
    reader.take()
    reader.finish()
    assert reader.texts == ["7d", "7", "8", "9", "7d", "17", "18", "19"]


def test_a_fast_consumer_misses_nothing_with_drop_oldest() -> None:
    reader = Reader("drop-oldest", 5, max_units=None)
    for number in range(100):
        reader.produce(str(number))
        reader.pair.run()
        reader.take()
    reader.finish()
    assert reader.texts == numbers(0, 100)


def test_sample_is_the_newest_each_time() -> None:
    reader = Reader("sample", 10.0, max_units=None)
    times: list[float] = []
    start = reader.pair.now
    for second in range(50):
        reader.produce(str(second))
        reader.pair.now = start + second
        reader.pair.s.handle_timeout(reader.pair.now)
        reader.pair.c.handle_timeout(reader.pair.now)
        while reader.pair.step():
            pass
        if reader.receiver.batches:
            times.append(reader.pair.now)
            reader.take()
    assert [late - early for early, late in pairwise(times)] == [10.0] * 4
    assert times[0] == start
    reader.finish()
    assert reader.texts[:4] == ["0", "9d", "10", "9d"]
    assert reader.texts[-1] == "49"  # what is last comes at once


def test_merge_keeps_the_newest_of_each_kind() -> None:
    reader = Reader("merge", max_units=None)
    reader.stream.pause(paused=True)
    reader.pair.run()
    reader.produce("a1", kind="a")
    reader.produce("b1", kind="b")
    reader.produce("plain1")
    reader.produce("a2", "a3", kind="a")
    reader.produce("c1", kind="c")
    reader.produce("plain2")
    reader.produce("a4", kind="a")
    reader.stream.pause(paused=False)
    reader.pair.run()
    reader.finish()
    assert reader.texts == ["1m", "b1", "3m", "c1", "plain2", "a4"]
    kinds = [each.kind for each in reader.got if isinstance(each, Event)]
    assert kinds == ["b", "c", "", "a"]


def test_merge_by_key_keeps_the_newest_group_of_each() -> None:
    reader = Reader("merge", "key", max_units=None)
    reader.stream.pause(paused=True)
    reader.pair.run()
    reader.produce("whose", "?")
    for key, values in (("x" * 99, "123"), ("y", "4"), ("x" * 99, "56"), ("z", "7")):
        reader.produce(key, kind="key")
        reader.produce(*values)
    reader.produce("y", kind="key")
    reader.stream.pause(paused=False)
    reader.pair.run()
    reader.produce("8")
    reader.produce("y", kind="key")
    reader.produce("9")
    reader.pair.run()
    reader.finish()
    assert reader.texts == [
        *("whose", "?"),
        *("6m", "x" * 99, "5", "6", "z", "7", "y", "1m", "y", "9"),
    ]


def test_what_is_left_of_a_group_is_superseded_too() -> None:
    reader = Reader("merge", "key", max_units=2)
    reader.produce("k", kind="key")
    reader.pair.run()
    reader.produce("1", "2", "3")
    reader.produce("k", kind="key")
    reader.produce("4")
    reader.pair.run()
    reader.finish()
    assert reader.texts == ["k", "3m", "k", "4"]


def test_what_is_trimmed_in_time_is_a_gap_whatever_was_agreed() -> None:
    reader = Reader("drop-oldest", 30, max_units=2, events=16)
    reader.produce(*numbers(0, 40))
    reader.pair.run()
    assert reader.buffer.first_id > 10
    reader.finish()
    gaps = reader.receiver.left_out
    assert reader.texts == [f"{gaps.trimmed}t", *numbers(gaps.trimmed, 40)]


@pytest.mark.parametrize("policy", ["latest", "merge"])
def test_a_stuck_consumer_is_not_told_of_one_gap_after_the_other(policy: str) -> None:
    """A window with room for the gap only stays as it is."""
    reader = Reader(policy, max_units=3)
    reader.produce("0", "1")
    for number in range(2, 50):
        reader.produce(str(number))
        reader.pair.run()
    sent = reader.sender.sent_position
    assert reader.receiver.position == sent < 10
    reader.finish()
    assert sum(isinstance(each, Gap) for each in reader.got) <= 3
    assert reader.texts[-1] == "49"


def test_a_gap_that_fits_no_frame_with_its_event_goes_before_it() -> None:
    client = MemoryClient(client_limits=limits(max_payload=8192))
    reader = Reader("latest", max_units=2, client=client)
    for number in range(5):
        reader.produce("a" * 8183 + str(number), "b" * 8183 + str(number))
        reader.pair.run()
        reader.take()
    reader.finish()
    events = [each for each in reader.got if isinstance(each, Event)]
    assert len(events) >= 3
    assert reader.got[-1] == Event(9, "", b"b" * 8183 + b"4")


def test_a_kind_is_known_when_its_first_event_was_left_out() -> None:
    reader = Reader("latest")
    reader.stream.pause(paused=True)
    reader.pair.run()
    reader.produce("1", kind="one")
    reader.produce("2", kind="two")
    reader.pair.reconnect()
    reader.pair.run()
    reader.produce("3", kind="three")
    reader.produce("1", kind="one")
    reader.stream.pause(paused=False)
    reader.pair.run()
    reader.finish()
    assert reader.got[-1] == Event(3, "one", b"1")
    assert reader.receiver.kinds.listed() == ("one", "two", "three")


def test_a_linger_gathers_what_follows_a_silence() -> None:
    reader = Reader("block", linger=1.0, max_units=None)
    reader.pair.now += 5.0
    start = reader.pair.now
    for number in range(10):
        reader.produce(str(number))
        reader.pair.step()
        reader.pair.now += 0.05
    assert reader.receiver.position == 0
    reader.pair.run()
    assert reader.pair.now == pytest.approx(start + 1.0, abs=0.06)
    assert len(reader.receiver.batches) == 1
    reader.take()
    reader.produce("last")
    reader.pair.step()
    reader.pair.step()
    assert not reader.receiver.batches
    reader.buffer.finish(End(Intent.COMPLETED, 0, ""))
    while reader.pair.step():  # after the end nothing waits
        pass
    assert reader.receiver.end is not None
    reader.finish()
    assert reader.texts == [*numbers(0, 10), "last"]


def test_the_sums_of_an_end_are_compared() -> None:
    reader = Reader("latest")
    reader.produce("0", "1")
    reader.pair.run()
    reader.receiver.received_units -= 1
    reader.finish()
    assert reader.pair.client.broken[reader.stream.id] == Code.SIZE_MISMATCH
    assert reader.stream.outcome is None


def test_a_resume_after_a_trim_is_unverified_and_goes_on() -> None:
    reader = Reader("latest", events=16)
    reader.produce("0")
    reader.pair.run()
    reader.take()
    reader.pair.drop()
    reader.produce(*numbers(1, 40))
    reader.pair.connect()
    reader.pair.run()
    assert reader.stream.id not in reader.pair.client.broken
    reader.finish()
    assert reader.texts == ["0", "38d", "39"]


KINDS = st.sampled_from(["", "a", "b", "key"])

Step: TypeAlias = Callable[[Reader], None]


def producing(events: list[tuple[str, str]]) -> Step:
    def step(reader: Reader) -> None:
        for kind, text in events:
            reader.produce(text, kind=kind)

    return step


def waiting(seconds: float) -> Step:
    def step(reader: Reader) -> None:
        pair = reader.pair
        pair.now += seconds
        pair.s.handle_timeout(pair.now)
        pair.c.handle_timeout(pair.now)

    return step


STEPS = st.one_of(
    st.lists(st.tuples(KINDS, st.sampled_from("xyz")), max_size=12).map(producing),
    st.integers(1, 3).map(lambda count: lambda reader: reader.take(count)),
    st.floats(0.01, 3.0).map(waiting),
    st.just(lambda reader: reader.pair.step()),
    st.just(lambda reader: reader.pair.reconnect()),
)

POLICIES = st.sampled_from(
    [
        ("block", None),
        ("latest", None),
        ("drop-oldest", 1),
        ("drop-oldest", 4),
        ("sample", 1.0),
        ("merge", None),
        ("merge", "key"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    policy=POLICIES,
    lingers=st.booleans(),
    units=st.sampled_from([2, 3, 5, None]),
    retained=st.sampled_from([8, 10**6]),
    steps=st.lists(STEPS, max_size=40),
)
def test_received_and_left_out_are_what_was_produced(
    policy: tuple[str, Value],
    lingers: bool,
    units: int | None,
    retained: int,
    steps: list[Step],
) -> None:
    name, value = policy
    if name == "block":
        retained = 10**6
    linger = 0.5 if lingers and name != "sample" else 0.0
    reader = Reader(name, value, linger=linger, max_units=units, events=retained)
    for step in steps:
        step(reader)
    reader.finish()
    assert reader.pair.client.broken == {}
    outcome = reader.pair.client.outcomes[reader.stream.id]
    assert outcome.outcome is OutcomeKind.COMPLETED
    check_order(reader)
    check_reasons(name, retained, reader)
    if name == "merge":
        check_merged(reader, value)


def check_order(reader: Reader) -> None:
    """Every id was there once, as it was produced or in a gap."""
    at = events = 0
    for each in reader.got:
        assert each.id == at
        if isinstance(each, Event):
            assert (each.kind, each.data) == reader.produced[at]
            events += 1
        at += 1 if isinstance(each, Event) else each.count
    end = reader.receiver.end
    assert end is not None
    assert at == len(reader.produced) == end.size
    assert events + reader.receiver.left_out.total == end.size
    assert reader.sender.left_out == reader.receiver.left_out


def check_reasons(name: str, retained: int, reader: Reader) -> None:
    """Nothing was left out for another reason, and the newest not at all."""
    if reader.produced:
        assert isinstance(reader.got[-1], Event)
    gaps = reader.receiver.left_out
    assert gaps.dropped == 0 or name in {"latest", "drop-oldest", "sample"}
    assert gaps.merged == 0 or name == "merge"
    assert gaps.trimmed == 0 or len(reader.produced) >= retained


def check_merged(reader: Reader, kind: Value) -> None:
    """What was merged was followed by a group with the same key."""
    keys: list[str | bytes] = []
    for each in reader.produced:
        if kind is None:
            keys.append(each[0])
        else:
            keys.append(each[1] if each[0] == kind else (keys or [""])[-1])
    begins = [kind is None or each[0] == kind for each in reader.produced]
    for gap in reader.got:
        if isinstance(gap, Gap) and gap.reason is GapReason.MERGED:
            for number in range(gap.id, gap.id + gap.count):
                later = range(number + 1, len(keys))
                assert any(begins[n] and keys[n] == keys[number] for n in later)
