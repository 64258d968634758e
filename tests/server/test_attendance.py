"""What a run does without a consumer, and what is kept of ended ones (SPEC.md §14)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import OutcomeKind, Start, Status
from ackline.server import BufferFull, Emitter, Server
from tests.server.peer import Peer, Work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start as Starter


class Program:
    """A program that makes events when it is told to."""

    def __init__(self, **declared: Any) -> None:
        self.server = Server()
        self.wanted = asyncio.Semaphore(0)
        self.produced = 0
        self.ended = asyncio.Event()
        self.emitters: list[Emitter] = []
        self.server.source("work", **declared)(self.work)
        self.server.source("pushed", **declared)(self.emitters.append)
        self.server.source("big")(self.big)

    async def work(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                await self.wanted.acquire()
                self.produced += 1
                yield b"%d" % self.produced
        finally:
            self.ended.set()

    async def big(self, size: int = 100_000) -> AsyncGenerator[bytes]:
        yield b"x" * size

    async def make(self, count: int) -> None:
        for _ in range(count):
            self.wanted.release()
        for _ in range(10 * count):
            await asyncio.sleep(0)


async def state(peer: Peer, work: Work) -> str:
    report = await peer.request(FrameType.STATUS, Status(work.stream.resource))
    return report.state  # type: ignore[attr-defined,no-any-return]


async def test_it_continues_without_a_consumer(start: Starter) -> None:
    program = Program(without_consumer="continue", grace=math.inf)
    async with start(program.server, run_grace=0.01) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/work")
        await program.make(1)
        await work.events(1)
        await peer.drop()
        await asyncio.sleep(0.05)  # longer than `run_grace`
        await program.make(5)
        assert program.produced == 6
        assert not program.ended.is_set()
        await peer.connect()
        await work.events(6)
        await peer.drop()


async def test_it_waits_for_nobody_who_is_away_too_long(start: Starter) -> None:
    program = Program(without_consumer="continue", grace=math.inf)
    chosen = {"run_grace": 0.02, "run_buffer_events": 100}
    async with start(program.server, **chosen) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/work")
        await program.make(1)
        await work.events(1)
        await peer.drop()
        for _ in range(1000):
            program.wanted.release()
        async with asyncio.timeout(50):
            while program.produced < 1001:
                await asyncio.sleep(0.01)
        async with Peer(serving.port) as other:
            late = other.subscribe(work.stream.resource, Start.LAST)
            assert (await late.events(1))[0] == (1000, "", b"1001")
        await peer.connect()
        assert (await work.broken()).code == Code.POSITION_TRIMMED
        await peer.drop()


async def test_it_pauses_before_its_next_event(start: Starter) -> None:
    program = Program(without_consumer="pause")
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/work")
        pushed = peer.subscribe("sources/pushed")
        await pushed.opened()
        await program.make(1)
        await work.events(1)
        emitter = program.emitters[0]
        emitter.emit(b"0")
        await pushed.events(1)
        await peer.drop()
        async with Peer(serving.port) as other, asyncio.timeout(50):
            while await state(other, work) != "PAUSED":
                await asyncio.sleep(0.01)
        await program.make(5)
        assert program.produced == 2  # it had been asked for one
        assert emitter.full
        with pytest.raises(BufferFull):
            emitter.emit(b"not now")
        await peer.connect()
        await emitter.ready()
        emitter.emit(b"1")
        await pushed.events(2)
        await work.events(6)
        assert await state(peer, work) == "STREAMING"
        await peer.drop()


@pytest.mark.parametrize(
    ("declared", "chosen"),
    [
        ({"without_consumer": "cancel"}, {}),
        ({}, {"run_without_consumer": "cancel"}),
        ({"grace": 0.02}, {}),
        ({"without_consumer": "pause", "grace": 0.02}, {}),
        ({"without_consumer": "pause"}, {"run_grace": 0.02}),
    ],
)
@pytest.mark.parametrize("how", ["disconnect", "release"])
async def test_it_is_cancelled(
    start: Starter, declared: dict[str, Any], chosen: dict[str, Any], how: str
) -> None:
    program = Program(**declared)
    async with start(program.server, **chosen) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/work", key="k")
        await program.make(1)
        await work.events(1)
        if how == "release":
            work.release()
        else:
            await peer.drop()
            async with asyncio.timeout(50):
                await program.ended.wait()
            await peer.connect()
        async with asyncio.timeout(50):
            await program.ended.wait()
        late = peer.subscribe("sources/work", key="k")
        outcome = await late.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.CANCELLED,
            Code.NO_CONSUMER,
        )
        await peer.drop()


async def test_the_last_of_several_consumers_counts(start: Starter) -> None:
    program = Program(without_consumer="cancel")
    async with start(program.server) as serving, Peer(serving.port) as peer:
        first = peer.subscribe("sources/work")
        await first.opened()
        second = peer.subscribe(first.stream.resource)
        await second.opened()
        first.release()
        await program.make(3)
        await second.events(3)
        assert not program.ended.is_set()
        second.cancel()  # its own cursor, not the run: but it is the last
        async with asyncio.timeout(50):
            await program.ended.wait()


async def test_ended_runs_share_a_budget(start: Starter) -> None:
    program = Program()
    chosen = {"run_retention_bytes": 350_000}
    async with start(program.server, **chosen) as serving, Peer(serving.port) as peer:
        works = []
        for _ in range(5):
            work = peer.subscribe("sources/big")
            await work.ended()
            works.append(work)
        assert await kept(peer, *works) == [0, 0, 1, 1, 1]


async def test_who_still_reads_an_ended_run_goes_last(start: Starter) -> None:
    program = Program()
    chosen = {"run_retention_bytes": 250_000}
    async with start(program.server, **chosen) as serving, Peer(serving.port) as peer:
        reading = peer.subscribe("sources/big", take=False)
        await reading.opened()
        away = await Peer(serving.port).connect()
        waiting = away.subscribe("sources/big", take=False)
        await waiting.opened()
        await away.drop()
        read = peer.subscribe("sources/big")
        await read.ended()
        assert await kept(peer, reading, waiting, read) == [1, 0, 1]
        others = [peer.subscribe("sources/big", take=False) for _ in range(2)]
        for work in others:
            await work.opened()
            await ended(peer, work)
        assert await kept(peer, reading, read, *others) == [0, 0, 1, 1]
        # Whose events are gone is told so, and not that there were none.
        await away.connect()
        assert (await waiting.broken()).code == Code.POSITION_TRIMMED
        await away.drop()


async def ended(peer: Peer, work: Work) -> None:
    async with asyncio.timeout(50):
        while await state(peer, work) != "COMPLETED":
            await asyncio.sleep(0.01)


async def kept(peer: Peer, *works: Work) -> list[int]:
    """Return how many events a late reader gets of each run."""
    found = []
    for work in works:
        late = peer.subscribe(work.stream.resource)
        await late.ended()
        found.append(len(late.received))
    return found


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"without_consumer": "sleep"}, "without_consumer='sleep'"),
        ({"grace": -1.0}, "grace=-1.0"),
        ({"grace": math.nan}, "grace=nan"),
        ({"without_consumer": "cancel", "grace": 3.0}, "at once"),
        ({"resumes": "none", "durable": True}, "resumes='none'"),
        ({"resumes": "none", "without_consumer": "pause"}, "resumes='none'"),
        ({"resumes": "recompute"}, "needs a parameter start"),
        ({"kinds": ["a\n"]}, "cannot be a kind"),
    ],
)
def test_what_does_not_go_together_is_refused(
    declared: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Program(**declared)
