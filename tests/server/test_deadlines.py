"""Deadlines of streams, for all four uses (SPEC.md §14, §17)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import OutcomeKind, Status, Use
from tests.server.peer import Peer, Work

if TYPE_CHECKING:
    from tests.server.conftest import Start

USES = list(Use)
DATA = bytes(300_000)
SECONDS = 0.15


def begin(peer: Peer, use: Use, deadline: float) -> Work:
    """Begin a stream that ends by its deadline only."""
    match use:
        case Use.UPLOAD:
            return peer.upload("up", DATA, end=False, key="k", deadline=deadline)
        case Use.FETCH:
            return peer.fetch("down", take=False, deadline=deadline)
        case Use.PUBLISH:
            return peer.publish("log", [b"x"], end=False, key="k", deadline=deadline)
        case Use.SUBSCRIBE:
            return peer.subscribe("logs/log", deadline=deadline)


async def prepare(peer: Peer) -> None:
    assert (await peer.upload("down", DATA).ended()).outcome is OutcomeKind.COMPLETED
    await peer.publish("log", [b"first"]).ended()


async def assert_overdue(work: Work) -> None:
    outcome = await work.ended()
    assert outcome.outcome is OutcomeKind.FAILED
    assert outcome.code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("use", USES)
async def test_a_deadline_ends_a_stream_that_is_attached(
    start: Start, use: Use
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await prepare(peer)
        began = time.perf_counter()
        await assert_overdue(begin(peer, use, SECONDS))
        assert time.perf_counter() - began >= SECONDS


@pytest.mark.parametrize("use", USES)
async def test_a_deadline_passes_while_the_client_is_away(
    start: Start, use: Use
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await prepare(peer)
        work = begin(peer, use, SECONDS)
        await work.opened()
        await peer.drop()
        assert peer.session.session is not None
        about = Status(f"sessions/{peer.session.session.session_id}")
        async with Peer(serving.port) as other, asyncio.timeout(50):
            while "FAILED" not in str(await other.request(FrameType.STATUS, about)):
                await asyncio.sleep(0.01)
        await peer.connect()
        await assert_overdue(work)


@pytest.mark.parametrize("deadline", [SECONDS, 60.0])
@pytest.mark.parametrize("use", USES)
async def test_a_deadline_goes_on_over_a_restart(
    start: Start, use: Use, deadline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await prepare(peer)
        work = begin(peer, use, deadline)
        await work.opened()
        await peer.drop()
    later = time.time() + 59.9
    monkeypatch.setattr("ackline.server.sessions.time.time", lambda: later)
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        began = time.perf_counter()
        await assert_overdue(work)
        assert time.perf_counter() - began < 10
        await peer.drop()
