"""The sending half of an event stream, at its edges (SPEC.md §11, §15)."""

from __future__ import annotations

import pytest

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import (
    Ack,
    Durability,
    End,
    Intent,
    OutcomeKind,
    Proof,
    Standing,
)
from ackline.proto.notices import SenderHeld
from tests.proto.joined import MemoryClient, Pair, limits


def publishing(count: int) -> tuple[Pair, EventSender, EventBuffer]:
    pair = Pair()
    stream, buffer = pair.client.publish("logs/x", key="p")
    for number in range(count):
        buffer.append(b"%d" % number)
    pair.run()
    assert isinstance(stream.sender, EventSender)
    return pair, stream.sender, buffer


def standing(position: int, proof: Proof | None = None) -> Standing:
    return Standing(0, 1, position, position, 100, 10**6, proof=proof)


@pytest.mark.parametrize(
    ("position", "proof", "code"),
    [
        (3, None, Code.POSITION_LOST),
        (6, None, Code.POSITION_BEYOND),
        (5, Proof(0, 5, 5, 1, 1), Code.PROOF_MISMATCH),
    ],
)
def test_a_receiver_that_has_other_events_is_found_out(
    position: int, proof: Proof | None, code: Code
) -> None:
    _pair, sender, _buffer = publishing(5)
    with pytest.raises(ProtocolViolation) as found:
        sender.attach(standing(position, proof))
    assert found.value.code is code


def test_a_proof_of_what_is_not_known_any_more_proves_nothing() -> None:
    _pair, sender, _buffer = publishing(5)
    assert sender.verify(Proof(2, 5, 3, 0, 0)) is None
    assert sender.verify(Proof(5, 4, 0, 0, 0)) is None
    assert sender.verify(Proof(5, 5, 0, 0, 0)) is True
    assert sender.verify(Proof(5, 5, 1, 0, 0)) is False


def test_a_receiver_that_has_the_end_gets_it_again() -> None:
    pair, sender, buffer = publishing(5)
    buffer.finish(End(Intent.COMPLETED, 0, "", size=5))
    sender.attach(standing(6))
    assert sender.position == 5
    pair.run()
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


def test_an_ack_of_events_that_were_never_sent_is_bad() -> None:
    _pair, sender, _buffer = publishing(5)
    ack = Ack(9, 9, 0, Durability.SYNCED)
    with pytest.raises(ProtocolViolation, match="only 5 units") as found:
        sender.acknowledged(6, ack, rewind=False, now=0.0)
    assert found.value.code is Code.BAD_FRAME


def test_a_sender_that_left_its_feed_is_not_called() -> None:
    pair, sender, buffer = publishing(5)
    sender.close()
    buffer.append(b"unheard")
    pair.run()
    assert sender.position == 5


def test_a_definition_and_its_event_travel_together_or_not_at_all() -> None:
    """A window of one unit does not fit both: the definition is not sent alone."""
    pair = Pair(client=MemoryClient(client_limits=limits(max_payload=8192)))
    buffer = EventBuffer(
        generation=5, max_events=10, max_bytes=10**6, keep=True, define=True
    )
    pair.server.logs["sources/x"] = buffer
    stream = pair.client.subscribe("sources/x")
    pair.run()
    sender = pair.s.streams[stream.id].sender
    assert isinstance(sender, EventSender)
    sender.window.restart(1, 10**6)
    buffer.append(b"token", buffer.define("token"))
    pair.run()
    assert pair.client.events[stream.id] == []
    assert pair.client.broken == {}
    sender.window.raise_to(2, 10**6)
    sender.wake()
    pair.run()
    assert pair.client.events[stream.id] == [b"token"]


def test_what_the_receiver_is_short_of_is_told_once_and_when_it_is_over() -> None:
    """SPEC.md §13: `code` with `retry_after`."""
    _pair, sender, _buffer = publishing(5)
    told: list[int] = []
    sender.stream.notify = lambda notice: (
        told.append(notice.code) if isinstance(notice, SenderHeld) else None
    )
    full = Ack(
        100,
        10**6,
        5,
        Durability.SYNCED,
        retry_after=1.0,
        code=Code.INSUFFICIENT_STORAGE,
    )
    well = Ack(100, 10**6, 5, Durability.SYNCED)
    for now, ack in enumerate((full, full, well, full)):
        sender.acknowledged(5, ack, rewind=False, now=float(now))
    sender.acknowledged(5, well, rewind=False, now=3.5)  # it is not over yet
    assert told == [Code.INSUFFICIENT_STORAGE, 0, Code.INSUFFICIENT_STORAGE]
    sender.begin(100, 10**6)  # another connection knows nothing of it
    assert sender.held_code == 0
