"""Control frames that wait: state, not a queue (SPEC.md §21)."""

from __future__ import annotations

from math import inf

from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import FrameType, decode_frame, encode_frame
from ackline.proto.messages import (
    Credit,
    Durability,
    Open,
    Outcome,
    OutcomeKind,
    Pause,
    Start,
    SubscribeDetail,
    Use,
    decode,
    encode,
    raw,
)
from ackline.proto.outbox import ACK_DELAY, ACK_PAUSE, ACKS_AT_ONCE, Outbox, count_sent
from ackline.proto.stats import Stats
from ackline.proto.stream import Stream
from ackline.proto.windows import Budget, Grant


def stream(number: int = 1) -> Stream:
    message = Open(Use.SUBSCRIBE, "logs/x", "", 0, 0, raw(SubscribeDetail(Start.FIRST)))
    made = Stream(number, message, notify=lambda _notice: None)
    made.receiver = EventReceiver(
        made, budget=Budget(10**6), durability=Durability.MEMORY
    )
    made.outcome = Outcome(OutcomeKind.COMPLETED, 0, "", 9, 0.0)
    return made


def kinds(outbox: Outbox, *, streams: bool = True) -> list[tuple[int, int]]:
    """Return type and stream of all frames that are written now."""
    found = []
    for part in outbox.frames(streams=streams):
        frame = decode_frame(part)
        assert frame is not None
        found.append((frame[0].type, frame[0].stream_id))
    return found


def test_everything_is_written_once_and_in_order() -> None:
    outbox = Outbox(Grant(5, 50))
    one = stream()
    outbox.outcome(one)
    outbox.ack(one)
    outbox.pause(one, "")
    outbox.pong = encode_frame(FrameType.PONG)
    outbox.credit_due = True
    outbox.add(encode_frame(FrameType.CONFIRM))
    assert kinds(outbox) == [
        (FrameType.CONFIRM, 0),
        (FrameType.CREDIT, 0),
        (FrameType.PONG, 0),
        (FrameType.PAUSE, 1),
        (FrameType.ACK, 1),
        (FrameType.OUTCOME, 1),
    ]
    assert kinds(outbox) == []


def test_a_later_state_replaces_an_earlier_one() -> None:
    grant = Grant(5, 50)
    outbox, one = Outbox(grant), stream()
    for paused in (True, False, True):
        one.paused_here = paused
        outbox.pause(one, "why")
        outbox.ack(one)
        outbox.credit_due = True
    grant.limit_units = 7
    credit, pause, _ack = outbox.frames(streams=True)
    assert decode(Credit, credit[24:]) == Credit(7, 50)
    assert decode(Pause, pause[24:]) == Pause(paused=True, text="why")


def test_what_is_about_streams_waits_until_the_peer_knows_them() -> None:
    outbox, one = Outbox(Grant()), stream()
    outbox.ack(one)
    outbox.pause(one, "")
    outbox.add(encode_frame(FrameType.CONFIRM))
    assert kinds(outbox, streams=False) == [(FrameType.CONFIRM, 0)]
    assert kinds(outbox) == [(FrameType.PAUSE, 1), (FrameType.ACK, 1)]


def test_an_ack_that_may_wait_waits_so_long_and_no_longer() -> None:
    outbox, one, two = Outbox(Grant()), stream(1), stream(2)
    assert outbox.due() == inf
    assert outbox.ack_soon(one, 100.0)
    assert not outbox.ack_soon(two, 100.01)
    assert abs(outbox.due() - 100.0 - ACK_DELAY) <= ACK_DELAY / 4
    assert not outbox.ripen(outbox.due() - 0.001)
    assert kinds(outbox) == []
    assert outbox.ripen(outbox.due())
    assert kinds(outbox) == [(FrameType.ACK, 1), (FrameType.ACK, 2)]
    assert not outbox.ripen(200.0)


def test_acks_of_those_who_take_an_event_in_one_sweep_spread() -> None:
    due = set()
    for number in range(160):
        outbox, now = Outbox(Grant()), 100.0 + number / 10_000
        outbox.ack_soon(stream(), now)
        due.add(round(outbox.due(), 2))
    assert max(due) - min(due) > ACK_DELAY * 0.4
    assert len(due) > 10


def test_acks_that_waited_do_not_all_go_at_once() -> None:
    outbox, now = Outbox(Grant()), 100.0 + 2 * ACK_DELAY
    for number in range(1, 2 * ACKS_AT_ONCE + 2):
        outbox.ack_soon(stream(number), 100.0)
    for turn in range(2):
        assert outbox.ripen(now)
        first = turn * ACKS_AT_ONCE + 1
        assert kinds(outbox) == [
            (FrameType.ACK, number) for number in range(first, first + ACKS_AT_ONCE)
        ]
        assert not outbox.ripen(now)
        now += ACK_PAUSE
        assert outbox.due() == now
    assert outbox.ripen(now)
    assert kinds(outbox) == [(FrameType.ACK, 2 * ACKS_AT_ONCE + 1)]
    assert outbox.due() == inf


def test_an_ack_that_is_due_takes_along_the_one_that_waits() -> None:
    outbox, one = Outbox(Grant()), stream()
    outbox.ack_soon(one, 100.0)
    outbox.ack(one)
    assert not outbox.ack_soon(one, 100.0)
    assert outbox.due() == inf
    assert kinds(outbox) == [(FrameType.ACK, 1)]


def test_nothing_is_written_for_a_stream_that_was_forgotten() -> None:
    outbox, one, two = Outbox(Grant()), stream(1), stream(2)
    for each in (one, two):
        outbox.pause(each, "")
        outbox.ack(each)
        outbox.outcome(each)
    soon = stream(3)
    outbox.ack_soon(soon, 100.0)
    outbox.forget(one)
    outbox.forget(soon)
    assert {number for _type, number in kinds(outbox)} == {2}
    assert outbox.due() == inf


def test_a_cleared_outbox_has_nothing_to_say() -> None:
    outbox, one = Outbox(Grant()), stream()
    outbox.pause(one, "")
    outbox.ack(one)
    outbox.ack_soon(stream(2), 100.0)
    outbox.outcome(one)
    outbox.pong = encode_frame(FrameType.PONG)
    outbox.credit_due = True
    outbox.add(encode_frame(FrameType.CONFIRM))
    assert outbox.size == 24
    outbox.clear()
    assert kinds(outbox) == []
    assert (outbox.size, outbox.due()) == (0, inf)


def test_frames_are_counted_by_type_and_bytes_with_their_payloads() -> None:
    stats = Stats()
    data = encode_frame(FrameType.CHUNK, b"\x16" * 30)
    credit = encode_frame(FrameType.CREDIT, encode(Credit(1, 2)))
    confirm = encode_frame(FrameType.CONFIRM)
    size = count_sent([credit, confirm, data[:24], data[24:], confirm], stats)
    assert size == stats.bytes_sent == len(data) + len(credit) + 48
    sent = {number: count for number, count in enumerate(stats.frames_sent) if count}
    assert sent == {FrameType.CREDIT: 1, FrameType.CONFIRM: 2, FrameType.CHUNK: 1}
