"""Events of exactly the largest size whose kind is new, from runs and logs (§11)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import List, Listed, OutcomeKind, Seal
from ackline.proto.notices import BatchReceived
from ackline.server import Event, Server
from tests.server.peer import LIMITS, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start

BIG = b"x" * MAX_EVENT
SMALLEST = replace(LIMITS, max_payload=MAX_EVENT + 8)


@pytest.mark.parametrize("durable", [False, True])
async def test_of_a_run(start: Start, durable: bool) -> None:
    server, more = Server(), asyncio.Event()

    @server.source("large", durable=durable)
    async def large() -> AsyncGenerator[bytes | Event]:
        yield b"a"
        await more.wait()
        for name in ("new", "newer"):
            yield Event(BIG, name)

    async with start(server) as serving, Peer(serving.port, limits=SMALLEST) as peer:
        work = peer.subscribe("sources/large", window=MAX_EVENT + 8)
        await work.events(1)
        more.set()
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        assert work.received[1:] == [(1, "new", BIG), (2, "newer", BIG)]


async def test_a_kind_that_is_added_after_definitions_went_alone(start: Start) -> None:
    """It is defined too, though definitions went ahead of the same event before."""
    server, steps = Server(), asyncio.Semaphore(0)

    @server.source("large", durable=True)
    async def large() -> AsyncGenerator[bytes | Event]:
        yield b"a"
        for name in ("new", "newer"):
            await steps.acquire()
            yield Event(BIG, name)

    async with start(server) as serving, Peer(serving.port, limits=SMALLEST) as peer:
        work = peer.subscribe("sources/large", take=False, window=MAX_EVENT + 8)
        await work.until(BatchReceived)
        receiver = work.stream.receiver
        assert isinstance(receiver, EventReceiver)
        steps.release()
        async with asyncio.timeout(50):
            while receiver.kinds.number_of("new") is None:  # the event has no room
                await asyncio.sleep(0.01)
            steps.release()
            while True:
                listed = await peer.request(FrameType.LIST, List("runs/"))
                assert isinstance(listed, Listed)
                if listed.entries[0].state == "COMPLETED":
                    break
                await asyncio.sleep(0.01)
        work.go_on()
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        assert work.received[1:] == [(1, "new", BIG), (2, "newer", BIG)]


@pytest.mark.parametrize("policy", ["block", "latest", "merge"])
async def test_of_a_log(start: Start, policy: str) -> None:
    async with start() as serving, Peer(serving.port, limits=SMALLEST) as peer:
        await peer.publish("log", [b"a"]).ended()
        units = {"latest": 2, "merge": 32}.get(policy)
        work = peer.subscribe(
            "logs/log", policy=policy, window=MAX_EVENT + 8, units=units
        )
        await work.events(1)
        bodies = [b"b", BIG, BIG]
        await peer.publish("log", bodies, kinds=("new", "newer")).ended()
        await peer.request(FrameType.SEAL, Seal("logs/log"))
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        assert work.received[-1] == (3, "newer", BIG)
