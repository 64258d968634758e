"""Pause, cancel, release and OPEN around a lost connection or session (§8, §14)."""

from __future__ import annotations

import random

import pytest

from ackline.proto.connection import Phase
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.feed import EventBuffer
from ackline.proto.frames import FrameType, encode_frame
from ackline.proto.lifecycle import PauseReason, State
from ackline.proto.messages import (
    End,
    Intent,
    OutcomeKind,
    Resumed,
    ResumedStream,
    Scope,
    Session,
    encode,
)
from ackline.proto.notices import CancelReceived, OpenReceived, ReleaseReceived
from tests.proto.joined import Pair

CHUNK = 4096


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def subscribed(count: int) -> tuple[Pair, EventBuffer]:
    pair = Pair()
    buffer = EventBuffer(generation=5, max_events=10**6, max_bytes=10**8, keep=True)
    pair.server.logs["sources/x"] = buffer
    for number in range(count):
        buffer.append(b"%d" % number)
    return pair, buffer


def lose_sessions(pair: Pair) -> None:
    pair.drop()
    pair.server.sessions.clear()


def test_a_pause_set_and_ended_without_a_connection_leaves_no_reason() -> None:
    """SPEC.md §14: the reasons say which side paused, connected or not."""
    pair, _buffer = subscribed(10)
    stream = pair.client.subscribe("sources/x")
    pair.run()
    pair.drop()
    stream.pause(paused=True)
    assert stream.lifecycle.reasons == {
        PauseReason.DISCONNECTED,
        PauseReason.BY_CLIENT,
    }
    pair.connect()
    pair.run()
    assert stream.lifecycle.reasons == {PauseReason.BY_CLIENT}
    stream.pause(paused=False)
    assert stream.lifecycle.state is State.STREAMING
    pair.run()
    assert pair.s.streams[stream.id].lifecycle.reasons == set()


@pytest.mark.parametrize("lost", [False, True])
def test_a_pause_outlives_connection_and_session(lost: bool) -> None:
    pair, buffer = subscribed(10)
    stream = pair.client.subscribe("sources/x")
    pair.run()
    stream.pause(paused=True)
    pair.run()
    if lost:
        lose_sessions(pair)
        pair.connect()
    else:
        pair.reconnect()
    pair.run()
    there = pair.s.streams[stream.id]
    assert there.paused_there
    assert there.lifecycle.reasons == {PauseReason.BY_CLIENT}
    for number in range(10, 20):
        buffer.append(b"%d" % number)
    pair.run()
    assert len(pair.client.events[stream.id]) == 10
    stream.pause(paused=False)
    pair.run()
    assert pair.client.events[stream.id] == [b"%d" % n for n in range(20)]


def test_a_stream_paused_before_it_is_open_is_paused_from_the_beginning() -> None:
    pair, _buffer = subscribed(0)
    pair.run()
    pair.drop()
    stream = pair.client.subscribe("sources/x")
    stream.pause(paused=True)
    pair.connect()
    pair.run()
    assert pair.s.streams[stream.id].paused_there


def test_pause_is_state_and_not_a_queue() -> None:
    """SPEC.md §21."""
    pair, _buffer = subscribed(0)
    stream = pair.client.subscribe("sources/x")
    pair.run()
    for number in range(1001):
        stream.pause(paused=number % 2 == 0)
    pair.run()
    assert pair.client.stats.frames_sent[FrameType.PAUSE] == 1
    assert pair.s.streams[stream.id].paused_there


@pytest.mark.parametrize("lost", [False, True])
def test_a_cancel_that_was_lost_is_sent_again(lost: bool) -> None:
    pair = Pair(piece=1000)
    stream = pair.client.upload(content(50 * CHUNK), chunk_size=CHUNK, key="k")
    pair.run_until(lambda: stream.id in pair.s.streams and stream.opened)
    pair.c.cancel(stream, scope=Scope.STREAM)
    if lost:
        lose_sessions(pair)
        pair.connect()
    else:
        pair.reconnect()
    pair.run()
    outcome = pair.client.outcomes[stream.id]
    assert outcome.outcome is OutcomeKind.CANCELLED
    assert pair.server.uploads["k"].outcome == outcome


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_asked_while_resuming_waits_for_the_answer(lost: bool) -> None:
    """SPEC.md §8.2: a new session knows none of the old ids."""
    pair, buffer = subscribed(5)
    pair.client.consume = False
    kept, cancelled, released = (pair.client.subscribe("sources/x") for _ in range(3))
    pair.run()
    (lose_sessions if lost else Pair.drop)(pair)
    pair.connect()
    pair.client.consume = True
    pair.client.take(kept)
    kept.pause(paused=True)
    pair.c.cancel(cancelled, scope=Scope.STREAM)
    pair.c.release(released)
    opened = pair.client.upload(b"new", resource="objects/new")
    before = len(pair.server.notices)
    pair.run()
    assert pair.c.phase is Phase.OPEN
    assert pair.server.stats.errors_sent[Code.UNKNOWN_STREAM] == 0
    assert pair.s.streams[kept.id].paused_there
    assert pair.client.outcomes[cancelled.id].outcome is OutcomeKind.CANCELLED
    assert released.id not in pair.s.streams
    assert pair.client.outcomes[opened.id].outcome is OutcomeKind.COMPLETED
    assert len(pair.server.uploads) == 1
    heard = [type(notice) for notice in pair.server.notices[before:]]
    assert heard.count(OpenReceived) == (3 if lost else 1)
    assert heard.count(ReleaseReceived) == (0 if lost else 1)
    assert heard.count(CancelReceived) == 1
    kept.pause(paused=False)
    buffer.append(b"5")
    pair.run()
    assert pair.client.events[kept.id] == [b"%d" % n for n in range(6)]


def test_a_stream_that_has_ended_is_not_opened_in_the_next_session() -> None:
    pair = Pair()
    stream = pair.client.upload(content(100))
    pair.run()
    assert stream.ended
    lose_sessions(pair)
    pair.connect()
    pair.run()
    assert len(pair.server.uploads) == 1
    assert pair.s.streams == {}


def test_a_refused_stream_gives_its_memory_back() -> None:
    pair = Pair()
    stream = pair.client.subscribe("sources/unknown")
    pair.run()
    assert pair.client.refusals == {stream.id: Code.NOT_FOUND}
    assert pair.client.budget.used == 0


def test_a_stream_that_cannot_be_resumed_may_still_be_released() -> None:
    """SPEC.md §9.1: an id that was opened once is never unknown again."""
    pair, buffer = subscribed(5)
    stream = pair.client.subscribe("sources/x")
    pair.run()
    buffer.generation = 6
    pair.s.streams[stream.id].generation = 6
    pair.reconnect()
    pair.run()
    assert pair.client.broken == {stream.id: Code.GENERATION_CHANGED}
    pair.c.release(stream)
    pair.run()
    assert pair.c.phase is Phase.OPEN
    assert pair.client.budget.used == 0


def test_releasing_a_stream_that_was_never_opened_says_nothing() -> None:
    pair = Pair()
    pair.run()
    pair.drop()
    stream = pair.client.upload(b"data")
    pair.connect()
    pair.c.release(stream)
    pair.run()
    assert pair.c.phase is Phase.OPEN
    assert pair.client.stats.frames_sent[FrameType.RELEASE] == 0
    assert pair.server.uploads == {}


def test_a_resumed_that_names_more_than_was_asked_is_bad() -> None:
    pair, _buffer = subscribed(5)
    pair.client.subscribe("sources/x")
    pair.run()
    pair.drop()
    pair.connect()
    pair._write(pair.c, pair.to_server)
    pair._deliver(pair.to_server, pair.s)
    pair._write(pair.s, pair.to_client)
    pair.to_client.clear()
    pair.c.welcomed = True
    answers = tuple(ResumedStream(number, 0, "", None) for number in range(3))
    message = Resumed(0, "", Session("s1", b"t" * 16, 9), answers)
    pair.to_client += encode_frame(FrameType.RESUMED, encode(message), flags=1)
    pair._deliver(pair.to_client, pair.c)
    assert pair.client.stats.errors_sent[Code.BAD_FRAME] == 1


def test_a_cancel_with_the_end_on_its_way_has_one_outcome() -> None:
    pair, buffer = subscribed(5)
    stream = pair.client.subscribe("sources/x")
    buffer.finish(End(Intent.COMPLETED, 0, "", size=5))
    pair.run_until(lambda: isinstance(stream.receiver, EventReceiver) and stream.opened)
    pair.c.cancel(stream, scope=Scope.STREAM)
    pair.run()
    (there,) = pair.server.sessions.values()
    assert there.streams[stream.id].outcome == pair.client.outcomes[stream.id]
    assert pair.client.budget.used == 0


def test_nothing_is_acknowledged_before_the_new_session_knows_it() -> None:
    """An ACK of the END, stored before, came before the END was sent again."""
    pair, buffer = subscribed(5)
    stream = pair.client.subscribe("sources/x")
    buffer.finish(End(Intent.COMPLETED, 0, "", size=5))
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    pair.run_until(lambda: receiver.stored == 6)
    lose_sessions(pair)
    pair.connect()
    pair.run_until(lambda: pair.c.phase is Phase.OPEN)
    stream.ack_due()
    receiver.consumed_to(5, 0)
    pair.run()
    assert pair.server.stats.errors_sent == {}
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.client.events[stream.id] == [b"%d" % n for n in range(5)]


def test_an_end_that_is_kept_only_after_a_reconnect_waits_for_the_end_again() -> None:
    pair, buffer = subscribed(5)
    pair.client.consume = False
    stream = pair.client.subscribe("sources/x")
    buffer.finish(End(Intent.COMPLETED, 0, "", size=5))
    pair.run()
    stream.pause(paused=True)
    pair.reconnect()
    pair.run()
    pair.client.consume = True
    pair.client.take(stream)
    pair.run()
    assert pair.c.phase is Phase.OPEN
    stream.pause(paused=False)
    pair.run()
    assert pair.server.stats.errors_sent == {}
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
