"""Fetches between two joined cores (SPEC.md §8, §9, §10)."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from tests.proto.joined import MemoryServer, Pair, limits

CHUNK = 20_000
"""Bytes: two fragments of the smallest size."""


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def pair_with(data: bytes, *, piece: int = 2**20) -> Pair:
    pair = Pair(piece=piece)
    pair.server.objects["objects/x"] = data
    return pair


def joined(chunks: dict[int, bytes]) -> bytes:
    return b"".join(chunks[index] for index in sorted(chunks))


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 7 * CHUNK])
@pytest.mark.parametrize("piece", [7, 4120, 2**20])
def test_any_object_arrives_whole_in_any_pieces(size: int, piece: int) -> None:
    data = content(size)
    pair = pair_with(data, piece=piece)
    stream = pair.client.fetch("objects/x", chunk_size=CHUNK)
    pair.run()
    assert joined(pair.client.fetched[stream.id]) == data
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.client.budget.used == 0


@settings(max_examples=100)
@example(size=4 * CHUNK + 1, cuts=[(8, False, False)], piece=30_000)
@example(size=1, cuts=[(4, True, False)], piece=900)
@given(
    size=st.integers(1, 8 * CHUNK),
    cuts=st.lists(
        st.tuples(st.integers(1, 60), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    piece=st.sampled_from([900, 5000, 30_000]),
)
def test_no_cut_and_no_lost_session_repeats_or_loses_a_chunk(
    size: int, cuts: list[tuple[int, bool, bool]], piece: int
) -> None:
    data = content(size)
    pair = pair_with(data, piece=piece)
    stream = pair.client.fetch("objects/x", chunk_size=CHUNK)
    for steps, lost, busy in cuts:
        pair.client.hold_stores = busy
        for _ in range(steps):
            pair.step()
        pair.drop()
        if lost:
            pair.server.sessions.clear()
        pair.connect()
        pair.client.hold_stores = False
        pair.client.release_stores()
    pair.run()
    assert joined(pair.client.fetched[stream.id]) == data
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.client.broken == {}
    assert pair.client.budget.used == 0
    assert pair.server.stats.errors_sent == {}


def test_a_chunk_size_above_the_servers_is_lowered() -> None:
    data = content(5 * CHUNK)
    server = MemoryServer(server_limits=limits(max_chunk_size=4096))
    server.objects["objects/x"] = data
    pair = Pair(server)
    stream = pair.client.fetch("objects/x", chunk_size=CHUNK)
    pair.run()
    assert joined(pair.client.fetched[stream.id]) == data
    assert isinstance(stream.receiver, ChunkReceiver)
    assert stream.receiver.chunk_size == 4096


def test_an_object_that_changed_is_found_by_the_proof() -> None:
    pair = pair_with(content(9 * CHUNK), piece=5000)
    stream = pair.client.fetch("objects/x", chunk_size=CHUNK)
    pair.run_until(lambda: len(pair.client.fetched[stream.id]) == 4)
    pair.drop()
    pair.server.sessions.clear()
    pair.server.objects["objects/x"] = content(9 * CHUNK, seed=2)
    pair.connect()
    pair.run()
    assert (stream.id, Code.PROOF_MISMATCH) in pair.client.errors


def test_bytes_of_a_half_received_chunk_are_compared_before_it_goes_on() -> None:
    data = content(CHUNK)
    pair = pair_with(data, piece=5000)
    stream = pair.client.fetch("objects/x", chunk_size=CHUNK)
    receiver = stream.receiver
    assert isinstance(receiver, ChunkReceiver)
    pair.run_until(lambda: receiver.grant.bytes > 0)
    pair.drop()
    assert receiver.held()[0] > 0
    (session,) = pair.server.sessions.values()
    session.streams[stream.id].context = b"y" + data[1:]
    pair.connect()
    pair.run()
    assert pair.client.outcomes[stream.id].code == Code.PROOF_MISMATCH
