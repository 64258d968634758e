"""REWIND between two joined cores: what could not be kept comes again (SPEC.md §13)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.event_sender import EventSender
from ackline.proto.messages import End, Intent, OutcomeKind, Scope
from tests.proto.joined import MemoryServer, Pair, limits

CHUNK = 40_000
"""Bytes: three fragments of the smallest size."""

FULL = int(Code.INSUFFICIENT_STORAGE)


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def refuse(pair: Pair) -> None:
    """Refuse the oldest chunk that waits for the store."""
    notice = pair.server.waiting.pop(0)
    assert isinstance(notice.stream.receiver, ChunkReceiver)
    notice.stream.receiver.chunk_refused(notice, code=FULL, retry_after=0.0)


def store(pair: Pair) -> None:
    """Store the oldest chunk that waits."""
    pair.server.waiting, later = pair.server.waiting[:1], pair.server.waiting[1:]
    pair.server.release_stores()
    pair.server.waiting += later


def upload_of(pair: Pair, size: int) -> ChunkSender:
    stream = pair.client.upload(content(size), chunk_size=CHUNK, key="k")
    assert isinstance(stream.sender, ChunkSender)
    return stream.sender


def whole(pair: Pair, sender: ChunkSender, size: int) -> None:
    """Let everything go on, and see that it arrives."""
    pair.server.hold_stores = False
    pair.server.release_stores()
    pair.run()
    outcome = pair.client.outcomes[sender.stream.id]
    assert outcome.outcome is OutcomeKind.COMPLETED
    assert pair.server.uploads["k"].data() == content(size)
    assert pair.server.budget.used == 0


def warm(pair: Pair, waiting: int) -> None:
    """Go on until so many chunks wait for the store at once."""
    pair.server.hold_stores = True
    for _ in range(1000):
        if len(pair.server.waiting) == waiting:
            return
        if not pair.step():
            store(pair)
    message = "the window does not grow"
    raise AssertionError(message)


def test_an_end_that_is_on_its_way_when_a_chunk_is_refused_comes_again() -> None:
    pair = Pair(piece=10)
    sender = upload_of(pair, CHUNK)
    pair.server.hold_stores = True
    pair.run_until(lambda: bool(pair.server.waiting))
    assert sender.end_sent
    receiver = pair.server.waiting[0].stream.receiver
    assert receiver is not None
    assert receiver.end is None
    refuse(pair)
    whole(pair, sender, CHUNK)


@pytest.mark.parametrize("first", [0, 1])
def test_two_rewinds_on_their_way_at_once_are_both_obeyed(first: int) -> None:
    pair = Pair()
    sender = upload_of(pair, 20 * CHUNK)
    warm(pair, 3)
    if first:
        pair.server.waiting.reverse()
    for _ in range(2):
        refuse(pair)
        pair._write(pair.s, pair.to_client)
        pair._deliver(pair.to_client, pair.c)
        pair._write(pair.c, pair.to_server)
    whole(pair, sender, 20 * CHUNK)


def test_a_rewind_that_crosses_the_answer_to_an_earlier_one() -> None:
    pair = Pair(piece=5000)
    sender = upload_of(pair, 20 * CHUNK)
    warm(pair, 3)
    refuse(pair)
    for _ in range(7):
        pair.step()
    refuse(pair)
    whole(pair, sender, 20 * CHUNK)


@settings(max_examples=60)
@given(
    plan=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=12),
    piece=st.sampled_from([1500, 20_000, 2**20]),
    chunks=st.integers(1, 12),
)
def test_no_order_of_refusals_loses_or_repeats_a_chunk(
    plan: list[tuple[int, bool]], piece: int, chunks: int
) -> None:
    pair = Pair(piece=piece)
    sender = upload_of(pair, chunks * CHUNK - 7)
    pair.server.hold_stores = True
    for steps, last in plan:
        for _ in range(steps):
            pair.step()
        if pair.server.waiting:
            if last:
                pair.server.waiting.reverse()
            refuse(pair)
        store(pair)
    whole(pair, sender, chunks * CHUNK - 7)
    stored = pair.server.uploads["k"].stored_log
    assert sorted(stored) == list(range(chunks))


def test_chunks_dropped_half_received_use_up_no_window() -> None:
    """A sender reserves whole chunks: what it does not send of one is free again."""
    small = limits(max_chunk_size=CHUNK, window_bytes=2 * CHUNK)
    pair = Pair(MemoryServer(server_limits=small), piece=5000)
    sender = upload_of(pair, 12 * CHUNK)
    pair.server.hold_stores = True
    for _ in range(200):
        for _ in range(5):
            pair.step()
        if pair.server.waiting:
            refuse(pair)
    whole(pair, sender, 12 * CHUNK)


def test_a_chunk_half_sent_when_its_stream_is_cancelled_frees_its_credit() -> None:
    small = limits(max_chunk_size=CHUNK, window_bytes=CHUNK)
    pair = Pair(MemoryServer(server_limits=small), piece=5000)
    for _ in range(5):
        stream = pair.client.upload(content(CHUNK), chunk_size=CHUNK)
        sender = stream.sender
        assert sender is not None
        pair.run_until(lambda: sender.outstanding)  # noqa: B023 - called at once
        pair.c.cancel(stream, scope=Scope.STREAM)
        pair.run()
    assert pair.c.credit.bytes < 5 * CHUNK
    last = pair.client.upload(content(CHUNK), chunk_size=CHUNK)
    pair.run()
    assert pair.client.outcomes[last.id].outcome is OutcomeKind.COMPLETED


def test_a_source_that_has_failed_is_not_asked_for_a_refused_chunk() -> None:
    pair = Pair()
    sender = upload_of(pair, 20 * CHUNK)
    warm(pair, 2)
    sender.fail(Code.SOURCE_CHANGED, "it was written to")
    asked = len(pair.client.supplied)
    refuse(pair)
    pair.server.hold_stores = False
    pair.server.release_stores()
    pair.run()
    outcome = pair.client.outcomes[sender.stream.id]
    assert (outcome.outcome, outcome.code) == (OutcomeKind.FAILED, Code.SOURCE_CHANGED)
    assert len(pair.client.supplied) <= asked + 1


@pytest.mark.parametrize("at", [0, 1])
def test_a_publisher_is_rewound_twice_with_its_end_on_the_way(at: int) -> None:
    pair = Pair()
    stream, buffer = pair.client.publish("logs/x", key="p")
    pair.run()
    pair.server.take_batches = False
    for number in range(10):
        buffer.append(b"line %d" % number)
        pair.step()
    assert isinstance(stream.sender, EventSender)
    stream.sender.finish(End(Intent.COMPLETED, 0, "", size=10))
    if at:
        pair.run()
    else:
        pair._write(pair.c, pair.to_server)
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, EventReceiver)
    for _ in range(2):
        receiver.refused(0, code=FULL, retry_after=0.0)
        pair._write(pair.s, pair.to_client)
        pair._deliver(pair.to_client, pair.c)
        pair._write(pair.c, pair.to_server)
    pair.server.take_batches = True
    pair.run()
    assert pair.server.published["logs/x"] == [b"line %d" % n for n in range(10)]
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.budget.used == 0
