"""Peers that go to a limit, or past it (SPEC.md §6, §11, §20)."""

from __future__ import annotations

import random

import pytest

from ackline.proto.allowance import ALONE, BURST, RATE, TURN, Allowance
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.connection import Phase
from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.frames import FrameType, encode_frame
from ackline.proto.messages import (
    Credit,
    End,
    Error,
    Intent,
    Open,
    Outcome,
    OutcomeKind,
    Scope,
    Status,
    StatusReport,
    UploadDetail,
    Use,
    Value,
    encode,
    raw,
)
from ackline.proto.notices import ConnectionFailed, OpenReceived, ReplyReceived
from tests.proto.joined import MemoryClient, MemoryServer, Pair, limits

CHUNK = 4096


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def feed() -> EventBuffer:
    return EventBuffer(
        generation=5, max_events=10**6, max_bytes=10**8, keep=True, define=True
    )


def completed(size: int) -> End:
    return End(Intent.COMPLETED, 0, "", size=size)


def test_streams_with_large_batches_take_turns_for_the_last_credit() -> None:
    small = limits(window_units=1, max_payload=8192)
    pair = Pair(client=MemoryClient(client_limits=small))
    streams = {}
    for name in ("sources/a", "sources/b", "sources/c"):
        pair.server.logs[name] = buffer = feed()
        for _ in range(10):
            buffer.append(b"x" * 5000)
        buffer.finish(completed(10))
        streams[name] = pair.client.subscribe(name)
    pair.run()
    for stream in streams.values():
        assert len(pair.client.events[stream.id]) == 10


def test_a_definition_travels_with_the_first_event_however_many_follow() -> None:
    pair = Pair()
    pair.server.logs["sources/x"] = buffer = feed()
    stream = pair.client.subscribe("sources/x")
    pair.run()
    kind = buffer.define("large")
    for _ in range(20):
        buffer.append(b"x" * 100_000, kind)
    buffer.finish(completed(20))
    pair.run()
    assert len(pair.client.events[stream.id]) == 20
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


@pytest.mark.parametrize("chunk_size", [0, 1023, 2**24 + 1, 2**32 - 1])
def test_a_chunk_size_that_cannot_be_is_refused_before_its_early_data(
    chunk_size: int,
) -> None:
    pair = Pair()
    pair.run()
    detail = UploadDetail(chunk_size=chunk_size, size=10, early=True)
    message = Open(Use.UPLOAD, "objects/x", "", 0, 0, raw(detail))
    pair.to_server += encode_frame(FrameType.OPEN, encode(message), stream_id=1)
    pair.to_server += encode_frame(FrameType.CHUNK, b"0123456789", stream_id=1)
    pair.c.highest_id = 1
    pair.run()
    assert pair.server.stats.errors_sent == {Code.INVALID_ARGUMENT: 1}
    assert pair.s.phase is Phase.OPEN


def test_a_receiver_that_claims_chunks_beyond_the_size_is_not_believed() -> None:
    pair = Pair(piece=1000)
    stream = pair.client.upload(content(20 * CHUNK), chunk_size=CHUNK)
    pair.run_until(lambda: stream.opened)
    receiver = pair.s.streams[stream.id].receiver
    assert receiver is not None
    receiver.stored = 10**15
    pair.reconnect()
    pair.run()
    assert pair.client.broken == {stream.id: Code.POSITION_BEYOND}
    assert isinstance(stream.sender, ChunkSender)
    assert stream.sender.unknown() == []


def test_an_early_upload_does_not_believe_it_either() -> None:
    pair = Pair()
    pair.server.hold_opens = True
    stream = pair.client.upload(content(CHUNK), chunk_size=CHUNK, early=True)
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert receiver is not None
    receiver.stored = 10**15
    pair.server.release_opens()
    pair.run()
    assert pair.client.broken == {stream.id: Code.POSITION_BEYOND}


def test_a_receiver_that_claims_events_beyond_the_newest_is_not_believed() -> None:
    pair = Pair()
    stream, buffer = pair.client.publish("logs/x", key="p")
    buffer.append(b"only one")
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert receiver is not None
    receiver.stored = 5
    pair.reconnect()
    pair.run()
    assert pair.client.broken == {stream.id: Code.POSITION_BEYOND}


def test_an_end_that_is_stored_without_an_outcome_is_sent_again() -> None:
    pair = Pair()
    stream, buffer = pair.client.publish("logs/x", key="p")
    buffer.append(b"only one")
    pair.run()
    there = pair.s.streams[stream.id].receiver
    assert there is not None
    assert isinstance(stream.sender, EventSender)
    pair.server.auto_complete = False
    stream.sender.finish(completed(1))
    pair.run()
    there.end_stored()
    pair.reconnect()
    pair.run()
    assert pair.client.broken == {}
    assert there.duplicates == 1
    assert stream.sender.end_acknowledged


def test_answers_to_a_resume_fit_the_smallest_frames() -> None:
    """SPEC.md §8.2: in one or more frames, each within the peer's limit."""
    pair = Pair(client=MemoryClient(client_limits=limits(max_payload=8192)))
    pair.server.logs["sources/x"] = feed()
    streams = [pair.client.subscribe("sources/x") for _ in range(200)]
    pair.run()
    there = [pair.s.streams[stream.id] for stream in streams]
    pair.drop()
    for number, stream in enumerate(there):
        text = "x" * (4000 if number % 3 else 0)
        outcome = Outcome(OutcomeKind.FAILED, Code.SOURCE_FAILED, text, 0, 0.0)
        stream.decide(outcome)
    pair.connect()
    pair.run()
    assert len(pair.client.outcomes) == 200
    assert pair.client.stats.errors_sent == {}


def test_a_peer_that_asks_and_never_reads_is_not_read_from() -> None:
    pair = Pair(MemoryServer(server_limits=limits(max_streams=1)))
    pair.run()
    detail = UploadDetail(chunk_size=CHUNK, size=10)
    payload = encode(Open(Use.UPLOAD, "objects/x", "", 0, 0, raw(detail)))
    opens = bytearray()
    for number in range(1, 20_001):
        opens += encode_frame(FrameType.OPEN, payload, stream_id=number)
    sent = pair.server.stats.errors_sent
    while opens and pair.s.reading:
        pair.s.reader.feed(opens[:1000])
        del opens[:1000]
        while not pair.s.reading and pair.s.next_timeout() <= pair.now:
            pair.s.handle_timeout(pair.now)  # its next turn
    assert 1000 < sent[Code.TOO_MANY_STREAMS] < 15_000
    assert opens
    waiting = sum(map(len, pair.s.data_to_send(pair.now)))
    assert 2**20 < waiting < 2**20 + 1000
    while opens:
        assert pair.s.reading
        pair.s.reader.feed(opens[:1000])
        del opens[:1000]
        while not pair.s.reading:
            pair.s.data_to_send(pair.now)
            pair.s.handle_timeout(pair.now)
    assert sent[Code.TOO_MANY_STREAMS] == 19_999
    assert sum(isinstance(n, OpenReceived) for n in pair.server.notices) == 1


def test_a_sender_waits_as_long_as_it_is_told() -> None:
    """SPEC.md §13: `retry_after`; of several streams each for its own time."""
    pair = Pair()
    streams = [pair.client.upload(content(9 * CHUNK), chunk_size=CHUNK) for _ in "ab"]
    pair.server.hold_stores = True
    pair.run()
    for seconds, notice in enumerate(list(pair.server.waiting), 1):
        pair.server.waiting.remove(notice)
        receiver = notice.stream.receiver
        assert receiver is not None
        receiver.chunk_refused(  # type: ignore[attr-defined]
            notice, code=Code.OVERLOADED, retry_after=float(seconds)
        )
    pair.server.hold_stores = False
    begun = pair.now
    pair.run_until(lambda: len(pair.client.outcomes) == 1)
    assert begun + 1.0 <= pair.now < begun + 1.5
    pair.run_until(lambda: len(pair.client.outcomes) == 2)
    assert begun + 2.0 <= pair.now < begun + 2.5
    assert {stream.id for stream in streams} == set(pair.client.outcomes)


def test_a_peer_that_takes_nothing_is_given_up_though_output_waits() -> None:
    """SPEC.md §17: the layer above is told to close, whatever is to be written."""
    pair = Pair()
    pair.run()
    told: list[float] = []
    pair.s.on_output = lambda: told.append(pair.now)
    pair.s.error(Code.OVERLOADED, "x")
    pair.s.output_blocked(pair.now)
    pair.now += 31
    pair.s.life.heard = pair.now
    told.clear()
    pair.s.handle_timeout(pair.now)
    assert pair.s.closing
    assert told


def test_answers_that_do_not_fit_the_frames_of_the_client_are_refused() -> None:
    """SPEC.md §6."""
    pair = Pair(client=MemoryClient(client_limits=limits(max_payload=8192)))
    pair.run()
    pair.c.request(FrameType.STATUS, 1, Status("logs/x"))
    pair._write(pair.c, pair.to_server)
    pair._deliver(pair.to_server, pair.s)
    facts: dict[str, Value] = {str(number): "x" * 200 for number in range(60)}
    pair.s.reply(1, StatusReport("logs/x", "STREAMING", (), facts))
    pair.run()
    replies = [n.message for n in pair.client.notices if isinstance(n, ReplyReceived)]
    assert isinstance(replies[-1], Error)
    assert replies[-1].code == Code.LIMIT_EXCEEDED


def test_many_small_frames_wait_for_their_turn() -> None:
    """SPEC.md §6: one read holds thousands of them."""
    pair = Pair()
    pair.run()
    pair.now += 1
    credit = encode_frame(FrameType.CREDIT, encode(Credit(1, 1)))
    frames = credit * 1000
    place = pair.s.buffer()
    place[: len(frames)] = frames
    before = pair.s.reader.frames
    pair.s.received(len(frames), pair.now)
    turns = 0
    while pair.s.reader.frames < before + 1000:
        assert not pair.s.reading
        assert pair.s.next_timeout() <= pair.now
        assert pair.s.reader.frames <= before + (turns + 1) * TURN
        pair.s.handle_timeout(pair.now)
        turns += 1
    assert turns >= 1000 // TURN
    assert pair.s.reading


def flooding(pair: Pair, frames: int, *, others: bool) -> float:
    """Return the seconds in which so many frames are taken, with nothing to do else."""
    core, began = pair.s, pair.now
    frame = encode_frame(FrameType.CREDIT, encode(Credit(1, 1)))
    pressure = core._allowance._pressure
    other, target = Allowance(pressure, began), core.reader.frames + frames
    while core.reader.frames < target:
        while not core.reading:
            pair.now = max(pair.now, core.next_timeout())
            core.handle_timeout(pair.now)
        place = core.buffer()
        place[: len(frame) * 64] = frame * 64
        core.received(len(frame) * 64, pair.now)
        if others:
            other.spend(0, pair.now)
    return pair.now - began


def test_under_pressure_a_client_rests_after_its_part() -> None:
    """SPEC.md §6: a fifth of a processor, and all of it where nobody else wants any."""
    for high in (False, True):
        pair = Pair()
        pair.run()
        pair.s._allowance._pressure.high = high
        least = (10_000 - BURST - TURN) / RATE if high else 0
        seconds = flooding(pair, 10_000, others=True)
        assert least <= seconds <= 10_000 / RATE * high


def test_a_client_that_is_alone_does_not_rest() -> None:
    pair = Pair()
    pair.run()
    pair.s._allowance._pressure.high = True
    flooding(pair, 1, others=True)
    assert flooding(pair, 60_000, others=False) <= ALONE + 2 * BURST / RATE


def test_work_before_there_was_pressure_counts_for_a_while() -> None:
    """A flood that makes it and rests in turn would have most of the processor."""
    pair = Pair()
    pair.run()
    assert not flooding(pair, 100_000, others=True)
    pair.s._allowance._pressure.high = True
    flooding(pair, 1, others=True)
    assert BURST / RATE <= pair.s.next_timeout() - pair.now <= 2 * BURST / RATE


def test_data_beyond_a_window_is_refused_by_its_header() -> None:
    """SPEC.md §12: before there is memory for it."""
    pair = Pair()
    pair.client.publish("logs/x")
    pair.run()
    stream = pair.s.streams[1]
    assert stream.receiver is not None
    stream.receiver.grant.limit_bytes = stream.receiver.grant.bytes + 1000
    frame = encode_frame(FrameType.EVENTS, bytes(2000), stream_id=1, sequence=1)
    place = pair.s.buffer()
    place[:24] = frame[:24]
    pair.s.received(24, pair.now)
    assert pair.s.phase is Phase.CLOSED
    assert pair.server.stats.errors_sent[Code.FLOW_CONTROL] == 1


def test_a_frame_that_does_not_come_to_its_end_is_a_lost_peer() -> None:
    """SPEC.md §6: 3 heartbeats, and a second for each KiB."""
    pair = Pair()
    pair.run()
    frame = encode_frame(FrameType.CREDIT, bytes(8000))
    ended = 0.0
    for number, byte in enumerate(frame):
        pair.now += 1
        pair.s.buffer()[:1] = bytes([byte])
        pair.s.received(1, pair.now)
        pair.s.handle_timeout(pair.now)
        if pair.s.phase is Phase.CLOSED:
            ended = number
            break
    assert 30 + 7 <= ended <= 30 + 9
    assert pair.server.stats.errors_sent[Code.PEER_LOST] == 1


def long_parameters(size: int) -> dict[str, Value]:
    return {f"p{n}": "x" * 4000 for n in range(size // 4000)}


def test_an_open_too_large_for_a_stranger_waits_for_welcome_and_keeps_its_turn() -> (
    None
):
    pair = Pair()
    streams = [
        pair.client.subscribe("logs/x", parameters=long_parameters(size))
        for size in (4000, 40_000, 4000)
    ]
    pair.run()
    assert not [n for n in pair.server.notices if isinstance(n, ConnectionFailed)]
    opened = [n for n in pair.server.notices if isinstance(n, OpenReceived)]
    assert [n.stream.id for n in opened] == [stream.id for stream in streams]


def test_what_waits_for_welcome_may_be_cancelled_and_released() -> None:
    pair = Pair()
    stream = pair.client.subscribe("logs/x", parameters=long_parameters(40_000))
    pair.c.cancel(stream, scope=Scope.STREAM)
    pair.c.release(stream)
    pair.run()
    assert not [n for n in pair.server.notices if isinstance(n, OpenReceived)]
    assert pair.c.phase is Phase.OPEN


def test_an_open_that_the_server_cannot_take_hits_its_stream_only() -> None:
    pair = Pair(MemoryServer(server_limits=limits(max_payload=8192)))
    pair.server.logs["logs/x"] = feed()
    for welcomed in (False, True):
        stream = pair.client.subscribe("logs/x", parameters=long_parameters(40_000))
        other = pair.client.subscribe("logs/x")
        pair.run()
        assert pair.client.refusals[stream.id] is Code.LIMIT_EXCEEDED, welcomed
        assert other.opened
    assert pair.c.phase is Phase.OPEN


def test_a_long_reason_to_cancel_is_cut() -> None:
    pair = Pair()
    pair.server.logs["logs/x"] = feed()
    stream = pair.client.subscribe("logs/x")
    pair.run()
    pair.c.cancel(stream, scope=Scope.STREAM, text="why " * 10**6)
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.CANCELLED
    assert pair.c.phase is Phase.OPEN


def test_a_request_that_the_server_could_not_read_is_answered_here() -> None:
    pair = Pair()
    pair.run()
    pair.c.request(FrameType.STATUS, 1, Status("objects/" + "x" * 5000))
    pair.run()
    replies = [n for n in pair.client.notices if isinstance(n, ReplyReceived)]
    assert [n.request_id for n in replies] == [1]
    assert isinstance(replies[0].message, Error)
    assert replies[0].message.code == Code.INVALID_ARGUMENT
    assert pair.c.phase is Phase.OPEN
