"""Uploads between two joined cores (SPEC.md §8, §10, §12, §13, §14)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.frames import LAST, FrameType, pack_header
from ackline.proto.lifecycle import State
from ackline.proto.messages import Cancel, OutcomeKind, Scope
from tests.proto.joined import MemoryClient, MemoryServer, Pair, limits

if TYPE_CHECKING:
    from ackline.proto.server_connection import ServerConnection
    from ackline.proto.stream import Stream

CHUNK = 4096


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 70_000])
@pytest.mark.parametrize("piece", [1, 7, 4120, 2**20])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("size_known", [False, True])
def test_any_size_in_any_pieces_arrives_whole(
    size: int, piece: int, early: bool, size_known: bool
) -> None:
    pair = Pair(piece=piece)
    data = content(size)
    stream = pair.client.upload(
        data, chunk_size=CHUNK, early=early, size_known=size_known
    )
    pair.run()
    outcome = pair.client.outcomes[stream.id]
    assert outcome.outcome is OutcomeKind.COMPLETED
    assert outcome.object is not None
    assert outcome.object.crc == crc32c(data)
    assert pair.server.uploads[f"none-{stream.id}"].data() == data
    assert stream.lifecycle.state is State.COMPLETED


def test_an_end_that_comes_before_opened_is_not_forgotten() -> None:
    """SPEC.md §9.2: an empty file is END alone, right behind its OPEN."""
    pair = Pair()
    pair.run()
    waiting: list[tuple[ServerConnection, Stream]] = []
    opened = pair.server.opened
    pair.server.opened = lambda *opening: waiting.append(opening)  # type: ignore[method-assign]
    stream = pair.client.upload(b"", early=True)
    pair.run()
    assert len(waiting) == 1
    opened(*waiting[0])
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_a_tiny_early_upload_takes_one_round_trip() -> None:
    """SPEC.md §9.2: OPEN, data and END go out together, before OPENED."""
    pair = Pair()
    pair.run()
    stream = pair.client.upload(b"tiny", early=True)
    pair.step()
    pair.step()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


@settings(max_examples=150)
@given(
    size=st.integers(1, 60_000),
    chunk=st.sampled_from([1024, 4096, 10_000]),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    piece=st.sampled_from([13, 1000, 5000]),
    hold=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_cut_loses_a_byte_or_repeats_an_acknowledged_chunk(
    size: int, chunk: int, cuts: list[int], piece: int, hold: bool, seed: int
) -> None:
    pair = Pair(piece=piece)
    data = content(size, seed)
    stream = pair.client.upload(data, chunk_size=chunk, key="k")
    pair.server.hold_stores = hold
    for cut in cuts:
        for _ in range(cut):
            pair.step()
            if hold and pair.random.random() < 0.2:
                pair.server.release_stores(order=lambda _i: pair.random.random())  # type: ignore[arg-type, return-value]
        pair.server.release_stores()
        pair.reconnect()
    pair.server.hold_stores = False
    pair.server.release_stores()
    pair.run()
    upload = pair.server.uploads["k"]
    assert upload.data() == data
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert len(upload.stored_log) == len(set(upload.stored_log))


def test_an_incomplete_chunk_continues_where_it_was_cut() -> None:
    """SPEC.md §10: a chunk gets through a link that never lives that long."""
    pair = Pair(piece=1000)
    data = content(100_000)
    stream = pair.client.upload(data, chunk_size=100_000, key="k")
    for _ in range(40):
        for _ in range(40):
            pair.step()
        if stream.id in pair.client.outcomes:
            break
        pair.reconnect()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.uploads["k"].data() == data


def test_every_chunk_is_loaded_once_though_it_travels_in_fragments() -> None:
    pair = Pair()
    data = content(10 * 100_000)
    stream = pair.client.upload(data, chunk_size=100_000)
    pair.run()
    assert pair.client.supplied == [(stream.id, index) for index in range(10)]
    assert pair.c.stats.frames_sent[FrameType.CHUNK] >= 40
    assert pair.server.uploads["none-1"].data() == data


def test_chunks_stored_out_of_order_are_acknowledged_as_ranges() -> None:
    pair = Pair()
    pair.server.hold_stores = True
    data = content(8 * CHUNK)
    stream = pair.client.upload(data, chunk_size=CHUNK, key="k")
    for _ in range(10):
        pair.step()
    waiting = pair.server.waiting
    assert len(waiting) == 1  # the window begins with one chunk
    pair.server.release_stores()
    for _ in range(10):
        pair.step()
    assert len(pair.server.waiting) == 2
    kept = pair.server.waiting.pop(0)
    pair.server.release_stores()
    pair.run_until(lambda: stream.sender is not None and not pair.step())
    pair.reconnect()
    pair.server.waiting.append(kept)
    pair.server.hold_stores = False
    pair.server.release_stores()
    pair.run()
    assert pair.server.uploads["k"].stored_log.count(2) == 1
    assert pair.server.uploads["k"].data() == data


def test_a_full_disk_rewinds_and_goes_on_when_there_is_space() -> None:
    """SPEC.md §13: REWIND and retry_after."""
    pair = Pair()
    data = content(20 * CHUNK)
    stream = pair.client.upload(data, chunk_size=CHUNK)
    pair.server.fail_stores = 3
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    assert pair.server.uploads["none-1"].data() == data
    assert pair.now >= 1001.0  # it waited as it was told


def test_opening_again_with_the_key_continues_from_another_process() -> None:
    """SPEC.md §9.3, and the prefix is verified by proof."""
    data = content(30 * CHUNK)
    first = Pair()
    first.client.upload(data, chunk_size=CHUNK, key="k")
    first.run_until(
        lambda: (
            len(first.server.uploads["k"].chunks) >= 12
            if "k" in first.server.uploads
            else False
        )
    )
    second = Pair(first.server, MemoryClient())
    stream = second.client.upload(data, chunk_size=CHUNK, key="k")
    second.run()
    assert second.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    upload = second.server.uploads["k"]
    assert upload.data() == data
    assert len(upload.stored_log) == len(set(upload.stored_log))


def test_another_file_under_the_same_key_is_found_by_its_proof() -> None:
    data = content(30 * CHUNK)
    first = Pair()
    first.client.upload(data, chunk_size=CHUNK, key="k")
    first.run_until(
        lambda: (
            "k" in first.server.uploads and len(first.server.uploads["k"].chunks) >= 12
        )
    )
    second = Pair(first.server, MemoryClient())
    other = b"x" + data[1:]
    stream = second.client.upload(other, chunk_size=CHUNK, key="k")
    second.run()
    assert second.client.broken[stream.id] == Code.PROOF_MISMATCH
    assert stream.id not in second.client.outcomes


def test_a_finished_upload_answers_with_its_outcome() -> None:
    data = content(3 * CHUNK)
    first = Pair()
    first.client.upload(data, chunk_size=CHUNK, key="k")
    first.run()
    second = Pair(first.server, MemoryClient())
    stream = second.client.upload(data, chunk_size=CHUNK, key="k")
    second.run()
    assert second.client.outcomes[stream.id].object is not None
    assert second.server.uploads["k"].stored_log == [0, 1, 2]


def test_the_outcome_is_found_by_a_late_resume() -> None:
    pair = Pair()
    stream = pair.client.upload(content(CHUNK), chunk_size=CHUNK, key="k")
    pair.run_until(
        lambda: (
            pair.server.uploads["k"].outcome is not None
            if "k" in pair.server.uploads
            else False
        )
    )
    pair.to_client.clear()
    assert stream.id not in pair.client.outcomes
    pair.reconnect()
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def raw_chunk(stream_id: int, index: int, data: bytes) -> bytes:
    header = pack_header(
        FrameType.CHUNK, LAST, 0, stream_id, index, len(data), crc32c(data)
    )
    return header + data


def test_a_chunk_sent_twice_is_stored_once() -> None:
    """SPEC.md §13."""
    pair = Pair()
    stream = pair.client.upload(content(10 * CHUNK), chunk_size=CHUNK)
    pair.run_until(
        lambda: (
            bool(pair.server.waiting)
            or 1 in [i for u in pair.server.uploads.values() for i in u.chunks]
        )
    )
    upload = pair.server.uploads["none-1"]
    pair.to_server.clear()
    server_stream = upload.stream
    assert server_stream is not None
    assert server_stream.receiver is not None
    pair.to_server += raw_chunk(stream.id, 0, content(10 * CHUNK)[:CHUNK])
    before = pair.s.stats.frames_sent[FrameType.ACK]
    for _ in range(3):
        pair.step()
    assert upload.stored_log.count(0) == 1
    assert server_stream.receiver.duplicates == 1
    assert pair.s.stats.frames_sent[FrameType.ACK] > before


def test_a_chunk_with_another_checksum_is_a_conflict_and_changes_nothing() -> None:
    pair = Pair()
    data = content(10 * CHUNK)
    stream = pair.client.upload(data, chunk_size=CHUNK)
    pair.run_until(lambda: any(u.chunks for u in pair.server.uploads.values()))
    pair.to_server.clear()
    pair.to_server += raw_chunk(stream.id, 0, b"?" * CHUNK)
    for _ in range(3):
        pair.step()
    assert pair.client.errors == [(stream.id, Code.CHECKSUM_CONFLICT)]
    assert pair.server.uploads["none-1"].chunks[0][0] == data[:CHUNK]
    assert not pair.s.closing


def test_cancel_is_answered_with_the_position_and_nothing_follows() -> None:
    pair = Pair()
    stream = pair.client.upload(content(50 * CHUNK), chunk_size=CHUNK)
    pair.run_until(lambda: any(len(u.chunks) > 5 for u in pair.server.uploads.values()))
    pair.c.cancel(stream, scope=Scope.STREAM)
    pair.run()
    outcome = pair.client.outcomes[stream.id]
    assert outcome.outcome is OutcomeKind.CANCELLED
    assert 5 < outcome.position < 50
    assert stream.lifecycle.state is State.CANCELLED
    pair.c.send(FrameType.CANCEL, Cancel(scope=Scope.STREAM), stream_id=stream.id)
    before = pair.s.stats.frames_sent[FrameType.OUTCOME]
    pair.run()
    assert pair.s.stats.frames_sent[FrameType.OUTCOME] == before + 1


@pytest.mark.parametrize("steps", range(1, 30))
def test_cancel_racing_completion_has_one_outcome_on_both_sides(steps: int) -> None:
    pair = Pair(piece=3000)
    stream = pair.client.upload(content(5 * CHUNK), chunk_size=CHUNK, key="k")
    for _ in range(steps):
        pair.step()
    if not stream.ended:
        pair.c.cancel(stream, scope=Scope.STREAM)
    pair.run()
    ours = pair.client.outcomes[stream.id]
    theirs = pair.server.uploads["k"].outcome
    assert theirs is not None
    assert ours.outcome is theirs.outcome


def test_pause_stops_new_units_and_survives_a_reconnect() -> None:
    """SPEC.md §14: a reconnect does not clear an explicit pause."""
    pair = Pair()
    stream = pair.client.upload(content(50 * CHUNK), chunk_size=CHUNK, key="k")
    pair.run_until(lambda: any(u.chunks for u in pair.server.uploads.values()))
    stream.pause(paused=True)
    pair.run()
    assert stream.lifecycle.state is State.PAUSED
    held = len(pair.server.uploads["k"].chunks)
    assert held < 50
    pair.reconnect()
    pair.run()
    assert len(pair.server.uploads["k"].chunks) == held
    assert stream.lifecycle.state is State.PAUSED
    stream.pause(paused=False)
    pair.run()
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED


def test_2000_uploads_share_the_smallest_legal_windows() -> None:
    small = limits(
        max_chunk_size=1024,
        window_units=1,
        window_bytes=1024,
        initial_units=1,
        initial_bytes=1024,
    )
    pair = Pair(MemoryServer(server_limits=small, budget=4096))
    data = [content(2500, seed) for seed in range(2000)]
    streams = [pair.client.upload(d, chunk_size=1024) for d in data]
    pair.run(steps=1_000_000)
    for stream, expected in zip(streams, data, strict=True):
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
        assert pair.server.uploads[f"none-{stream.id}"].data() == expected
    assert pair.server.budget.used == 0
