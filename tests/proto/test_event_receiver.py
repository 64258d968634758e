"""The receiving half of an event stream, at its edges (SPEC.md §11, §13)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.batches import Batch, encode_batch
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import FrameType
from ackline.proto.messages import End, Intent
from ackline.proto.proofs import NOTHING, ProofSum
from tests.proto.joined import Pair


def receiving() -> tuple[Pair, EventReceiver]:
    """Return the server's half of a publisher that sends nothing."""
    pair = Pair()
    pair.server.take_batches = False
    stream, _buffer = pair.client.publish("logs/x", key="p")
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, EventReceiver)
    return pair, receiver


def send(receiver: EventReceiver, first: int, count: int) -> Batch:
    batch = encode_batch(first, [b"%d" % n for n in range(first, first + count)])
    payload = memoryview(batch.payload)
    receiver.events(first, payload, batch.crc, special=False)
    return batch


def taken(receiver: EventReceiver) -> list[bytes]:
    found: list[bytes] = []
    while (batch := receiver.take()) is not None:
        found += [event.data for event in batch.events(receiver.kinds)]  # type: ignore[union-attr]
        receiver.consumed_to(batch.next_id, len(batch.payload))
    return found


def test_events_that_came_before_are_left_out() -> None:
    pair, receiver = receiving()
    send(receiver, 0, 5)
    send(receiver, 1, 3)
    assert receiver.duplicates == 3
    send(receiver, 3, 4)
    assert receiver.duplicates == 5
    assert taken(receiver) == [b"%d" % n for n in range(7)]
    proof = receiver.proof()
    assert proof is not None
    assert (proof.position, proof.bytes) == (7, 7)
    pair.drop()
    assert pair.server.budget.used == 0


@given(parts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), max_size=25))
def test_a_proof_is_over_all_events_however_they_came(
    parts: list[tuple[int, int]],
) -> None:
    _pair, receiver = receiving()
    sums, position = NOTHING, 0
    for how, size in parts:
        bodies = [bytes([position % 256]) * size] * (2 if how == 0 else 1)
        batch = encode_batch(position, bodies)
        receiver.events(position, batch.payload, batch.crc, special=False)
        sums = sums.extended(batch.columns(), batch.bodies())
        position += len(bodies)
        if how == 1:  # a proof in the middle changes none that follows
            assert receiver.proof() == sums.proof(0, position)
    assert receiver.proof() == (sums.proof(0, position) if position else None)


def test_a_hole_is_bad() -> None:
    _pair, receiver = receiving()
    send(receiver, 0, 5)
    with pytest.raises(ProtocolViolation, match="event 6 came") as found:
        send(receiver, 6, 1)
    assert found.value.code is Code.BAD_FRAME


def test_events_after_the_end_are_bad_unless_they_came_before() -> None:
    _pair, receiver = receiving()
    send(receiver, 0, 5)
    assert receiver.end_received(5, End(Intent.COMPLETED, 0, "", size=5))
    send(receiver, 3, 2)
    with pytest.raises(ProtocolViolation, match="after END"):
        send(receiver, 5, 1)


def test_an_end_that_comes_again_is_a_duplicate() -> None:
    _pair, receiver = receiving()
    end = End(Intent.COMPLETED, 0, "")
    assert receiver.end_received(0, end)
    assert not receiver.end_received(0, end)
    assert (receiver.duplicates, receiver.stored) == (1, 0)
    receiver.end_stored()
    assert not receiver.end_received(0, end)
    assert (receiver.duplicates, receiver.stored) == (2, 1)


def test_after_a_rewind_what_was_on_its_way_is_left_out() -> None:
    pair, receiver = receiving()
    send(receiver, 0, 5)
    receiver.refused(2, code=Code.OVERLOADED, retry_after=0.0)
    send(receiver, 5, 5)
    assert receiver.position == 2
    send(receiver, 2, 3)
    send(receiver, 5, 1)
    assert taken(receiver) == [b"2", b"3", b"4", b"5"]
    assert receiver.proof() is None
    pair.drop()
    assert pair.server.budget.used == 0


def test_what_was_used_may_be_stored_by_that() -> None:
    _pair, receiver = receiving()
    batch = send(receiver, 0, 3)
    assert receiver.take() is not None
    receiver.consumed_to(2, 0, stored=True)
    assert (receiver.consumed, receiver.stored) == (2, 2)
    receiver.consumed_to(1, 0, stored=True)
    assert receiver.stored == 2
    receiver.consumed_to(3, len(batch.payload))
    assert (receiver.consumed, receiver.stored) == (3, 2)


def test_who_has_used_a_batch_knows_whether_anything_follows() -> None:
    _pair, receiver = receiving()
    send(receiver, 0, 1)
    send(receiver, 1, 1)
    assert receiver.next_events(stored=True) is not None
    assert not receiver.used(stored=True)
    assert (receiver.consumed, receiver.stored) == (1, 1)
    assert receiver.next_events(stored=True) is not None
    assert receiver.used(stored=True)
    assert (receiver.consumed, receiver.stored) == (2, 2)
    send(receiver, 2, 1)
    assert receiver.next_events(stored=True) is not None
    receiver.end_received(3, End(Intent.COMPLETED, 0, ""))
    assert not receiver.used(stored=True)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    ("bound", "acks"),
    [
        ((0, 0), []),
        ((1, 0), list(range(100))),
        ((40, 0), [19, 39, 59, 79, 99]),
        ((0, 400), [16, 33, 50, 67, 84]),
        ((30, 400), [14, 29, 44, 59, 74, 89]),
    ],
)
def test_who_is_waited_for_acknowledges_at_half(
    by_hand: bool, bound: tuple[int, int], acks: list[int]
) -> None:
    """SPEC.md §13: else a run stands still until the ACK that may wait is sent."""
    pair, receiver = receiving()
    receiver.lazy = True
    receiver.waited_for(*bound)
    stats, sent = pair.s.stats, []
    for at in range(100):
        before = stats.frames_sent[FrameType.ACK]
        batch = encode_batch(at, [b"four"])
        receiver.events(at, batch.payload, batch.crc, special=False)
        assert receiver.take() is not None
        receiver.consumed_to(at + 1, len(batch.payload), stored=not by_hand)
        if by_hand:
            receiver.stored_to(at + 1)
        while pair.s.data_to_send(pair.now):
            pass
        if stats.frames_sent[FrameType.ACK] > before:
            sent.append(at)
    assert sent == acks


def test_a_stored_position_does_not_go_back() -> None:
    _pair, receiver = receiving()
    send(receiver, 0, 5)
    receiver.stored_to(4, log_position=104)
    receiver.stored_to(3, log_position=200)
    assert (receiver.stored, receiver.log_position) == (4, 104)


@pytest.mark.parametrize("known", [False, True])
def test_a_publisher_that_was_there_goes_on_at_its_position(known: bool) -> None:
    pair, receiver = receiving()
    sums = ProofSum(3, 4, 5) if known else None
    receiver.restore(7, sums=sums, log_position=107)
    assert receiver.position == receiver.stored == receiver.consumed == 7
    assert receiver.log_position == 107
    proof = receiver.proof()
    assert (proof is not None) == known
    if proof is not None:
        assert (proof.base, proof.position, proof.bytes) == (0, 7, 3)
    send(receiver, 7, 1)
    assert taken(receiver) == [b"7"]
    assert pair.s.streams != {}


def test_early_events_below_the_position_are_left_out() -> None:
    pair = Pair()
    pair.server.hold_opens = True
    pair.server.take_batches = False
    stream, buffer = pair.client.publish("logs/x")
    for number in range(6):
        buffer.append(b"%d" % number)
        pair.step()
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, EventReceiver)
    assert receiver.position == 6
    assert not receiver.batches
    receiver.restore(4, sums=ProofSum(4, 0, 0))
    assert taken(receiver) == [b"4", b"5"]
    proof = receiver.proof()
    assert proof is not None
    assert (proof.position, proof.bytes) == (6, 6)


def test_early_events_of_an_unknown_beginning_are_not_proven() -> None:
    pair = Pair()
    pair.server.hold_opens = True
    pair.server.take_batches = False
    stream, buffer = pair.client.publish("logs/x")
    for number in range(6):
        buffer.append(b"%d" % number)
        pair.step()
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, EventReceiver)
    receiver.restore(4)
    assert taken(receiver) == [b"4", b"5"]
    assert receiver.proof() is None


def test_the_first_window_is_waited_for_and_more_is_not() -> None:
    pair, receiver = receiving()
    budget = pair.server.budget
    budget.limit = budget.used + 10_000
    receiver._window *= 2
    receiver._top_up()
    assert receiver._promised == 16 * 2**10
    assert budget.waiting == 0
    receiver.detach()
    budget.limit = 100_000
    receiver.attach()
    assert receiver._promised == 0
    assert budget.waiting == 1
