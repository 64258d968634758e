"""A connection at its edges, between the handshake and the end (SPEC.md §7 to §20)."""

from __future__ import annotations

from math import inf

import pytest

from ackline.proto.connection import PARTS_AT_ONCE, Phase
from ackline.proto.errors import Code
from ackline.proto.feed import EventBuffer
from ackline.proto.frames import FrameType, encode_frame
from ackline.proto.messages import (
    Ack,
    Cancel,
    Durability,
    End,
    Error,
    Intent,
    OutcomeKind,
    Ping,
    Redirect,
    Resumed,
    ResumedStream,
    Scope,
    Session,
    Standing,
    Status,
    Welcome,
    encode,
)
from ackline.proto.notices import CancelReceived, ConnectionFailed, Redirected
from ackline.proto.server_connection import ServerConnection
from tests.proto.joined import LIMITS, MemoryClient, Pair, _outcome, limits


def subscribed() -> Pair:
    pair = Pair()
    buffer = EventBuffer(generation=5, max_events=99, max_bytes=10**6, keep=True)
    buffer.append(b"first")
    pair.server.logs["sources/x"] = buffer
    pair.client.subscribe("sources/x")
    pair.run()
    return pair


def failures(pair: Pair) -> list[tuple[int, bool]]:
    notices = [*pair.server.notices, *pair.client.notices]
    return [
        (notice.code, notice.by_peer)
        for notice in notices
        if isinstance(notice, ConnectionFailed)
    ]


def to_client(pair: Pair, kind: FrameType, payload: bytes, **header: int) -> None:
    pair.to_client += encode_frame(kind, payload, **header)
    pair._deliver(pair.to_client, pair.c)


def to_server(pair: Pair, kind: FrameType, payload: bytes, **header: int) -> None:
    pair.to_server += encode_frame(kind, payload, **header)
    pair._deliver(pair.to_server, pair.s)


def test_small_frames_of_many_streams_are_not_held_back_for_each_other() -> None:
    pair = Pair()
    for number in range(2 * PARTS_AT_ONCE):
        buffer = EventBuffer(generation=5, max_events=99, max_bytes=10**6, keep=True)
        pair.server.logs[f"sources/{number}"] = buffer
        pair.client.subscribe(f"sources/{number}")
    pair.run()
    for buffer in pair.server.logs.values():
        buffer.append(b"token")
    half = pair.s.data_to_send(pair.now)
    assert len(half) == PARTS_AT_ONCE
    assert len(pair.s.data_to_send(pair.now)) == PARTS_AT_ONCE
    assert not pair.s.data_to_send(pair.now)


def test_a_closed_connection_takes_and_says_nothing_more() -> None:
    pair = subscribed()
    pair.s.fail(Code.DRAINING, "over")
    pair.s.fail(Code.OVERLOADED, "a second failure changes nothing")
    assert pair.s.closing
    assert pair.s.next_timeout() == inf
    assert pair.s.buffer() is pair.s.reader.scratch
    frames = pair.server.stats.frames_received[FrameType.PING]
    to_server(pair, FrameType.PING, encode(Ping(0, 0)))
    pair.s.handle_timeout(pair.now + 1000)
    assert pair.server.stats.frames_received[FrameType.PING] == frames
    pair.run()
    assert failures(pair) == [(Code.DRAINING, False), (Code.DRAINING, True)]


def test_frames_read_together_with_the_one_that_ends_it_are_left_alone() -> None:
    pair = subscribed()
    error = encode_frame(FrameType.ERROR, encode(Error(Code.OVERLOADED, "", True)))
    ping = encode_frame(FrameType.PING, encode(Ping(0, 0)))
    pair.to_server += error + ping
    pair._deliver(pair.to_server, pair.s)
    assert pair.server.stats.frames_received[FrameType.PING] == 0
    assert pair.s.closing


def test_a_stream_that_another_connection_carries_is_not_detached() -> None:
    pair = subscribed()
    old, stream = pair.s, pair.s.streams[1]
    pair.drop()
    pair.connect()
    pair.run()
    assert stream.connection is pair.s
    old.streams[stream.id] = stream
    old.lost()
    assert stream.connection is pair.s


def test_what_waits_to_be_written_is_let_go_with_the_connection() -> None:
    pair = subscribed()
    called: list[int] = []
    pair.c.after_write(lambda: called.append(1))
    pair.c.lost()
    pair.c.lost()
    assert called == [1]


def test_time_without_a_block_says_nothing_about_the_link() -> None:
    pair = subscribed()
    before = pair.c.rate.fragment
    pair.c.output_taken(pair.now, 10**6)
    assert pair.c.rate.fragment == before
    pair.c.output_blocked(pair.now)
    pair.c.output_taken(pair.now + 0.001, 10**6)
    assert pair.c.rate.fragment > before


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (FrameType.CHUNK, b"x"),
        (FrameType.END, encode(End(Intent.COMPLETED, 0, ""))),
    ],
)
def test_data_for_a_stream_that_the_server_sends_is_a_wrong_state(
    kind: FrameType, payload: bytes
) -> None:
    pair = subscribed()
    to_server(pair, kind, payload, stream_id=1)
    assert failures(pair) == [(Code.WRONG_STATE, False)]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (FrameType.EVENTS, b"\0\0\0\1\0\0\0\0"),
        (FrameType.ACK, encode(Ack(1, 1, 0, Durability.MEMORY))),
    ],
)
def test_frames_for_the_other_kind_of_stream_are_a_wrong_state(
    kind: FrameType, payload: bytes
) -> None:
    pair = Pair()
    pair.client.hold_loads = True
    pair.client.upload(b"x" * 9999)
    pair.run()
    to_server(pair, kind, payload, stream_id=1)
    assert failures(pair) == [(Code.WRONG_STATE, False)]


def test_data_before_resumed_is_a_wrong_state() -> None:
    pair = subscribed()
    pair.drop()
    pair.connect()
    welcome = Welcome(1, "test", "anonymous", LIMITS, None)
    to_client(pair, FrameType.WELCOME, encode(welcome))
    to_client(pair, FrameType.EVENTS, b"\0\0\0\1\0\0\0\0", stream_id=1)
    assert failures(pair) == [(Code.WRONG_STATE, False)]


@pytest.mark.parametrize(
    ("welcome", "code"),
    [
        (Welcome(2, "", "", LIMITS, Session("s", b"t", 1)), Code.UNSUPPORTED_VERSION),
        (Welcome(1, "", "", LIMITS, None), Code.BAD_FRAME),
        (
            Welcome(1, "", "", limits(heartbeat=0.0), Session("s", b"t", 1)),
            Code.BAD_FRAME,
        ),
    ],
)
def test_a_welcome_that_cannot_be_ends_the_connection(
    welcome: Welcome, code: Code
) -> None:
    pair = Pair()
    to_client(pair, FrameType.WELCOME, encode(welcome))
    assert failures(pair) == [(code, False)]


def test_a_redirect_is_told() -> None:
    pair = Pair()
    message = Redirect("ackline://elsewhere:1", 2.0)
    to_client(pair, FrameType.REDIRECT, encode(message))
    assert Redirected(message) in pair.client.notices


def resumed_with(*answers: ResumedStream) -> Pair:
    """Return a client that has got RESUMED with these answers."""
    pair = subscribed()
    pair.drop()
    pair.connect()
    welcome = Welcome(1, "test", "anonymous", LIMITS, None)
    to_client(pair, FrameType.WELCOME, encode(welcome))
    message = Resumed(0, "", Session("s", b"t" * 16, 2), answers)
    to_client(pair, FrameType.RESUMED, encode(message))
    return pair


def test_a_stream_that_resumed_leaves_out_is_broken() -> None:
    assert resumed_with().client.broken == {1: Code.UNKNOWN_STREAM}


def test_a_stream_of_another_generation_is_broken() -> None:
    """SPEC.md §1: deleted and made again."""
    answer = ResumedStream(1, 0, "", Standing(6, 1, 1, 1, 0, 0))
    assert resumed_with(answer).client.broken == {1: Code.GENERATION_CHANGED}


def test_still_stopping_is_no_outcome() -> None:
    """SPEC.md §14."""
    pair = subscribed()
    stream = pair.client.session.streams[1]
    pair.s.still_stopping(
        pair.s.streams[1], _outcome(OutcomeKind.STILL_STOPPING, 1, 0, "wait")
    )
    pair.run()
    assert pair.server.stats.frames_sent[FrameType.OUTCOME] == 1
    assert not stream.ended


def test_a_second_cancel_is_not_told_again() -> None:
    pair = subscribed()
    there = pair.s.streams[1]
    pair.s.notify = there.notify = pair.server.notices.append
    message = encode(Cancel(Scope.STREAM))
    for _ in range(2):
        to_server(pair, FrameType.CANCEL, message, stream_id=1)
    assert sum(isinstance(n, CancelReceived) for n in pair.server.notices) == 1
    there.decide(_outcome(OutcomeKind.CANCELLED, 1))
    pair._write(pair.s, pair.to_client)
    to_server(pair, FrameType.CANCEL, message, stream_id=1)
    pair._write(pair.s, pair.to_client)
    assert pair.server.stats.frames_sent[FrameType.OUTCOME] == 2


def test_a_request_without_a_number_of_its_own_is_bad() -> None:
    """SPEC.md §19."""
    for numbers in ([0], [5, 5]):
        pair = subscribed()
        for number in numbers:
            payload = encode(Status("logs/x"))
            to_server(pair, FrameType.STATUS, payload, sequence=number)
        assert failures(pair) == [(Code.BAD_FRAME, False)]


def test_more_requests_than_may_be_unanswered_are_too_many() -> None:
    """SPEC.md §6."""
    pair = subscribed()
    for number in range(1, 66):
        payload = encode(Status("logs/x"))
        to_server(pair, FrameType.STATUS, payload, sequence=number)
        pair.s.handle_timeout(pair.now)  # its next turn
        assert (failures(pair) == []) == (number <= 64)
    assert failures(pair) == [(Code.LIMIT_EXCEEDED, False)]


def test_a_server_that_owes_an_answer_reads_on_only_after_it() -> None:
    pair = Pair()
    pair.s.notify = pair.server.notices.append
    pair._write(pair.c, pair.to_server)
    pair._deliver(pair.to_server, pair.s)
    while pair.s._outbox.size <= 2**20:
        pair.s.error(Code.OVERLOADED, "x" * 4000)
    pair.s.data_to_send(pair.now)
    assert not pair.s.reading
    session = pair.server.new_session(pair.s)
    pair.s.welcome(agent="", identity="", session=session, ttl=1.0)
    assert pair.s.reading


def test_a_cancel_of_a_stream_that_is_gone_is_discarded() -> None:
    pair = subscribed()
    pair.s.drop(pair.s.streams[1])
    to_server(pair, FrameType.CANCEL, encode(Cancel(Scope.STREAM)), stream_id=1)
    to_server(pair, FrameType.RELEASE, b"", stream_id=1)
    assert failures(pair) == []


def test_a_client_has_no_requests_of_the_server_to_refuse() -> None:
    pair = subscribed()
    error = encode(Error(Code.OVERLOADED, "", True))
    to_server(pair, FrameType.ERROR, error, stream_id=1)
    assert failures(pair) == []
    to_server(pair, FrameType.ERROR, error, sequence=5)
    assert failures(pair) == [(Code.WRONG_STATE, False)]


def test_resume_names_no_more_streams_than_a_session_may_have() -> None:
    pair = Pair()
    small = limits(max_streams=2)
    pair.server.logs["sources/x"] = EventBuffer(
        generation=5, max_events=9, max_bytes=999
    )
    for _ in range(3):
        pair.client.subscribe("sources/x")
    pair.run()
    pair.drop()
    pair.server.limits = small
    pair.connect()
    pair.run()
    assert (Code.TOO_MANY_STREAMS, False) in failures(pair)


def test_what_was_read_ahead_of_an_answer_can_break_the_protocol_too() -> None:
    held: list[ServerConnection] = []
    pair = Pair(client=MemoryClient())
    notify = pair.s.notify
    pair.s.notify = lambda _notice: held.append(pair.s)
    pair._write(pair.c, pair.to_server)
    pair.to_server += encode_frame(FrameType.PING, b"not a PING")
    pair._deliver(pair.to_server, pair.s)
    assert held == [pair.s]
    assert not pair.s.reading
    pair.s.notify = notify
    session = pair.server.new_session(pair.s)
    pair.s.welcome(agent="", identity="", session=session, ttl=1.0)
    assert failures(pair) == [(Code.BAD_FRAME, False)]
    assert pair.s.phase is Phase.CLOSED


def test_a_streams_error_is_refused_without_ending_the_connection() -> None:
    pair = subscribed()
    pair.s.refuse(pair.s.streams[1], Code.MOVED, "opened elsewhere")
    pair.run()
    assert pair.client.errors == [(1, Code.MOVED)]
    assert failures(pair) == []


def test_a_session_that_was_never_begun_opens_only_what_has_not_ended() -> None:
    pair = Pair()
    pair.drop()
    ended = pair.client.upload(b"one")
    ended.decide(_outcome(OutcomeKind.FAILED, 0))
    live = pair.client.upload(b"two", resource="objects/two")
    pair.connect()
    pair.run()
    assert pair.client.outcomes.keys() == {live.id}
    assert len(pair.server.uploads) == 1
