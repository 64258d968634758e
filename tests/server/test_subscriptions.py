"""Subscriptions to logs and runs (SPEC.md §9, §11, §16)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ackline.proto.messages import OutcomeKind, Start
from ackline.server import Event, Server
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start as Starter


def counting() -> Server:
    server = Server()

    @server.source("count")
    async def count(upto: int = 10) -> AsyncGenerator[str]:
        for number in range(upto):
            yield str(number)

    @server.source("kinds")
    async def kinds() -> AsyncGenerator[Event | bytes]:
        yield b"plain"
        yield Event("a token", "token")
        await asyncio.sleep(0.05)
        yield Event(b"usage", "usage")

    return server


async def test_a_source_is_delivered_whole_and_in_order(start: Starter) -> None:
    async with start(counting()) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/count", parameters={"upto": 20_000})
        outcome = await work.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert outcome.position == 20_000
        assert [each[2] for each in work.received] == [
            str(number).encode() for number in range(20_000)
        ]


async def test_kinds_are_named_as_the_source_named_them(start: Starter) -> None:
    async with start(counting()) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/kinds")
        await work.ended()
        assert work.received == [
            (0, "", b"plain"),
            (1, "token", b"a token"),
            (2, "usage", b"usage"),
        ]


async def test_what_is_published_is_delivered_with_its_kinds(start: Starter) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        bodies = [str(number).encode() for number in range(3000)]
        work = peer.publish("events", bodies, kinds=("a", "b"))
        assert (await work.ended()).position == 3000
        other = peer.publish("events", [b"x", b"y", b"z"], kinds=("b", "c"))
        await other.ended()
        reader = peer.subscribe("logs/events", Start.FIRST)
        received = await reader.events(3003)
        names = ["", "a", "b"]
        assert received[:3000] == [
            (number, names[number % 3], body) for number, body in enumerate(bodies)
        ]
        assert received[3000:] == [
            (3000, "", b"x"),
            (3001, "b", b"y"),
            (3002, "c", b"z"),
        ]
