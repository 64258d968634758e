"""Publishers hold little while idle, and ask for what they need (SPEC.md §12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import End, Intent, OutcomeKind
from ackline.proto.notices import ConnectionFailed
from tests.proto.joined import MemoryServer, Pair

if TYPE_CHECKING:
    from ackline.proto.feed import EventBuffer
    from ackline.proto.stream import Stream

KIB = 2**10
FIRST_WINDOW = 16 * KIB
LARGEST = bytes(MAX_EVENT)


def publishing(pair: Pair) -> tuple[Stream, EventBuffer, EventReceiver]:
    """Return a publisher that has sent nothing, and the server's half of it."""
    stream, buffer = pair.client.publish("logs/x", key="p")
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, EventReceiver)
    return stream, buffer, receiver


def asked(pair: Pair) -> int:
    return pair.client.stats.frames_sent[FrameType.BLOCKED]


def test_thousands_of_idle_publishers_leave_room_for_those_that_send() -> None:
    pair = Pair()
    idle: list[tuple[Stream, EventBuffer]] = []
    for n in range(5000):
        idle.append(pair.client.publish("logs/x", key=f"p{n}"))
        if n % 200 == 199:  # a server works on so many OPENs of a connection at once
            pair.run()
    budget = pair.server.budget
    assert budget.used == 5000 * FIRST_WINDOW
    assert budget.waiting == 0
    for stream, buffer in idle[::1000]:
        buffer.append(LARGEST)
        buffer.finish(End(Intent.COMPLETED, 0, "", size=1))
        pair.run()
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert budget.used == (5000 - 5) * FIRST_WINDOW


def test_a_large_event_is_asked_for_once_and_what_it_took_is_given_back() -> None:
    pair = Pair()
    stream, buffer, receiver = publishing(pair)
    buffer.append(bytes(1000))
    pair.run()
    assert asked(pair) == 0
    receiver._adapted_at -= 10  # it is a slow one, whose window does not grow
    buffer.append(LARGEST)
    pair.run()
    assert asked(pair) == 1
    assert stream.sender is not None
    assert stream.sender.stored == 2
    assert pair.server.budget.used == FIRST_WINDOW


def test_what_was_asked_for_is_asked_again_on_a_new_connection() -> None:
    pair = Pair()
    stream, buffer, _receiver = publishing(pair)
    pair.server.budget.limit = 100 * KIB
    buffer.append(LARGEST)
    pair.run()
    assert asked(pair) == 1
    assert pair.server.budget.waiting == 1
    pair.drop()
    assert (pair.server.budget.waiting, pair.server.budget.used) == (0, 0)
    pair.server.budget.limit = 300 * KIB
    pair.connect()
    pair.run()
    assert asked(pair) == 2
    assert stream.sender is not None
    assert stream.sender.stored == 1


def test_who_asks_waits_until_what_came_before_is_stored() -> None:
    pair = Pair()
    pair.server.take_batches = False
    stream, buffer, receiver = publishing(pair)
    for _ in range(3):
        buffer.append(LARGEST)
    pair.run()
    assert receiver.position == 1
    assert pair.server.budget.used <= 256 * KIB
    pair.server.take_batches = True
    pair.server.batches(receiver.stream)
    pair.run()
    assert stream.sender is not None
    assert stream.sender.stored == 3


def test_nobody_is_granted_more_than_a_largest_event_by_asking() -> None:
    pair = Pair()
    stream, _buffer, receiver = publishing(pair)
    for limit in (2**64 - 1, 2**63, 0):
        pair.c.send(FrameType.BLOCKED, stream_id=stream.id, sequence=limit)
        pair.run()
        assert receiver.grant.limit_bytes == 256 * KIB
    assert pair.server.budget.used == 256 * KIB
    pair.drop()
    assert pair.server.budget.used == 0


def test_only_publishers_ask() -> None:
    pair = Pair()
    pair.server.hold_stores = True
    stream = pair.client.upload(b"x", key="k")
    pair.run()
    pair.c.send(FrameType.BLOCKED, stream_id=stream.id, sequence=1)
    pair.run()
    failed = [n for n in pair.server.notices if isinstance(n, ConnectionFailed)]
    assert [notice.code for notice in failed] == [Code.WRONG_STATE]


def test_publishers_that_were_fast_once_leave_memory_for_others() -> None:
    pair = Pair(MemoryServer(budget=3 * 2**20))
    for number in range(4):
        _stream, buffer = pair.client.publish(f"logs/{number}", key=f"p{number}")
        for _ in range(400):
            buffer.append(bytes(10_000))
        pair.run()
    assert 2**20 < pair.server.budget.used <= 2 * 2**20 + 4 * FIRST_WINDOW
    for number in range(30):
        pair.client.publish("logs/x", key=f"idle{number}")
    pair.run()
    assert pair.server.budget.waiting == 0
