"""What receivers promise and hold, between two joined cores (SPEC.md §12)."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import End, Intent, OutcomeKind, Scope
from ackline.proto.windows import STUCK, Budget
from tests.proto.joined import MemoryServer, Pair, limits

KIB = 2**10


def feed() -> EventBuffer:
    return EventBuffer(generation=5, max_events=10**6, max_bytes=10**8, keep=True)


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def completed(size: int) -> End:
    return End(Intent.COMPLETED, 0, "", size=size)


def test_a_stalled_consumer_holds_one_window_however_often_the_link_dies() -> None:
    buffer = feed()
    pair = Pair()
    pair.server.logs["sources/x"] = buffer
    pair.client.consume = False
    stream = pair.client.subscribe("sources/x")
    for _ in range(500):
        buffer.append(b"x" * 10_000)
    for _ in range(10):
        pair.run()
        pair.reconnect()
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    assert sum(len(batch.payload) for batch in receiver.batches) <= 256 * KIB
    assert pair.client.budget.used <= 256 * KIB
    pair.client.consume = True
    pair.client.take(stream)
    pair.run()
    assert len(pair.client.events[stream.id]) == 500


def test_tiny_events_do_not_use_up_the_window_in_units() -> None:
    """Units were given back by bytes, and five bytes an event earned no unit."""
    buffer = feed()
    pair = Pair()
    pair.server.logs["sources/x"] = buffer
    stream = pair.client.subscribe("sources/x")
    for _ in range(60_000):
        buffer.append(b"")
    buffer.finish(completed(60_000))
    pair.run(steps=300)
    assert len(pair.client.events[stream.id]) == 60_000
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_publisher_of_tiny_events_keeps_its_window_too() -> None:
    pair = Pair()
    stream, buffer = pair.client.publish("logs/x", key="p")
    for _ in range(9_000):
        buffer.append(b"")
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, EventReceiver)
    grant = receiver.grant
    assert grant.limit_units - grant.units == receiver._window_units >= 4096


def test_a_budget_below_the_largest_window_serves_all_in_turn() -> None:
    pair = Pair()
    pair.client.budget = Budget(600 * KIB)
    buffers = {f"sources/{number}": feed() for number in range(6)}
    pair.server.logs.update(buffers)
    streams = [pair.client.subscribe(name) for name in buffers]
    for buffer in buffers.values():
        for _ in range(300):
            buffer.append(b"x" * 10_000)
        buffer.finish(completed(300))
    pair.run()
    for stream in streams:
        assert len(pair.client.events[stream.id]) == 300
    assert pair.client.budget.used == 0
    assert pair.client.budget.waiting == 0


@given(
    st.lists(
        st.lists(
            st.sampled_from([1, 12_000, 60_000, 200_000, 255_000, 262_136]), max_size=6
        ),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=40)
def test_rests_of_windows_never_lock_publishers_up(sizes: list[list[int]]) -> None:
    """Each keeps a rest that its next event does not fit, and none gives it back."""
    pair = Pair(MemoryServer(budget=300_000))
    streams = []
    for number, events in enumerate(sizes):
        stream, buffer = pair.client.publish(f"logs/{number}", key=f"p{number}")
        streams.append(stream)
        for size in events:
            buffer.append(bytes(size))
            pair.step()
        buffer.finish(completed(len(events)))
    pair.run(patience=STUCK)
    for stream in streams:
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.budget.used == 0


def test_windows_of_early_data_never_lock_publishers_up() -> None:
    """Windows are begun only where the rest of one would fit beside them."""
    server = MemoryServer(
        server_limits=limits(initial_units=8, initial_bytes=10_000), budget=300_000
    )
    pair = Pair(server)
    streams = []
    for number in range(12):
        stream, buffer = pair.client.publish(f"logs/{number}")
        streams.append(stream)
        buffer.append(bytes(200_000))
        buffer.finish(completed(1))
    pair.run(patience=STUCK)
    taken = [s for s in streams if s.id not in pair.client.refusals]
    assert 0 < len(taken) < len(streams)
    assert set(pair.client.refusals.values()) == {Code.OVERLOADED}
    for stream in taken:
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.budget.used == 0


def test_a_stream_that_ends_while_it_waits_for_memory_leaves_the_queue() -> None:
    pair = Pair(MemoryServer(budget=4096))
    pair.server.hold_stores = True
    first = pair.client.upload(content(4096), chunk_size=4096)
    second = pair.client.upload(content(4096), chunk_size=4096)
    third = pair.client.upload(content(4096), chunk_size=4096)
    pair.run()
    assert pair.server.budget.waiting == 2
    pair.c.cancel(second, scope=Scope.STREAM)
    pair.run()
    assert pair.server.budget.waiting == 1
    pair.c.release(third)
    pair.run()
    assert pair.server.budget.waiting == 0
    pair.server.hold_stores = False
    pair.server.release_stores()
    pair.run()
    assert pair.client.outcomes[first.id].outcome is OutcomeKind.COMPLETED
    assert pair.client.outcomes[second.id].outcome is OutcomeKind.CANCELLED
    assert pair.server.budget.used == 0


def test_a_stream_that_waits_for_memory_over_a_reconnect_is_served_after_it() -> None:
    pair = Pair(MemoryServer(budget=4096))
    pair.server.hold_stores = True
    first = pair.client.upload(content(4096), chunk_size=4096, key="a")
    second = pair.client.upload(content(4096), chunk_size=4096, key="b")
    pair.run()
    pair.drop()
    assert pair.server.budget.waiting == 0
    assert pair.server.budget.used == 4096  # the chunk on its way to the disk
    pair.server.hold_stores = False
    pair.server.release_stores()
    assert pair.server.budget.used == 0
    pair.connect()
    pair.run()
    for stream in (first, second):
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.budget.used == 0


def test_a_chunk_as_large_as_the_connection_window_fits_after_a_small_one() -> None:
    """SPEC.md §12: both windows hold at least one chunk, whatever came before."""
    small = limits(max_chunk_size=4096, window_bytes=4096)
    pair = Pair(MemoryServer(server_limits=small))
    # 64 KiB may be sent before WELCOME; the window proper begins behind them.
    for size in (15 * 4096 + 100, 4096):
        stream = pair.client.upload(content(size), chunk_size=4096)
        pair.run()
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_parked_part_of_a_chunk_counts_until_it_is_on_disk() -> None:
    pair = Pair(piece=500)
    pair.client.upload(content(50_000), chunk_size=50_000, key="a")
    for _ in range(40):
        pair.step()
    stream = pair.s.streams[1]
    assert stream.receiver is not None
    pair.drop()
    assert pair.server.budget.used == 0
    pair.connect()
    pair.run()
    assert pair.server.budget.used == 0
    assert pair.server.uploads["a"].data() == content(50_000)


def test_early_events_are_part_of_the_proof() -> None:
    """SPEC.md §15: what came before OPENED is data like any other."""
    pair = Pair()
    pair.server.hold_opens = True
    stream, buffer = pair.client.publish("logs/x")
    buffer.append(b"before OPENED")
    pair.run()
    pair.server.hold_opens = False
    pair.server.release_opens()
    pair.run()
    pair.reconnect()
    buffer.append(b"after the reconnect")
    pair.run()
    assert stream.id not in pair.client.broken
    assert pair.server.published["logs/x"] == [
        b"before OPENED",
        b"after the reconnect",
    ]


def test_early_data_beyond_the_memory_for_windows_is_refused_for_now() -> None:
    pair = Pair(MemoryServer(budget=100_000))
    pair.run()
    streams = [pair.client.upload(b"x" * 2000, early=True) for _ in range(2)]
    pair.step()
    pair.step()
    assert pair.client.refusals == {streams[1].id: Code.OVERLOADED}
    pair.run()
    assert pair.client.outcomes[streams[0].id].outcome is OutcomeKind.COMPLETED
    assert pair.server.budget.used == 0


def test_a_window_that_has_grown_beyond_the_budget_begins_small_again() -> None:
    pair = Pair(MemoryServer(budget=300_000))
    stream, buffer = pair.client.publish("logs/x", key="p")
    for _ in range(5):
        buffer.append(b"x" * 40_000)
    pair.run()
    pair.reconnect()
    for _ in range(5):
        buffer.append(b"x" * 40_000)
    pair.run()
    assert stream.sender is not None
    assert stream.sender.stored == 10
