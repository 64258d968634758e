"""Publishing into logs (SPEC.md §9.3, §11, §13)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.proto.batches import Batch, encode_entries
from ackline.proto.entries import GAP_KIND, gap_entry
from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Delete,
    End,
    GapReason,
    Intent,
    Open,
    OutcomeKind,
    PublishDetail,
    Seal,
    Start,
    Use,
    raw,
)
from ackline.server.maintenance.check import check
from ackline.server.stores.files import Files
from tests.server.peer import Peer, Work

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start as Starter

BODIES = [f"line {number}".encode() for number in range(100)]


async def lines(peer: Peer, name: str, count: int) -> list[bytes]:
    work = peer.subscribe(f"logs/{name}", Start.FIRST)
    received = await work.events(count)
    work.release()
    return [each[2] for each in received]


async def test_a_named_publisher_continues_its_numbering(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        first = peer.publish("log", BODIES, key="p")
        assert (await first.ended()).position == 100
        again = peer.publish("log", [], key="p", end=False)
        opened = (await again.opened()).message
        assert opened.existing
        assert opened.standing.position == 100
        assert opened.standing.log_position == 100
        more = peer.publish("log", [b"more"], key="p", start=100)
        assert (await again.error()).message.code == Code.MOVED
        assert (await more.ended()).position == 101
        assert await lines(peer, "log", 101) == [*BODIES, b"more"]


async def test_a_publisher_without_a_name_resumes_with_its_session(
    start: Starter,
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        work = peer.publish("log", BODIES, end=False)
        await work.stored(100)
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        sender = work.stream.sender
        assert isinstance(sender, EventSender)
        sender.feed.append(b"last")  # type: ignore[attr-defined]
        sender.finish(End(Intent.COMPLETED, 0, "", size=101))
        assert (await work.ended()).position == 101
        assert await lines(peer, "log", 101) == [*BODIES, b"last"]
        assert sender.sent_units == 101
        await peer.drop()


async def test_what_came_before_the_answer_is_part_of_the_proof(
    start: Starter,
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        work = peer.publish("log", BODIES[:5], end=False)
        await work.stored(5)
        await peer.drop()
        await peer.connect()
        sender = work.stream.sender
        assert isinstance(sender, EventSender)
        sender.finish(End(Intent.COMPLETED, 0, "", size=5))
        assert (await work.ended()).position == 5
        await peer.drop()


async def test_kinds_are_renumbered_and_told_to_who_listens(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"0"]).ended()
        listener = peer.subscribe("logs/log", Start.NEXT)
        await listener.opened()
        await peer.publish("log", [b"1", b"2"], kinds=("x",)).ended()
        await peer.publish("log", [b"3", b"4", b"5"], kinds=("y", "x")).ended()
        assert await listener.events(5) == [
            (1, "", b"1"),
            (2, "x", b"2"),
            (3, "", b"3"),
            (4, "y", b"4"),
            (5, "x", b"5"),
        ]


async def test_a_sealed_log_takes_no_more_and_ends_its_readers(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", BODIES).ended()
        idle = peer.publish("log", [], end=False)
        await idle.opened()
        reader = peer.subscribe("logs/log", Start.FIRST)
        await peer.request(FrameType.SEAL, Seal("logs/log"))
        assert (await reader.ended()).outcome is OutcomeKind.COMPLETED
        assert len(reader.received) == 100
        assert reader.stream.receiver is not None
        assert reader.stream.receiver.end is not None
        assert reader.stream.receiver.end.size == 100
        assert (await idle.ended()).code == Code.SEALED
        late = peer.publish("log", [b"x"])
        assert (await late.refused()).message.code == Code.SEALED


async def test_deleting_a_log_fails_its_streams(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        work = peer.publish("log", BODIES, end=False)
        await work.stored(100)
        reader = peer.subscribe("logs/log", Start.FIRST)
        await reader.events(100)
        generation = reader.stream.generation
        await peer.request(FrameType.DELETE, Delete("logs/log"))
        assert (await work.ended()).code == Code.NOT_FOUND
        assert (await reader.ended()).code == Code.NOT_FOUND
        missing = peer.subscribe("logs/log")
        assert (await missing.refused()).message.code == Code.NOT_FOUND
        await peer.publish("log", [b"new"]).ended()
        changed = peer.subscribe("logs/log", generation=generation)
        assert (await changed.refused()).message.code == Code.GENERATION_CHANGED


async def test_cancel_keeps_what_was_stored(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        work = peer.publish("log", BODIES, end=False)
        await work.stored(100)
        work.cancel()
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.CANCELLED, 100)
        assert await lines(peer, "log", 100) == BODIES


async def test_an_empty_publisher_completes(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        outcome = await peer.publish("log", []).ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 0)


async def test_publishers_append_side_by_side(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        works = [
            peer.publish("log", [f"{who} {n}".encode() for n in range(200)], key=who)
            for who in ("a", "b", "c")
        ]
        for work in works:
            await work.ended()
        found = await lines(peer, "log", 600)
        for who in ("a", "b", "c"):
            mine = [each for each in found if each.startswith(who.encode())]
            assert mine == [f"{who} {n}".encode() for n in range(200)]


class Gapped(EventBuffer):
    """Two events, and a gap between them."""

    gap: int = 5

    @property
    def next_id(self) -> int:
        return 2 + self.gap

    def next_batch(self, position: int) -> Batch | None:
        entries = [
            (0, b"before"),
            (GAP_KIND, gap_entry(self.gap, GapReason.DROPPED)),
            (0, b"after"),
        ]
        whole = encode_entries(0, entries)
        return whole.tail(position) if position < whole.next_id else None


def publish_gapped(peer: Peer, feed: Gapped, *kinds: str) -> Work:
    detail = PublishDetail(kinds)
    work = Work(peer, Open(Use.PUBLISH, "logs/log", "", 0, 0, raw(detail)))
    work.stream.sender = EventSender(work.stream, feed, position=0, priority=2)
    peer.core.open(work.stream)
    return work


def gapped() -> Gapped:
    return Gapped(generation=0, max_events=100, max_bytes=10_000)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("begin", "gap"), [(0, (1, 5)), (3, (3, 3)), (6, None)])
async def test_a_gap_becomes_part_of_the_log(
    start: Starter, restart: bool, begin: int, gap: tuple[int, int] | None
) -> None:
    async with start() as serving:
        async with Peer(serving.port) as peer:
            work = publish_gapped(peer, gapped())
            await work.stored(7)
            await peer.publish("log", [b"last"]).ended()
        if not restart:
            await check_gap(serving.port, begin, gap)
    if restart:
        async with start() as serving:
            await check_gap(serving.port, begin, gap)


async def test_the_sums_of_a_log_leave_gaps_out(start: Starter, tmp_path: Path) -> None:
    """Also where the publisher's kinds have other numbers in the log."""
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"a", b"b"], kinds=("x",)).ended()
        await publish_gapped(peer, gapped(), "y").stored(7)
    report = check(tmp_path / "data", Files(), lambda _size: None)
    assert not report.damage
    assert report.counts["events"] == 9


async def test_gaps_cannot_use_up_what_ids_there_are(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        feed = gapped()
        feed.gap = 2**62
        outcome = await publish_gapped(peer, feed).ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.UNSUPPORTED,
        )
        await peer.publish("log", BODIES).ended()
        assert await lines(peer, "log", 100) == BODIES


async def check_gap(port: int, begin: int, gap: tuple[int, int] | None) -> None:
    events = [(0, "", b"before"), (6, "", b"after"), (7, "", b"last")]
    async with Peer(port) as peer:
        reader = peer.subscribe("logs/log", Start.ID, begin)
        wanted = [event for event in events if event[0] >= begin]
        assert await reader.events(len(wanted)) == wanted
        assert reader.gaps == ([gap] if gap else [])


async def test_a_cut_publisher_leaves_each_line_once(start: Starter) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        many = [f"line {number}".encode() * 20 for number in range(20_000)]
        work = peer.publish("log", many, key="p")
        await work.opened()
        for _ in range(5):
            await asyncio.sleep(0.01)
            await peer.drop()
            await peer.connect()
        await work.ended()
        assert await lines(peer, "log", 20_000) == many
        await peer.drop()
