"""The sending half of a chunk stream, at its edges (SPEC.md §10)."""

from __future__ import annotations

import random

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.messages import (
    Ack,
    Durability,
    End,
    Intent,
    OutcomeKind,
    Scope,
    Standing,
)
from tests.proto.joined import MemoryClient, Pair

CHUNK = 40_000
DATA = random.Random(5).randbytes(10 * CHUNK - 5)


class Releasing(MemoryClient):
    """Counts the loads that it gave out and has not got back."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[int] = []

    def supply(self, sender: ChunkSender, index: int) -> None:
        part = DATA[index * CHUNK :][:CHUNK]
        self.out.append(index)
        sender.supply(index, memoryview(part), lambda: self.out.remove(index))

    def load(self, stream: object) -> None:
        if self.hold_loads:
            return
        (only,) = self.session.streams.values()
        sender = only.sender
        assert isinstance(sender, ChunkSender)
        for first, end in sender.unknown():
            for index in range(first, end):
                part = DATA[index * CHUNK :][:CHUNK]
                sender.known(index, crc32c(part), len(part))
        while (wanted := sender.wanted()) is not None:
            self.supply(sender, wanted)
        if sender.sent_position == sender.total:
            whole = sender.whole()
            assert whole is not None
            sender.finish(End(Intent.COMPLETED, 0, "", size=whole[0], crc=whole[1]))


def uploading(*, piece: int = 2**20) -> tuple[Pair, Releasing, ChunkSender]:
    client = Releasing()
    pair = Pair(client=client, piece=piece)
    stream = client.upload(DATA, chunk_size=CHUNK, key="k")
    assert isinstance(stream.sender, ChunkSender)
    return pair, client, stream.sender


def test_every_load_is_given_back_once_its_bytes_are_written() -> None:
    pair, client, sender = uploading()
    most = 0
    while pair.step():
        most = max(most, len(client.out))
    assert client.out == []
    assert 1 <= most <= 3
    assert sender.whole() == (len(DATA), crc32c(DATA))
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


@pytest.mark.parametrize("steps", range(4, 24, 3))
@pytest.mark.parametrize("end", ["drop", "cancel", "release", "close"])
def test_every_load_is_given_back_however_it_ends(steps: int, end: str) -> None:
    pair, client, sender = uploading(piece=9000)
    for _ in range(steps):
        pair.step()
    client.hold_loads = True
    if end == "drop":
        pair.drop()
    elif end == "cancel":
        pair.c.cancel(sender.stream, scope=Scope.STREAM)
    elif end == "release":
        pair.c.release(sender.stream)
    else:
        pair.c.lost()
    pair.c.data_to_send(pair.now)
    assert client.out == []


def test_a_load_that_is_wanted_no_more_is_given_back_at_once() -> None:
    pair, client, sender = uploading()
    client.hold_loads = True
    pair.run()
    index = sender.wanted()
    assert index == 0
    pair.drop()
    client.supply(sender, index)
    sender.supply(index, memoryview(b""))
    assert client.out == []


def test_a_load_that_the_receiver_has_meanwhile_is_given_back() -> None:
    pair, client, sender = uploading()
    client.hold_loads = True
    pair.run()
    index = sender.wanted()
    assert index == 0
    client.supply(sender, index)
    sender.stored = 1  # as OPENED of an early upload may say
    pair.c._scheduler.activate(sender)
    pair.c.data_to_send(pair.now)
    assert client.out == []


def test_the_crc_of_a_prefix_is_known_as_far_as_its_chunks_are() -> None:
    _pair, _client, sender = uploading()
    assert sender.prefix_crc(0) == 0
    assert sender.prefix_crc(1) is None
    assert sender.whole() is None
    sender.known(0, 7, CHUNK)
    assert sender.crc_of(0) == sender.prefix_crc(1) == 7
    assert sender.crc_of(1) is None
    assert sender.prefix_crc(2) is None
    sender.move(1)
    assert sender.prefix_crc(0) is None  # composed into the prefix, and gone


def test_a_size_that_is_not_known_leaves_the_total_open() -> None:
    pair = Pair()
    stream = pair.client.upload(b"x" * 3000, chunk_size=1024, size_known=False)
    sender = stream.sender
    assert isinstance(sender, ChunkSender)
    assert sender.total is None
    assert sender.length_of(10**6) == 1024
    assert sender.whole() == (0, 0)
    pair.run()
    assert sender.total == 3


@pytest.mark.parametrize(
    ("position", "ranges"), [(5, ()), (0, ((2, 11),)), (10**12, ())]
)
def test_an_ack_of_chunks_that_were_never_sent_is_bad(
    position: int, ranges: tuple[tuple[int, int], ...]
) -> None:
    """SPEC.md §13."""
    pair, _client, sender = uploading()
    pair.server.hold_stores = True
    pair.run()
    ack = Ack(9, 9 * CHUNK, 0, Durability.SYNCED, ranges)
    with pytest.raises(ProtocolViolation) as found:
        sender.acknowledged(position, ack, rewind=False, now=0.0)
    assert found.value.code is Code.BAD_FRAME


def test_a_receiver_that_has_lost_acknowledged_chunks_is_loud() -> None:
    pair, _client, sender = uploading()
    pair.run()
    with pytest.raises(ProtocolViolation) as found:
        sender.attach(Standing(7, 1, 4, 4, 4, 4 * CHUNK))
    assert found.value.code is Code.POSITION_LOST


def test_a_failed_upload_ends_where_the_receiver_stands() -> None:
    pair, client, sender = uploading(piece=9000)
    pair.run_until(lambda: sender.stored == 3)
    client.hold_loads = True
    sender.fail(Code.SOURCE_CHANGED, "it was written to")
    sender.fail(Code.SOURCE_FAILED, "a second failure changes nothing")
    pair.reconnect()
    pair.run()
    outcome = pair.client.outcomes[1]
    assert (outcome.outcome, outcome.code) == (OutcomeKind.FAILED, Code.SOURCE_CHANGED)
    assert sender.held == 0


class Parts:
    """Reads parts of `DATA` up to `end`, as a source does that waits for nothing."""

    def __init__(self, end: int = len(DATA)) -> None:
        self.end = end
        self.data = DATA
        self.out = 0
        self.read: list[int] = []

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        at = index * CHUNK + offset
        if at + size > self.end:
            return None
        self.out += 1
        self.read.append(at)
        return memoryview(self.data)[at : at + size]

    def release_part(self, part: memoryview) -> None:
        self.out -= 1


def test_what_can_be_read_at_once_is_sent_in_parts_and_nothing_is_loaded() -> None:
    pair, client, sender = uploading()
    parts = sender.reader = Parts()
    most = 0
    while pair.step():
        most = max(most, parts.out)
        assert client.out == []
    assert parts.out == 0
    assert 1 <= most <= 4
    assert parts.read == sorted(set(parts.read))
    assert sender.whole() == (len(DATA), crc32c(DATA))
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


@pytest.mark.parametrize("end", [0, 1, CHUNK, 3 * CHUNK, 3 * CHUNK + 17_000])
def test_from_the_first_part_that_could_wait_on_chunks_are_loaded(end: int) -> None:
    pair, client, sender = uploading()
    parts = sender.reader = Parts(end)
    pair.run()
    assert sender.reader is None
    assert sender.whole() == (len(DATA), crc32c(DATA))
    assert (parts.out, client.out) == (0, [])
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


@pytest.mark.parametrize("steps", range(4, 40, 3))
def test_parts_go_on_inside_the_chunk_that_a_lost_connection_has_begun(
    steps: int,
) -> None:
    pair, client, sender = uploading(piece=9000)
    parts = sender.reader = Parts()
    for _ in range(steps):
        pair.step()
    pair.drop()
    assert (parts.out, client.out) == (0, [])
    pair.connect()
    pair.run()
    assert sender.whole() == (len(DATA), crc32c(DATA))
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


def cut_inside_a_chunk(parts: Parts) -> tuple[Pair, Releasing, ChunkSender]:
    """Lose the connection when the receiver holds a part of a chunk."""
    pair, client, sender = uploading(piece=9000)
    sender.reader = parts
    pair.run_until(lambda: bool(parts.read) and parts.read[-1] % CHUNK > 0)
    pair.step()
    pair.step()
    pair.drop()
    parts.read.clear()
    return pair, client, sender


def test_what_the_receiver_holds_is_read_at_once_for_its_checksum() -> None:
    parts = Parts()
    pair, _client, sender = cut_inside_a_chunk(parts)
    pair.connect()
    pair.run()
    held, sent = parts.read[:2]
    assert held % CHUNK == 0
    assert held < sent < held + CHUNK
    assert sender.reader is parts
    assert parts.out == 0
    assert sender.whole() == (len(DATA), crc32c(DATA))
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


def test_what_the_receiver_holds_is_loaded_where_reading_it_could_wait() -> None:
    parts = Parts()
    pair, client, sender = cut_inside_a_chunk(parts)
    parts.end = 0
    pair.connect()
    pair.run()
    assert sender.reader is None
    assert (parts.out, client.out) == (0, [])
    assert sender.whole() == (len(DATA), crc32c(DATA))
    assert pair.client.outcomes[1].outcome is OutcomeKind.COMPLETED


def test_other_bytes_than_the_receiver_holds_are_found_in_parts() -> None:
    parts = Parts()
    pair, _client, _sender = cut_inside_a_chunk(parts)
    parts.data = bytes(len(DATA))
    pair.connect()
    pair.run()
    assert parts.out == 0
    assert pair.client.broken[1] == Code.PROOF_MISMATCH


def test_a_chunk_whose_rest_cannot_be_had_is_ended_in_its_middle() -> None:
    """SPEC.md §10: END failed has the number of the chunk that it cuts off."""
    pair, client, sender = uploading()
    client.hold_loads = True
    sender.reader = Parts(3 * CHUNK + 17_000)
    pair.run()
    assert sender.sent_position == 3
    assert sender.outstanding
    assert sender.wanted() == 3
    sender.fail(Code.SOURCE_CHANGED, "shorter")
    pair.run()
    outcome = pair.client.outcomes[1]
    assert (outcome.outcome, outcome.code) == (OutcomeKind.FAILED, Code.SOURCE_CHANGED)
    assert outcome.position == 3
    assert not pair.c.closing
