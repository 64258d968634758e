"""Data before OPENED, between two joined cores (SPEC.md §9.2)."""

from __future__ import annotations

import random

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code
from ackline.proto.frames import LAST, FrameType, pack_header
from ackline.proto.messages import OutcomeKind
from tests.proto.joined import MemoryClient, MemoryServer, Pair, limits

CHUNK = 4096


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def begun(stored: int, data: bytes) -> MemoryServer:
    """Return a server that has the first chunks of an upload with the key `k`."""
    pair = Pair(piece=500)
    pair.client.upload(data, chunk_size=CHUNK, key="k")
    pair.run_until(lambda: "k" in pair.server.uploads)
    upload = pair.server.uploads["k"]
    pair.run_until(lambda: len(upload.chunks) == stored)
    pair.drop()
    assert len(upload.chunks) == stored
    return pair.server


@pytest.mark.parametrize("stored", [1, 3, 20])
@pytest.mark.parametrize("delivered", [0, 2000, CHUNK + 500, 5 * CHUNK, 2**20])
def test_early_chunks_of_an_upload_that_was_there_are_duplicates(
    stored: int, delivered: int
) -> None:
    data = content(30 * CHUNK)
    server = begun(stored, data)
    pair = Pair(server)
    pair.run()
    server.hold_opens = True
    stream = pair.client.upload(data, chunk_size=CHUNK, key="k", early=True)
    for _ in range(20):
        pair._write(pair.c, pair.to_server)
    pair.piece = delivered
    if delivered:
        pair._deliver(pair.to_server, pair.s)
    server.hold_opens = False
    server.release_opens()
    pair.piece = 2**20
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert server.uploads["k"].data() == data
    assert sorted(server.uploads["k"].stored_log) == list(range(30))
    assert server.budget.used == 0


def test_early_data_that_differs_from_what_is_stored_is_a_conflict() -> None:
    """SPEC.md §13: the ERROR hits the stream that was opened; nothing changes."""
    data = content(3 * CHUNK)
    server = begun(2, data)
    pair = Pair(server)
    server.hold_opens = True
    other = content(3 * CHUNK, seed=2)
    stream = pair.client.upload(other, chunk_size=CHUNK, key="k", early=True)
    pair.run()
    server.hold_opens = False
    server.release_opens()
    pair.run()
    assert pair.client.refusals == {}
    assert (stream.id, Code.CHECKSUM_CONFLICT) in pair.client.errors
    assert stream.opened
    assert server.uploads["k"].chunks[0][0] == data[:CHUNK]


def test_early_data_of_a_refused_open_is_discarded() -> None:
    pair = Pair()
    pair.server.hold_opens = True
    stream = pair.client.upload(content(8000), chunk_size=CHUNK, early=True)
    pair.run()
    (connection, refused), *_rest = pair.server.opening
    pair.server.opening.clear()
    connection.refuse(refused, Code.PERMISSION_DENIED, "not you")
    pair.server.hold_opens = False
    assert pair.server.budget.used == 0
    pair.run()
    assert pair.client.refusals == {stream.id: Code.PERMISSION_DENIED}
    again = pair.client.upload(content(8000), chunk_size=CHUNK, early=True)
    pair.run()
    assert pair.client.outcomes[again.id].outcome is OutcomeKind.COMPLETED


def test_early_data_lost_with_its_connection_is_forgotten() -> None:
    pair = Pair(MemoryServer(), MemoryClient())
    pair.server.hold_opens = True
    pair.client.upload(content(8000), chunk_size=CHUNK, early=True)
    pair.run()
    _connection, stream = pair.server.opening[0]
    pair.drop()
    assert isinstance(stream.receiver, ChunkReceiver)
    assert not stream.receiver.busy
    assert stream.receiver.wanted == 0
    assert pair.server.budget.used == 0
    pair.server.hold_opens = False
    pair.connect()
    pair.run()
    (outcome,) = pair.client.outcomes.values()
    assert outcome.outcome is OutcomeKind.COMPLETED


def test_early_events_lost_with_their_connection_are_sent_again() -> None:
    pair = Pair()
    pair.server.hold_opens = True
    stream, buffer = pair.client.publish("logs/x")
    buffer.append(b"first")
    pair.run()
    pair.drop()
    pair.server.hold_opens = False
    pair.connect()
    buffer.append(b"second")
    pair.run()
    assert pair.server.published["logs/x"] == [b"first", b"second"]
    assert stream.sender is not None
    assert stream.sender.stored == 2


def test_a_short_duplicate_does_not_become_the_last_chunk() -> None:
    """SPEC.md §13: after a conflict nothing has changed, and the stream goes on."""
    pair = Pair()
    data = content(8 * CHUNK)
    stream = pair.client.upload(data, chunk_size=CHUNK, key="k", size_known=False)
    pair.run_until(lambda: "k" in pair.server.uploads)
    upload = pair.server.uploads["k"]
    pair.run_until(lambda: len(upload.chunks) >= 2)
    pair.client.hold_loads = True
    pair.run()
    header = pack_header(FrameType.CHUNK, LAST, 0, stream.id, 0, 3, crc32c(b"abc"))
    pair.to_server += header + b"abc"
    pair.client.hold_loads = False
    pair.client.load(stream)
    pair.run()
    assert pair.client.errors == [(stream.id, Code.CHECKSUM_CONFLICT)]
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert upload.data() == data


@pytest.mark.parametrize("size", [1, 1024, 1025, 5 * CHUNK])
def test_before_welcome_only_the_least_initial_window_is_used(size: int) -> None:
    """SPEC.md §12: what the server grants is not known yet."""
    small = limits(initial_units=1, initial_bytes=1024)
    pair = Pair(MemoryServer(server_limits=small))
    stream = pair.client.upload(content(size), chunk_size=CHUNK, early=True)
    pair._write(pair.c, pair.to_server)
    assert (len(pair.to_server) > size) == (size <= 1024)
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.stats.errors_sent == {}
