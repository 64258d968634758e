"""Cursors on logs: where they begin, end and go on (SPEC.md §9, §11, §15, §16)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.limits import MIN_PAYLOAD
from ackline.proto.messages import (
    Configure,
    OnTrimmed,
    OutcomeKind,
    Proof,
    Start,
    Status,
    StatusReport,
)
from ackline.proto.notices import BatchReceived, ConnectionFailed
from tests.server.peer import LIMITS, Peer

if TYPE_CHECKING:
    from tests.server.conftest import Start as Starter

BODIES = [f"line {number}".encode() for number in range(1000)]


@pytest.mark.parametrize(
    ("where", "value", "first"),
    [
        (Start.FIRST, 0, 0),
        (Start.LAST, 0, 999),
        (Start.LAST_EVENTS, 10, 990),
        (Start.LAST_EVENTS, 5000, 0),
        (Start.NEXT, 0, 1000),
        (Start.ID, 37, 37),
        (Start.ID, 1000, 1000),
        (Start.TIME, 0, 0),
        (Start.TIME, 2**42, 1000),  # in the year 2109
    ],
)
async def test_a_subscription_begins_where_it_is_asked_to(
    start: Starter, where: Start, value: int, first: int
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", BODIES).ended()
        reader = peer.subscribe("logs/log", where, value)
        assert (await reader.opened()).message.standing.position == first
        await peer.publish("log", [b"end"]).ended()
        await reader.events(1001 - first)
        expected = [*enumerate([*BODIES, b"end"])][first:]
        assert [(each[0], each[2]) for each in reader.received] == expected


async def test_positions_that_do_not_exist_are_refused(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", BODIES).ended()
        beyond = peer.subscribe("logs/log", Start.ID, 1001)
        assert (await beyond.refused()).message.code == Code.POSITION_BEYOND
        missing = peer.subscribe("logs/none")
        assert (await missing.refused()).message.code == Code.NOT_FOUND


async def test_a_log_is_read_on_after_a_restart(start: Starter) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await peer.publish("log", BODIES).ended()
        reader = peer.subscribe("logs/log", Start.ID, 38)
        await reader.events(962)
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        await peer.publish("log", [b"end"]).ended()
        await reader.events(963)
        assert [each[0] for each in reader.received] == list(range(38, 1001))
        await peer.drop()


@pytest.mark.parametrize("restart", [False, True])
async def test_a_wrong_proof_is_found(start: Starter, restart: bool) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await peer.publish("log", BODIES).ended()
        reader = peer.subscribe("logs/log", Start.ID, 38)
        await reader.events(962)
        receiver = reader.stream.receiver
        assert receiver is not None
        receiver._sum = structs.replace(receiver._sum, bodies_crc=1)  # type: ignore[attr-defined]
        await peer.drop()
        if not restart:
            await peer.connect()
            assert (await reader.broken()).code == Code.PROOF_MISMATCH
            await peer.drop()
            return
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        assert (await reader.broken()).code == Code.PROOF_MISMATCH
        await peer.drop()


async def test_a_proof_at_open_is_checked(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", BODIES).ended()
        reader = peer.subscribe("logs/log", Start.FIRST)
        await reader.events(1000)
        proof = reader.stream.receiver and reader.stream.receiver.proof()
        assert proof is not None
        assert isinstance(proof, Proof)
        right = peer.subscribe("logs/log", Start.ID, 1000, proof=proof)
        wrong = peer.subscribe(
            "logs/log", Start.ID, 1000, proof=structs.replace(proof, bytes=1)
        )
        assert (await right.opened()).message.standing.verified
        assert (await wrong.refused()).message.code == Code.PROOF_MISMATCH


async def test_what_is_trimmed_is_an_error_or_a_gap(start: Starter) -> None:
    async with (
        start(cleanup_interval=0.05, log_segment_bytes=65_536) as serving,
        Peer(serving.port) as peer,
    ):
        keep = Configure("logs/log", {"retention_bytes": 200_000})
        await peer.request(FrameType.CONFIGURE, keep)
        bodies = [os.urandom(1000) for _ in range(1000)]
        for at in range(0, 1000, 100):
            await peer.publish("log", bodies[at : at + 100]).ended()
        async with asyncio.timeout(50):
            while True:
                first = peer.subscribe("logs/log", Start.FIRST, take=False)
                oldest = (await first.opened()).message.standing.position
                first.release()
                if oldest:
                    break
                await asyncio.sleep(0.05)
        error = peer.subscribe("logs/log", Start.ID, 0)
        assert (await error.refused()).message.code == Code.POSITION_TRIMMED
        gap = peer.subscribe("logs/log", Start.ID, 0, on_trimmed=OnTrimmed.GAP)
        # More may be trimmed while it reads: with the gaps it has the whole.
        async with asyncio.timeout(50):
            while len(gap.received) + sum(count for _, count in gap.gaps) < 1000:
                await gap.changed.wait()
                gap.changed.clear()
        assert gap.gaps[0][0] == 0


@pytest.mark.parametrize("what", ["retention_bytes", "retention_seconds"])
async def test_retention_under_a_reader_in_the_middle(
    start: Starter, what: str
) -> None:
    """It reads on, if slowly; what goes before its turn is an error or a gap."""
    bodies = [os.urandom(1000) for _ in range(1000)]
    async with (
        start(cleanup_interval=0.05, log_segment_bytes=65_536) as serving,
        Peer(serving.port) as peer,
    ):
        for at in range(0, 1000, 50):
            await peer.publish("log", bodies[at : at + 50]).ended()
        readers = [
            peer.subscribe("logs/log", take=False, window=70_000, on_trimmed=on_trimmed)
            for on_trimmed in (OnTrimmed.ERROR, OnTrimmed.GAP)
        ]
        for reader in readers:
            await reader.until(BatchReceived)
        keep = Configure("logs/log", {what: 0})
        await peer.request(FrameType.CONFIGURE, keep)
        async with asyncio.timeout(50):
            while True:
                report = await peer.request(FrameType.STATUS, Status("logs/log"))
                assert isinstance(report, StatusReport)
                oldest = report.facts["first"]
                if isinstance(oldest, int) and oldest >= 900:
                    break
                await asyncio.sleep(0.02)
        for reader in readers:
            reader.go_on()
        error, gap = readers
        outcome = await error.ended()
        assert outcome.code == Code.POSITION_TRIMMED
        assert [each[2] for each in error.received] == bodies[: len(error.received)]
        await peer.publish("log", [b"last"]).ended()
        async with asyncio.timeout(50):
            while not gap.received or gap.received[-1][0] != 1000:
                await asyncio.sleep(0.01)
        assert len(gap.received) + sum(count for _, count in gap.gaps) == 1001
        assert all(data == bodies[n] for n, _, data in gap.received[:-1])


async def test_who_is_far_behind_reads_from_the_disk(start: Starter) -> None:
    bodies = [os.urandom(1000) for _ in range(5000)]
    async with start(cache_budget=100_000) as serving, Peer(serving.port) as peer:
        await peer.publish("log", bodies).ended()
        readers = [peer.subscribe("logs/log", Start.FIRST) for _ in range(5)]
        for reader in readers:
            await reader.events(5000)
            assert [each[2] for each in reader.received] == bodies


async def test_a_client_with_small_frames_gets_all_events(start: Starter) -> None:
    small = structs.replace(LIMITS, max_payload=8192)
    async with start() as serving, Peer(serving.port, limits=small) as peer:
        bodies = [os.urandom(3000) for _ in range(100)]
        await peer.publish("log", bodies).ended()
        reader = peer.subscribe("logs/log", Start.FIRST)
        assert [each[2] for each in await reader.events(100)] == bodies


async def test_a_reader_that_does_not_read_holds_nobody(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", BODIES).ended()
        idle = peer.subscribe("logs/log", Start.FIRST, take=False, window=20_000)
        await idle.opened()
        other = peer.subscribe("logs/log", Start.FIRST)
        await other.events(1000)
        idle.go_on()
        await idle.events(1000)


async def test_cancelling_a_subscription_ends_it(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", BODIES).ended()
        reader = peer.subscribe("logs/log", Start.FIRST)
        await reader.events(1000)
        reader.cancel(work=True)
        outcome = await reader.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.CANCELLED, 1000)


async def test_a_kind_that_is_new_while_the_window_is_full_is_named(
    start: Starter,
) -> None:
    """SPEC.md §11: before its first event, however long that has to wait."""
    async with start() as serving, Peer(serving.port) as peer:
        reader = peer.subscribe("logs/log", take=False, units=8)
        assert (await reader.refused()).message.code == Code.NOT_FOUND
        await peer.publish("log", [b"x"] * 100).ended()
        reader = peer.subscribe("logs/log", take=False, units=8)
        await reader.until(BatchReceived)
        assert reader.stream.receiver is not None
        while reader.stream.receiver.received_units < 8:
            await asyncio.sleep(0)
        for name in ("one", "two"):
            await peer.publish("log", [b"y"] * 50, kinds=(name,)).ended()
            # The reader's stream has been asked for more by now, before this answer.
            await peer.request(FrameType.STATUS, Status("logs/log"))
        reader.go_on()
        received = await reader.events(200)
        kinds = [each[1] for each in received]
        assert kinds == [""] * 100 + ["", "one"] * 25 + ["", "two"] * 25
        assert not [n for n in peer.notices if isinstance(n, ConnectionFailed)]


async def test_names_of_kinds_that_do_not_fit_a_frame_refuse_the_stream(
    start: Starter,
) -> None:
    """SPEC.md §6: whether it is opened or resumed, and no other stream."""
    small = structs.replace(LIMITS, max_payload=MIN_PAYLOAD)
    fitting, more = (
        tuple(f"{name}{number:254}" for number in range(count))
        for name, count in (("a", 29), ("b", 2))
    )
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("small", BODIES[:10]).ended()
        await peer.publish("large", BODIES[:30], kinds=fitting).ended()
        async with Peer(serving.port, limits=small) as device:
            reader = device.subscribe("logs/large")
            received = await reader.events(30)
            assert [each[1] for each in received] == ["", *fitting]
            other = device.subscribe("logs/small")
            await other.events(10)
            await peer.publish("large", BODIES[:3], kinds=more).ended()
            received = await reader.events(33)
            assert [each[1] for each in received[30:]] == ["", *more]
            await device.drop()
            await device.connect()
            error = await reader.broken()
            assert error.code == Code.LIMIT_EXCEEDED
            assert "your max_payload is 8192: raise it" in error.text
            late = (await device.subscribe("logs/large").refused()).message
            assert (late.code, late.text) == (error.code, error.text)
            await peer.publish("small", BODIES[:10]).ended()
            await other.events(20)
        await peer.subscribe("logs/large").events(33)
