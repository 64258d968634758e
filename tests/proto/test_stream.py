"""One stream and its state, by itself (SPEC.md §14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind, Use
from ackline.proto.stream import DEFAULT_PRIORITIES
from tests.proto.joined import Pair, _outcome

if TYPE_CHECKING:
    from ackline.proto.stream import Stream


def opened(pair: Pair) -> Stream:
    stream = pair.client.upload(b"x" * 5000)
    pair.server.hold_stores = True
    pair.run()
    return stream


def test_events_go_before_chunks_unless_open_says_otherwise() -> None:
    pair = Pair()
    upload = pair.client.upload(b"")
    publisher, _buffer = pair.client.publish("logs/x")
    assert upload.priority == DEFAULT_PRIORITIES[True] == 4
    assert publisher.priority == DEFAULT_PRIORITIES[False] == 2
    upload.open = type(upload.open)(
        Use.UPLOAD, "objects/x", "", 0, 0, upload.open.detail, priority=0
    )
    assert upload.priority == 0


def test_a_stream_whose_open_was_let_go_goes_on_and_ends() -> None:
    pair = Pair()
    stream = pair.s.streams[opened(pair).id]
    stream.answered()
    assert not hasattr(stream, "open")
    assert stream.decide(_outcome(OutcomeKind.CANCELLED, 0, Code.CANCELLED_BY_OPERATOR))
    pair.run()
    assert pair.client.outcomes == {stream.id: stream.outcome}


def test_the_first_outcome_wins() -> None:
    """SPEC.md §14."""
    pair = Pair()
    stream = pair.s.streams[opened(pair).id]
    first = _outcome(OutcomeKind.CANCELLED, 0, Code.CANCELLED_BY_OPERATOR)
    assert stream.decide(first)
    assert not stream.decide(_outcome(OutcomeKind.COMPLETED, 1))
    assert stream.outcome == first
    pair.run()
    assert pair.client.outcomes == {stream.id: first}


def test_pausing_twice_is_pausing_once() -> None:
    pair = Pair()
    stream = opened(pair)
    stream.pause(paused=True)
    stream.pause(paused=True)
    pair.run()
    assert pair.client.stats.frames_sent[0x16] == 1
    stream.peer_paused(paused=False)
    assert stream.paused


def test_a_conflict_found_without_a_connection_is_told_to_nobody() -> None:
    pair = Pair()
    stream = opened(pair)
    there = pair.s.streams[stream.id]
    pair.drop()
    there.conflict(0)
    pair.connect()
    pair.run()
    assert pair.client.errors == []


def test_a_stream_without_a_half_is_detached_all_the_same() -> None:
    pair = Pair()
    pair.server.hold_opens = True
    pair.client.fetch("objects/x")
    pair.run()
    (there,) = pair.s.streams.values()
    assert there.sender is None
    assert there.receiver is None
    pair.drop()
    assert there.connection is None
    there.close()


@pytest.mark.parametrize("closing", [ChunkSender, ChunkReceiver])
def test_an_outcome_frees_what_either_half_holds(closing: type[object]) -> None:
    pair = Pair()
    stream = opened(pair)
    if closing is ChunkSender:
        sender = stream.sender
        assert isinstance(sender, ChunkSender)
        released: list[int] = []
        sender.size = None
        sender._count_known = None
        sender._loading.append(9)
        sender.supply(9, memoryview(b"x"), lambda: released.append(9))
        stream.decide(_outcome(OutcomeKind.CANCELLED, 0))
        assert released == [9]
    else:
        assert pair.server.budget.used > 0
        pair.s.streams[stream.id].decide(_outcome(OutcomeKind.CANCELLED, 0))
        assert pair.server.budget.used == 0
