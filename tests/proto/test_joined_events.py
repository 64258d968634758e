"""Publishing and subscribing between two joined cores (SPEC.md §11 to §15)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackline.proto.batches import Gap, encode_entries, gap_entry, kind_definition
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.frames import SPECIAL, FrameType, pack_header
from ackline.proto.lifecycle import State
from ackline.proto.messages import (
    End,
    GapReason,
    Intent,
    OutcomeKind,
    Scope,
)
from tests.proto.joined import MemoryClient, MemoryServer, Pair, limits


def feed(*, keep: bool = True, events: int = 10**6) -> EventBuffer:
    return EventBuffer(
        generation=5, max_events=events, max_bytes=10**8, keep=keep, define=True
    )


def joined(buffer: EventBuffer, *, piece: int = 2**20) -> Pair:
    pair = Pair(piece=piece)
    pair.server.logs["sources/x"] = buffer
    return pair


def completed(size: int) -> End:
    return End(Intent.COMPLETED, 0, "", size=size)


def test_a_subscription_gets_every_event_once_and_its_end() -> None:
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    for number in range(1000):
        buffer.append(b"%d" % number)
        if number % 7 == 0:
            pair.step()
    buffer.finish(completed(1000))
    pair.run()
    assert pair.client.events[stream.id] == [b"%d" % n for n in range(1000)]
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert stream.lifecycle.state is State.COMPLETED


def test_an_empty_event_stream_completes() -> None:
    buffer = feed()
    buffer.finish(completed(0))
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    pair.run()
    assert pair.client.events[stream.id] == []
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_single_event_is_not_held_back() -> None:
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    pair.run()
    buffer.append(b"token")
    pair.step()
    assert pair.client.events[stream.id] == [b"token"]


@settings(max_examples=100)
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 30), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    piece=st.sampled_from([1, 29, 1000]),
)
def test_no_cut_loses_repeats_or_reorders_an_event(
    plan: list[tuple[int, int, bool]], piece: int
) -> None:
    buffer = feed()
    pair = joined(buffer, piece=piece)
    stream = pair.client.subscribe("sources/x")
    sent = 0
    for events, steps, cut in plan:
        for _ in range(events):
            buffer.append(b"event %d" % sent)
            sent += 1
        for _ in range(steps):
            pair.step()
        if cut:
            pair.reconnect()
    buffer.finish(completed(sent))
    pair.run()
    assert pair.client.events[stream.id] == [b"event %d" % n for n in range(sent)]
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_resume_is_verified_by_proof() -> None:
    """SPEC.md §15."""
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    for number in range(100):
        buffer.append(b"%d" % number)
    pair.run()
    pair.reconnect()
    pair.run()
    assert stream.id not in pair.client.broken
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    proof = receiver.proof()
    assert proof is not None
    assert (proof.base, proof.position) == (0, 100)
    server_stream = next(iter(pair.server.sessions.values())).streams[stream.id]
    sender = server_stream.sender
    assert isinstance(sender, EventSender)
    assert sender.verify(proof) is True


def test_a_producer_that_holds_other_events_is_found_out() -> None:
    pair = joined(feed())
    first = pair.server.logs["sources/x"]
    stream = pair.client.subscribe("sources/x")
    first.append(b"one")
    pair.run()
    other = feed()
    other.append(b"two")
    session = next(iter(pair.server.sessions.values()))
    sender = session.streams[stream.id].sender
    assert isinstance(sender, EventSender)
    sender.feed = other
    pair.reconnect()
    pair.run()
    assert pair.client.broken[stream.id] == Code.PROOF_MISMATCH


def test_a_slow_consumer_stops_the_producer_and_memory_is_bounded() -> None:
    buffer = feed(events=1000)
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    pair.client.consume = False
    produced = 0
    for _ in range(200):
        while not buffer.full:
            buffer.append(b"x" * 10_000)
            produced += 1
        for _ in range(20):
            pair.step()
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    waiting = sum(len(batch.payload) for batch in receiver.batches)
    assert waiting <= 256 * 2**10
    assert produced <= 1000
    pair.client.consume = True
    pair.client.take(stream)
    pair.run()
    assert len(pair.client.events[stream.id]) == produced


def test_a_stalled_consumer_does_not_hold_its_neighbour() -> None:
    pair = Pair()
    slow, fast = feed(), feed()
    pair.server.logs.update({"sources/slow": slow, "sources/fast": fast})
    pair.client.consume = False
    stalled = pair.client.subscribe("sources/slow")
    for _ in range(2000):
        slow.append(b"x" * 10_000)
    pair.run()
    pair.client.consume = True
    stream = pair.client.subscribe("sources/fast")
    for _ in range(2000):
        fast.append(b"y" * 10_000)
    pair.run()
    assert len(pair.client.events[stream.id]) == 2000
    assert len(pair.client.events[stalled.id]) < 100


def test_a_publisher_resumes_without_loss_or_repeat() -> None:
    pair = Pair(piece=50)
    stream, buffer = pair.client.publish("logs/x", key="p")
    for number in range(300):
        buffer.append(b"line %d" % number)
        pair.step()
        if number % 40 == 39:
            pair.reconnect()
    assert isinstance(stream.sender, EventSender)
    stream.sender.finish(completed(300))
    pair.run()
    assert pair.server.published["logs/x"] == [b"line %d" % n for n in range(300)]
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert stream.sender.log_position == 300
    assert buffer.first_id == 300  # the replay buffer let go of what is stored


def test_kinds_added_later_are_told_in_the_stream() -> None:
    """SPEC.md §11: a definition comes before the first event that uses it."""
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    buffer.append(b"a")
    pair.run()
    buffer.append(b"b", buffer.define("token"))
    buffer.append(b"c", buffer.define("usage"))
    pair.run()
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    assert receiver.kinds.listed() == ("token", "usage")
    pair.reconnect()
    buffer.append(b"d", buffer.define("token"))
    pair.run()
    assert pair.client.events[stream.id] == [b"a", b"b", b"c", b"d"]


def test_a_gap_moves_the_position_and_begins_a_new_proof() -> None:
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    buffer.append(b"a")
    pair.run()
    batch = encode_entries(1, [(255, gap_entry(9, GapReason.DROPPED)), (0, b"k")])
    header = pack_header(
        FrameType.EVENTS, SPECIAL, 0, stream.id, 1, len(batch.payload), batch.crc
    )
    pair.to_client += header + batch.payload
    pair.step()
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    assert receiver.position == 11
    proof = receiver.proof()
    assert proof is not None
    assert (proof.base, proof.position, proof.bytes) == (10, 11, 1)


def test_events_can_be_told_from_gaps() -> None:
    batch = encode_entries(5, [(255, gap_entry(3, GapReason.MERGED)), (0, b"x")])
    pair = joined(feed())
    stream = pair.client.subscribe("sources/x")
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    found = batch.events(receiver.kinds)
    assert found[0] == Gap(5, 3, GapReason.MERGED)


def test_a_client_that_defines_kinds_breaks_the_protocol() -> None:
    pair = Pair()
    stream, _buffer = pair.client.publish("logs/x")
    pair.run()
    batch = encode_entries(0, [(254, kind_definition(1, "token")), (1, b"x")])
    header = pack_header(
        FrameType.EVENTS, SPECIAL, 0, stream.id, 0, len(batch.payload), batch.crc
    )
    pair.to_server += header + batch.payload
    pair.run()
    assert pair.s.closing


def test_cancelling_a_subscription_discards_what_is_on_its_way() -> None:
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    for _ in range(100_000):
        buffer.append(b"x" * 100)
    pair.step()
    pair.step()
    pair.c.cancel(stream, scope=Scope.STREAM)
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.CANCELLED
    assert stream.lifecycle.state is State.CANCELLED


def test_windows_of_one_unit_still_move_everything() -> None:
    tiny = limits(window_units=1, window_bytes=2**24)
    pair = Pair(
        MemoryServer(server_limits=tiny), MemoryClient(client_limits=tiny), piece=100
    )
    buffer = feed()
    pair.server.logs["sources/x"] = buffer
    stream = pair.client.subscribe("sources/x")
    published, out = pair.client.publish("logs/x", key="p")
    for number in range(200):
        buffer.append(b"%d" % number)
        out.append(b"%d" % number)
    pair.run()
    assert len(pair.client.events[stream.id]) == 200
    assert len(pair.server.published["logs/x"]) == 200
    assert published.sender is not None
    assert pair.c.stats.stalls_connection > 0


@pytest.mark.parametrize("size", [0, 1, 262_136])
def test_events_of_the_smallest_and_largest_size_arrive(size: int) -> None:
    buffer = feed()
    pair = joined(buffer)
    stream = pair.client.subscribe("sources/x")
    buffer.append(b"x" * size)
    buffer.finish(completed(1))
    pair.run()
    assert pair.client.events[stream.id] == [b"x" * size]


def test_2000_streams_share_a_connection() -> None:
    pair = Pair()
    buffers = {f"sources/{n}": feed() for n in range(2000)}
    pair.server.logs.update(buffers)
    streams = [pair.client.subscribe(name) for name in buffers]
    for number, buffer in enumerate(buffers.values()):
        buffer.append(b"%d" % number)
        buffer.finish(completed(1))
    pair.run()
    for number, stream in enumerate(streams):
        assert pair.client.events[stream.id] == [b"%d" % number]
        assert stream.id in pair.client.outcomes


def test_no_ack_goes_out_before_the_stream_is_opened() -> None:
    """SPEC.md §4: the server may take its time with OPENED."""
    pair = Pair()
    pair.run()
    pair.server.logs["sources/x"] = feed()
    stream = pair.client.subscribe("sources/x")
    stream.ack_due()
    pair._write(pair.c, pair.to_server)
    assert pair.c.stats.frames_sent[FrameType.ACK] == 0
    pair.run()
    assert stream.opened
    assert pair.c.stats.frames_sent[FrameType.ACK] == 1


def test_an_event_above_the_peers_frame_limit_fails_its_stream_only() -> None:
    """SPEC.md §11."""
    small = MemoryClient(client_limits=limits(max_payload=8192))
    pair = Pair(client=small)
    large, other = feed(), feed()
    pair.server.logs.update({"sources/large": large, "sources/other": other})
    stream = pair.client.subscribe("sources/large")
    neighbour = pair.client.subscribe("sources/other")
    large.append(b"fits")
    pair.run()
    large.append(b"x" * 10_000)
    other.append(b"y")
    pair.run()
    assert pair.client.events[stream.id] == [b"fits"]
    assert pair.client.outcomes[stream.id].code == Code.LIMIT_EXCEEDED
    assert pair.client.events[neighbour.id] == [b"y"]


def test_an_event_above_the_connection_window_fails_its_stream_too() -> None:
    small = MemoryClient(client_limits=limits(max_chunk_size=4096, window_bytes=4096))
    pair = Pair(client=small)
    pair.server.logs["sources/x"] = feed()
    stream = pair.client.subscribe("sources/x")
    pair.server.logs["sources/x"].append(b"x" * 5000)
    pair.run()
    assert pair.client.outcomes[stream.id].code == Code.LIMIT_EXCEEDED
