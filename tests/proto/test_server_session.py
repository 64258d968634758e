"""Bringing streams back one by one (SPEC.md §8.2)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import Code
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import End, Intent, Proof, ResumedStream, ResumeStream
from ackline.proto.proofs import NOTHING
from ackline.proto.server_session import resume_stream
from tests.proto.joined import Pair

if TYPE_CHECKING:
    from ackline.proto.stream import Stream

CHUNK = 4096
DATA = random.Random(3).randbytes(5 * CHUNK + 100)


def fetching() -> tuple[Pair, Stream]:
    """Return a fetch as the server has it, with every CRC known."""
    pair = Pair()
    pair.server.objects["objects/x"] = DATA
    pair.client.fetch("objects/x", chunk_size=CHUNK)
    pair.run_until(lambda: 1 in pair.s.streams and pair.s.streams[1].opened)
    stream = pair.s.streams[1]
    pair.drop()
    sender = stream.sender
    assert isinstance(sender, ChunkSender)
    for index in range(6):
        part = DATA[index * CHUNK :][:CHUNK]
        sender.known(index, crc32c(part), len(part))
    pair.connect()
    return pair, stream


def subscribing(first: int, count: int) -> tuple[Pair, Stream]:
    pair = Pair()
    buffer = EventBuffer(
        generation=5, max_events=99, max_bytes=10**6, keep=True, start=first
    )
    for number in range(first, first + count):
        buffer.append(b"%d" % number)
    pair.server.logs["sources/x"] = buffer
    pair.client.subscribe("sources/x")
    pair.run()
    return pair, pair.s.streams[1]


def wanted(position: int, **changes: object) -> ResumeStream:
    return structs.replace(
        ResumeStream(1, 0, position, 0, 0, None, 9, 10**6), **changes
    )


def resumed(pair: Pair, stream: Stream, asked: ResumeStream) -> ResumedStream:
    return resume_stream(stream, asked, pair.s)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (wanted(7), Code.POSITION_BEYOND),
        (wanted(0, held=CHUNK + 1), Code.POSITION_BEYOND),
        (wanted(6, held=1), Code.POSITION_BEYOND),
        (wanted(0, generation=8), Code.GENERATION_CHANGED),
        (wanted(2, proof=Proof(0, 2, 0, 0, 1)), Code.PROOF_MISMATCH),
        (wanted(5, held=100, held_crc=1), Code.PROOF_MISMATCH),
    ],
)
def test_a_fetch_that_cannot_go_on_is_told_why(asked: ResumeStream, code: Code) -> None:
    pair, stream = fetching()
    answer = resumed(pair, stream, asked)
    assert (answer.code, answer.standing) == (code, None)


@pytest.mark.parametrize(
    ("asked", "position", "held", "verified"),
    [
        (wanted(2), 2, 0, False),
        (wanted(2, proof=Proof(0, 2, 0, 0, crc32c(DATA[: 2 * CHUNK]))), 2, 0, True),
        (wanted(3, proof=Proof(0, 2, 0, 0, crc32c(DATA[: 2 * CHUNK]))), 3, 0, True),
        (wanted(2, proof=Proof(0, 2**50, 0, 0, 1)), 2, 0, False),
        (wanted(5, held=99, held_crc=7), 5, 99, False),
        (wanted(5, held=100, held_crc=crc32c(DATA[5 * CHUNK :])), 6, 0, False),
        (wanted(6), 6, 0, False),
    ],
)
def test_a_fetch_goes_on_where_the_client_says(
    asked: ResumeStream, position: int, held: int, verified: bool
) -> None:
    pair, stream = fetching()
    standing = resumed(pair, stream, asked).standing
    assert standing is not None
    assert (standing.position, standing.held) == (position, held)
    assert standing.verified == verified


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (wanted(2), Code.POSITION_TRIMMED),
        (wanted(9), Code.POSITION_BEYOND),
        (wanted(8, proof=Proof(3, 8, 5, 1, 1)), Code.PROOF_MISMATCH),
        (wanted(8, generation=4), Code.GENERATION_CHANGED),
    ],
)
def test_a_subscription_that_cannot_go_on_is_told_why(
    asked: ResumeStream, code: Code
) -> None:
    pair, stream = subscribing(3, 5)
    feed = pair.server.logs["sources/x"]
    assert isinstance(feed, EventBuffer)
    feed._sums = [NOTHING]  # of what, matters to nobody
    answer = resumed(pair, stream, asked)
    assert (answer.code, answer.standing) == (code, None)


def test_an_ended_stream_is_answered_with_its_outcome_whatever_is_asked() -> None:
    pair, stream = subscribing(0, 1)
    feed = pair.server.logs["sources/x"]
    assert isinstance(feed, EventBuffer)
    feed.finish(End(Intent.COMPLETED, 0, "", size=1))
    pair.run()
    answer = resumed(pair, stream, wanted(77, generation=66))
    assert answer.code == 0
    assert answer.standing is not None
    assert answer.standing.outcome == stream.outcome
