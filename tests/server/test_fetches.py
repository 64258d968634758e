"""Fetches: parts, resumes, and what becomes of objects that go (SPEC.md §9, §10)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Delete,
    Done,
    Existing,
    FetchOpened,
    OutcomeKind,
    Use,
    opened_detail,
)
from ackline.proto.notices import ChunkReceived
from tests.server.peer import LIMITS, Peer, Work

if TYPE_CHECKING:
    from tests.server.conftest import Start

DATA = random.Random(7).randbytes(400_000)


def content(work: Work) -> bytes:
    return b"".join(work.chunks[index] for index in sorted(work.chunks))


async def fetch_detail(work: Work) -> FetchOpened:
    detail = opened_detail(Use.FETCH, (await work.opened()).message)
    assert isinstance(detail, FetchOpened)
    return detail


@pytest.mark.parametrize(
    ("first", "length", "expected"),
    [
        (0, None, DATA),
        (0, 65_536, DATA[:65_536]),
        (1, 100_000, DATA[1:100_001]),
        (399_999, 10, DATA[-1:]),
        (400_000, None, b""),
        (100, 0, b""),
    ],
)
@pytest.mark.parametrize("chunk_size", [4096, 65_536])
async def test_any_part_arrives_whole(
    start: Start, first: int, length: int | None, expected: bytes, chunk_size: int
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA).ended()
        down = peer.fetch("a", chunk_size=chunk_size, start=first, length=length)
        detail = await fetch_detail(down)
        assert (detail.start, detail.length) == (first, len(expected))
        assert (await down.ended()).outcome is OutcomeKind.COMPLETED
        assert content(down) == expected
        receiver = down.stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        assert receiver.end is not None
        assert (receiver.end.size, receiver.end.crc) == receiver.whole()


async def test_a_fetch_goes_on_after_a_reconnect_and_a_restart(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("a", DATA).ended()
        down = peer.fetch("a", chunk_size=16_384, take=False)
        await down.until(ChunkReceived)
        await peer.drop()
        down.go_on()
        await peer.connect()
        down.take = False
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        down.go_on()
        await down.ended()
        assert content(down) == DATA
        await peer.drop()


async def test_a_prefix_the_client_has_is_not_sent_again(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA).ended()
        parts = [DATA[at : at + 16_384] for at in range(0, len(DATA), 16_384)]
        have = {n: (len(part), crc32c(part)) for n, part in enumerate(parts[:3])}
        down = peer.fetch("a", chunk_size=16_384, have=have)
        standing = (await down.opened()).message.standing
        assert (standing.position, standing.verified) == (3, True)
        assert (await down.ended()).outcome is OutcomeKind.COMPLETED
        assert content(down) == DATA[3 * 16_384 :]
        have[1] = (16_384, 0)
        wrong = peer.fetch("a", chunk_size=16_384, have=have)
        assert (await wrong.refused()).message.code == Code.PROOF_MISMATCH


async def test_a_small_client_gets_smaller_chunks(start: Start) -> None:
    small = structs.replace(LIMITS, max_chunk_size=2048, max_payload=8192)
    async with start() as serving, Peer(serving.port, limits=small) as peer:
        await peer.upload("a", DATA[:20_000]).ended()
        down = peer.fetch("a", chunk_size=65_536)
        assert (await fetch_detail(down)).chunk_size == 2048
        await down.ended()
        assert content(down) == DATA[:20_000]


async def test_what_is_not_there_is_refused(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"x").ended()
        for detail, code in (
            ({"version": 7}, Code.NOT_FOUND),
            ({"object_id": "0" * 32}, Code.NOT_FOUND),
            ({"start": 2}, Code.INVALID_ARGUMENT),
            ({"have": {0: (1, 0), 1: (1, 0)}}, Code.POSITION_BEYOND),
            ({"chunk_size": 10}, Code.INVALID_ARGUMENT),
        ):
            refused = peer.fetch("a", **detail)
            assert (await refused.refused()).message.code == code, detail
        assert (await peer.fetch("b").refused()).message.code == Code.NOT_FOUND


async def test_an_open_reader_keeps_a_deleted_object(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA).ended()
        down = peer.fetch("a", chunk_size=16_384, take=False)
        await down.opened()
        done = await peer.request(FrameType.DELETE, Delete("objects/a"))
        assert isinstance(done, Done)
        receiver = down.stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        await peer.drop()
        await peer.connect()
        down.go_on()
        await down.ended()
        assert content(down) == DATA
        assert (await peer.fetch("a").refused()).message.code == Code.NOT_FOUND


async def test_a_replaced_object_is_told_after_a_restart(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("a", DATA).ended()
        down = peer.fetch("a", chunk_size=16_384, take=False)
        await down.opened()
        await peer.upload("a", b"new", existing=Existing.REPLACE).ended()
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        assert (await down.broken()).code == Code.NOT_FOUND
        await peer.drop()


async def test_cancelling_a_fetch_ends_it(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA).ended()
        down = peer.fetch("a", chunk_size=4096, take=False)
        await down.opened()
        down.cancel()
        outcome = await down.ended()
        assert outcome.outcome is OutcomeKind.CANCELLED


async def test_many_fetches_share_little_memory(start: Start) -> None:
    async with (
        start(send_budget=2**20, max_chunk_size=2**20) as serving,
        Peer(serving.port) as peer,
    ):
        await peer.upload("a", DATA * 8, chunk_size=2**20).ended()
        works = [peer.fetch("a", chunk_size=2**20) for _ in range(20)]
        for work in works:
            await work.ended()
            assert content(work) == DATA * 8
