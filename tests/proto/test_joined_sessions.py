"""Handshake, resume, takeover, heartbeat and violations between two joined cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.proto.connection import Phase
from ackline.proto.errors import Code
from ackline.proto.frames import FrameType, encode_frame, pack_header
from ackline.proto.messages import (
    Ack,
    Cancel,
    Durability,
    End,
    Hello,
    Intent,
    List,
    Listed,
    Open,
    Outcome,
    OutcomeKind,
    Ping,
    Scope,
    Session,
    Start,
    Status,
    SubscribeDetail,
    Use,
    encode,
    raw,
)
from ackline.proto.notices import (
    ConnectionFailed,
    OpenReceived,
    PeerLeft,
    PongReceived,
    ReplyReceived,
    RequestReceived,
    SessionResumed,
)
from ackline.proto.server_session import TokenCheck, Tokens
from tests.proto.joined import LIMITS, MemoryClient, MemoryServer, Pair, limits
from tests.proto.test_joined_events import feed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.server_connection import ServerConnection
    from ackline.proto.stream import Stream


def failure(pair: Pair) -> ConnectionFailed:
    """Return why the client's connection ended."""
    return next(n for n in pair.client.notices if isinstance(n, ConnectionFailed))


def test_a_token_lost_before_it_was_seen_does_not_matter() -> None:
    """SPEC.md §8.1: the old one stays valid until the successor is confirmed."""
    pair = Pair()
    stream = pair.client.upload(b"x" * 100_000, chunk_size=4096, key="k")
    pair.run_until(lambda: bool(pair.server.uploads))
    before = pair.client.session.session
    for _ in range(3):
        pair.drop()
        pair.connect()
        for _ in range(3):
            pair._write(pair.c, pair.to_server)
            pair._deliver(pair.to_server, pair.s)
            pair._write(pair.s, pair.to_client)  # and it never arrives
    assert pair.client.session.session is before
    pair.reconnect()
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_confirmed_token_supersedes_the_old_one() -> None:
    pair = Pair()
    pair.run()
    copied = pair.client.session.session
    pair.reconnect()
    pair.run()
    thief = MemoryClient()
    thief.session.session = copied
    other = Pair(pair.server, thief)
    other.run()
    resumed = next(n for n in thief.notices if isinstance(n, SessionResumed))
    assert resumed.code == Code.TOKEN_SUPERSEDED
    assert not pair.c.closing


def test_the_newest_connection_wins_and_the_loser_is_told() -> None:
    pair = Pair()
    pair.run()
    loser, loser_wire = pair.c, pair.s
    copied = pair.client.session.session
    newcomer = MemoryClient()
    newcomer.session.session = copied
    other = Pair(pair.server, newcomer)
    other.run()
    assert loser_wire.closing
    for part in loser_wire.data_to_send(pair.now):
        pair.to_client += part
    pair._deliver(pair.to_client, loser)
    assert failure(pair).code == Code.TAKEN_OVER
    assert failure(pair).by_peer


def test_tokens_go_from_successor_to_current_to_superseded() -> None:
    tokens = Tokens(b"a")
    assert tokens.present(b"a") is TokenCheck.VALID
    tokens.issue(b"b")
    assert tokens.present(b"a") is TokenCheck.VALID
    tokens.issue(b"c")  # the first successor was never seen
    assert tokens.present(b"b") is TokenCheck.INVALID
    assert tokens.present(b"c") is TokenCheck.VALID  # use confirms
    assert tokens.present(b"a") is TokenCheck.SUPERSEDED


def test_an_unknown_session_is_replaced_and_streams_are_opened_again() -> None:
    """SPEC.md §8.2: after `unknown_session` the client opens with the same keys."""
    pair = Pair()
    data = b"y" * 100_000
    stream = pair.client.upload(data, chunk_size=4096, key="k")
    pair.run_until(
        lambda: "k" in pair.server.uploads and len(pair.server.uploads["k"].chunks) > 3
    )
    pair.server.sessions.clear()
    pair.reconnect()
    pair.run()
    upload = pair.server.uploads["k"]
    assert upload.data() == data
    assert len(upload.stored_log) == len(set(upload.stored_log))
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_stream_whose_open_was_not_answered_is_opened_again_under_a_new_id() -> None:
    """SPEC.md §9.1: ids only go up, and a later OPEN may have been answered."""
    pair = Pair()
    pair.run()
    lost = pair.client.upload(b"a" * 5000, key="lost")
    answered = pair.client.upload(b"b" * 5000, key="answered")
    held: list[OpenReceived] = []
    opened = pair.server.opened

    def defer(connection: ServerConnection, stream: Stream) -> None:
        if stream.open.key == "lost" and not held:
            held.append(OpenReceived(stream, stream.open))
        else:
            opened(connection, stream)

    pair.server.opened = defer  # type: ignore[method-assign]
    pair.run_until(lambda: answered.opened)
    assert not lost.opened
    assert lost.id < answered.id
    pair.drop()
    pair.connect()
    pair.run()
    assert lost.id > answered.id
    for stream in (lost, answered):
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_session_lost_twice_in_a_row_is_replaced_twice() -> None:
    pair = Pair()
    pair.run()
    stream = pair.client.upload(b"a" * 50_000, key="k")
    pair.run_until(lambda: stream.opened)
    pair.drop()
    pair.server.sessions.clear()
    pair.connect()
    pair.run_until(lambda: pair.c.phase is Phase.OPEN)
    assert not stream.established
    pair.drop()
    pair.connect()
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_publisher_without_a_name_cannot_outlive_its_session() -> None:
    pair = Pair()
    stream, _buffer = pair.client.publish("logs/x")
    pair.run()
    pair.server.sessions.clear()
    pair.reconnect()
    pair.run()
    assert pair.client.broken[stream.id] == Code.UNKNOWN_SESSION


def test_a_position_lower_than_acknowledged_is_loud() -> None:
    """SPEC.md §8.2: `position_lost`, never a silent re-send."""
    pair = Pair()
    stream = pair.client.upload(b"z" * 100_000, chunk_size=4096, key="k")
    pair.run_until(lambda: stream.sender is not None and stream.sender.stored >= 5)
    session = next(iter(pair.server.sessions.values()))
    receiver = session.streams[stream.id].receiver
    assert receiver is not None
    receiver.stored = 2
    pair.reconnect()
    pair.run()
    assert pair.client.broken[stream.id] == Code.POSITION_LOST


def test_silence_is_broken_by_ping_and_ends_in_peer_lost() -> None:
    """SPEC.md §17."""
    pair = Pair()
    pair.run()
    pair.now += 10.5
    pair.c.handle_timeout(pair.now)
    pair._write(pair.c, pair.to_server)
    assert pair.c.stats.frames_sent[FrameType.PING] == 1
    pair._deliver(pair.to_server, pair.s)
    pair.step()
    assert pair.s.stats.frames_sent[FrameType.PONG] == 1
    pair.now += 31
    pair.c.handle_timeout(pair.now)
    assert failure(pair).code == Code.PEER_LOST


def test_a_pong_is_told_to_who_asked_for_it() -> None:
    pair = Pair()
    pair.run()
    number = pair.c.ping()
    pair.run()
    assert PongReceived(number) in pair.client.notices


def test_a_peer_that_takes_no_output_is_lost() -> None:
    pair = Pair()
    pair.run()
    pair.s.output_blocked(pair.now)
    for _ in range(4):
        pair.now += 9
        pair.s.received(0, pair.now)  # it still sends
        pair.s.handle_timeout(pair.now)
    assert pair.s.closing


def test_requests_are_answered_by_their_id() -> None:
    pair = Pair()
    pair.run()
    pair.c.request(FrameType.LIST, 4, List("objects/"))
    pair.run()
    request = next(n for n in pair.server.notices if isinstance(n, RequestReceived))
    assert request.message == List("objects/")
    pair.s.reply(request.request_id, Listed((), ""))
    pair.run()
    assert ReplyReceived(4, Listed((), "")) in pair.client.notices
    pair.c.request(FrameType.STATUS, 5, Status("uploads/x"))
    pair.run()
    pair.s.refuse_request(5, Code.NOT_FOUND, "no such upload")
    pair.run()
    reply = next(
        n
        for n in pair.client.notices
        if isinstance(n, ReplyReceived) and n.request_id == 5
    )
    assert getattr(reply.message, "code", None) == Code.NOT_FOUND


def test_goaway_stops_new_units_and_is_told() -> None:
    pair = Pair()
    pair.run()
    pair.s.go_away(Code.DRAINING, "restart", retry_after=0.5, deadline=5.0)
    pair.run()
    left = next(n for n in pair.client.notices if isinstance(n, PeerLeft))
    assert left.message.retry_after == 0.5
    assert pair.c.draining


def hello(**changes: object) -> bytes:
    values: dict[str, object] = {
        "version": 1,
        "oldest": 1,
        "scheme": "",
        "credential": b"",
        "agent": "t",
        "resume": False,
        "limits": LIMITS,
    }
    return encode_frame(FrameType.HELLO, encode(Hello(**{**values, **changes})))  # type: ignore[arg-type]


def flipped(frame: bytes, at: int) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= 0x10
    return bytes(changed)


def frame_of(kind: int, payload: bytes = b"", **fields: int) -> bytes:
    return encode_frame(kind, payload, **fields)


OPEN_X = encode(
    Open(Use.SUBSCRIBE, "sources/x", "", 1, 1000, raw(SubscribeDetail(Start.FIRST)))
)

VIOLATIONS: list[tuple[str, Callable[[], bytes], int]] = [
    ("an HTTP request", lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 3),
    ("random bytes", lambda: bytes(range(7, 40)), 3),
    ("another first frame", lambda: frame_of(FrameType.PING, encode(Ping(0, 0))), 1),
    ("a HELLO with a flipped bit", lambda: flipped(hello(), 30), 2),
    ("version 9 only", lambda: hello(version=9, oldest=9), 4),
    ("data first", lambda: frame_of(FrameType.CHUNK, b"x", stream_id=1), 1),
]

AFTER_HELLO: list[tuple[str, Callable[[], bytes], int]] = [
    ("a second HELLO", hello, Code.WRONG_STATE),
    ("a server's frame", lambda: frame_of(FrameType.WELCOME), Code.WRONG_STATE),
    ("an unknown mandatory type", lambda: frame_of(0x66), Code.UNKNOWN_FRAME),
    (
        "an oversized frame",
        lambda: pack_header(FrameType.PING, 0, 0, 0, 0, 2**24, 0),
        Code.FRAME_TOO_LARGE,
    ),
    (
        "a stream never opened",
        lambda: frame_of(FrameType.EVENTS, b"\0\0\0\1\0\0\0\0", stream_id=9),
        Code.UNKNOWN_STREAM,
    ),
    (
        "an ACK of what was never sent",
        lambda: frame_of(
            FrameType.ACK,
            encode(Ack(1, 1, 0, Durability.MEMORY)),
            stream_id=1,
            sequence=99,
        ),
        Code.BAD_FRAME,
    ),
    (
        "an END where the peer sends",
        lambda: frame_of(
            FrameType.END, encode(End(Intent.COMPLETED, 0, "")), stream_id=1
        ),
        Code.WRONG_STATE,
    ),
    (
        "a stream id used again",
        lambda: frame_of(FrameType.OPEN, OPEN_X, stream_id=1),
        Code.WRONG_STATE,
    ),
    ("a malformed payload", lambda: frame_of(FrameType.PING, b"\xc1"), Code.BAD_FRAME),
    (
        "eleven pings at once",
        lambda: frame_of(FrameType.PING, encode(Ping(0, 0))) * 11,
        Code.LIMIT_EXCEEDED,
    ),
    (
        "a request id used twice",
        lambda: frame_of(FrameType.LIST, encode(List("objects/")), sequence=1) * 2,
        Code.BAD_FRAME,
    ),
    (
        "RESUME after the handshake",
        lambda: frame_of(FrameType.RESUME),
        Code.WRONG_STATE,
    ),
]


@pytest.mark.parametrize(
    ("sent", "code"), [v[1:] for v in VIOLATIONS], ids=[v[0] for v in VIOLATIONS]
)
def test_a_wrong_beginning_is_answered_with_its_code(
    sent: Callable[[], bytes], code: int
) -> None:
    """SPEC.md §7, §20."""
    pair = Pair()
    pair.c.data_to_send(pair.now)  # our own HELLO is not sent
    pair.to_server += sent()
    pair._deliver(pair.to_server, pair.s)
    assert pair.s.closing
    assert pair.s.stats.errors_sent[code] == 1


@pytest.mark.parametrize(
    ("sent", "code"), [v[1:] for v in AFTER_HELLO], ids=[v[0] for v in AFTER_HELLO]
)
def test_every_violation_has_its_documented_error(
    sent: Callable[[], bytes], code: int
) -> None:
    """SPEC.md §20: the peer is told the code, and the session stays."""
    pair = Pair()
    pair.server.logs["sources/x"] = feed()
    pair.client.subscribe("sources/x")
    pair.run()
    pair.to_server += sent()
    pair.run()
    assert failure(pair).code == code
    assert failure(pair).by_peer
    assert pair.s.closing
    pair.reconnect()
    pair.run()
    assert not pair.c.closing


def test_an_unknown_optional_frame_is_skipped() -> None:
    pair = Pair()
    pair.run()
    pair.to_server += frame_of(0xF0, b"from the future")
    pair.run()
    assert not pair.s.closing


def test_data_beyond_the_window_is_flow_control() -> None:
    pair = Pair()
    pair.server.hold_stores = True
    stream = pair.client.upload(b"q" * 40_960, chunk_size=4096)
    for _ in range(6):
        pair.step()
    pair.to_server.clear()
    for index in range(1, 10):
        pair.to_server += frame_of(
            FrameType.CHUNK, b"q" * 4096, flags=1, stream_id=stream.id, sequence=index
        )
    pair.run()
    assert failure(pair).code == Code.FLOW_CONTROL


def test_frames_for_an_ended_stream_are_discarded() -> None:
    pair = Pair()
    stream = pair.client.upload(b"tiny")
    pair.run()
    pair.c.release(stream)
    pair.run()
    pair.to_server += frame_of(
        FrameType.CHUNK, b"late", flags=1, stream_id=stream.id, sequence=1
    )
    pair.run()
    assert not pair.s.closing


def test_too_many_streams_refuses_the_stream_only() -> None:
    pair = Pair(MemoryServer(server_limits=limits(max_streams=2)))
    streams = [pair.client.upload(b"data", key=f"k{n}") for n in range(3)]
    pair.run()
    assert pair.client.refusals == {streams[2].id: Code.TOO_MANY_STREAMS}
    assert not pair.s.closing


def test_streams_that_have_ended_make_room_for_others() -> None:
    """SPEC.md §6: clients that release nothing can go on, at a bounded price."""
    pair = Pair(MemoryServer(server_limits=limits(max_streams=2)))
    for number in range(5):
        stream = pair.client.upload(b"data", key=f"k{number}")
        pair.run()
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
        assert len(pair.s.streams) <= 2
    live = [pair.client.upload(b"data", key=f"l{n}") for n in range(3)]
    pair.run()
    assert pair.client.refusals == {live[2].id: Code.TOO_MANY_STREAMS}


def test_an_outcome_to_a_request_carries_its_id() -> None:
    pair = Pair()
    pair.run()
    pair.c.request(FrameType.CANCEL, 3, Cancel(Scope.WORK, "uploads/u1"))
    pair.run()
    outcome = Outcome(OutcomeKind.CANCELLED, Code.CANCELLED_BY_OPERATOR, "", 4, 0.0)
    pair.s.reply(3, outcome)
    pair.run()
    assert ReplyReceived(3, outcome) in pair.client.notices


def test_tokens_stay_out_of_what_is_printed() -> None:
    assert "secret" not in repr(Session("s", b"secret", 1))
