"""Runs that are computed again from the id that is wanted (SPEC.md §9.2, §14)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Cancel,
    Durability,
    OutcomeKind,
    Scope,
    Start,
    Status,
    StatusReport,
)
from ackline.server import Emitter, Event, Server
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start as Starter


class Program:
    """A program whose sources can begin anywhere."""

    def __init__(self) -> None:
        self.server = Server()
        self.started: list[int] = []
        self.closed = 0
        self.more = asyncio.Event()
        self.emitters: list[Emitter] = []
        source = self.server.source
        source("series", resumes="recompute", kinds=["even", "odd"])(self.series)
        source("pushed", resumes="recompute")(self.pushed)
        source("unknown", resumes="recompute")(self.series)

    async def series(
        self, upto: int = 30, pause: int = 20, *, start: int
    ) -> AsyncGenerator[Event]:
        self.started.append(start)
        try:
            for number in range(start, upto):
                if number == pause:
                    await self.more.wait()
                yield Event(f"{number}", "odd" if number % 2 else "even")
        finally:
            self.closed += 1

    def pushed(self, emitter: Emitter, start: int = 0) -> None:
        self.started.append(start)
        self.emitters.append(emitter)


def numbered(first: int, end: int) -> list[tuple[int, str, bytes]]:
    return [(n, "odd" if n % 2 else "even", b"%d" % n) for n in range(first, end)]


async def test_it_begins_where_its_first_consumer_wants(start: Starter) -> None:
    program = Program()
    program.more.set()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/series", Start.ID, 12)
        assert (await work.opened()).message.durability is Durability.MEMORY
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 30)
        assert work.received == numbered(12, 30)
        assert program.started == [12]


async def test_it_goes_on_after_a_restart_from_the_position_of_each_consumer(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server) as serving:
        ahead = await Peer(serving.port).connect()
        first = ahead.subscribe("sources/series")
        behind = await Peer(serving.port).connect()
        await first.events(10)
        second = behind.subscribe(first.stream.resource)
        await second.events(5)
        second.take = False
        await first.events(20)
        await behind.drop()
        await ahead.drop()
    assert program.closed == 1
    again = Program()
    async with start(again.server) as serving:
        ahead.port = behind.port = serving.port
        await ahead.connect()
        async with asyncio.timeout(50):
            while again.started != [20]:
                await asyncio.sleep(0.01)
        third = ahead.subscribe(first.stream.resource, Start.ID, 3)
        await third.events(17)
        assert again.started == [20, 3]
        await behind.connect()
        second.go_on()
        again.more.set()
        for work, begin in ((first, 0), (second, 0), (third, 3)):
            assert (await work.ended()).outcome is OutcomeKind.COMPLETED
            assert work.received == numbered(begin, 30)
        assert again.started == [20, 3]
        await ahead.drop()
        await behind.drop()


async def test_who_comes_after_it_has_completed_has_it_computed_again(
    start: Starter,
) -> None:
    program = Program()
    program.more.set()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/series", Start.ID, 20)
        ended = await work.ended()
        late = peer.subscribe(work.stream.resource, Start.ID, 3)
        outcome = await late.ended()
        assert (outcome.outcome, outcome.position) == (ended.outcome, ended.position)
        assert late.received == numbered(3, 30)
        assert program.started == [20, 3]
        assert program.closed == 2


async def test_the_key_finds_it_again_after_a_restart(start: Starter) -> None:
    async with (
        start(Program().server) as serving,
        Peer(serving.port) as peer,
    ):
        work = peer.subscribe("sources/series", key="k")
        await work.events(20)
    again = Program()
    again.more.set()
    async with start(again.server) as serving, Peer(serving.port) as peer:
        late = peer.subscribe("sources/series", Start.ID, 20, key="k")
        assert (await late.opened()).message.existing
        await late.ended()
        assert late.stream.resource == work.stream.resource
        assert late.received == numbered(20, 30)
        assert again.started == [20]


async def test_nobody_wants_it_after_a_restart(start: Starter) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/series")
        await work.events(20)
    again = Program()
    async with start(again.server) as serving, Peer(serving.port) as peer:
        late = peer.subscribe(work.stream.resource, Start.ID, 10)
        await late.events(10)
        late.cancel(work=True)
        assert (await late.ended()).code == Code.CANCELLED_BY_CLIENT
        assert again.started == [10]
        assert again.closed == 1


@pytest.mark.parametrize("how", ["cancel", "grace"])
async def test_a_run_that_waits_for_a_consumer_can_be_ended(
    start: Starter, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/series")
        await work.events(20)
    target, again = work.stream.resource, Program()
    monkeypatch.setattr("ackline.server.run.FIRST_SECONDS", 0.01)
    grace = 0.01 if how == "grace" else 60.0
    async with (
        start(again.server, run_grace=grace) as serving,
        Peer(serving.port) as peer,
    ):
        if how == "cancel":
            assert await state(peer, target) == "PAUSED"
            await peer.request(FrameType.CANCEL, Cancel(Scope.WORK, target))
        async with asyncio.timeout(50):
            while await state(peer, target) != "CANCELLED":
                await asyncio.sleep(0.01)
        assert again.started == []


async def state(peer: Peer, target: str) -> str:
    report = await peer.request(FrameType.STATUS, Status(target))
    assert isinstance(report, StatusReport)
    return report.state


async def test_a_run_whose_source_is_another_one_now_is_lost(start: Starter) -> None:
    async with start(Program().server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/series")
        await work.events(20)
        await peer.drop()
    other = Server()

    @other.source("series")
    async def series(upto: int = 3) -> AsyncGenerator[bytes]:
        for number in range(upto):
            yield b"%d" % number

    async with start(other) as serving:
        peer.port = serving.port
        await peer.connect()
        assert (await work.ended()).code == Code.PRODUCER_LOST
        await peer.drop()


async def test_a_run_whose_source_takes_other_parameters_now_is_lost(
    start: Starter,
) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/series", parameters={"upto": 25})
        await work.events(20)
    other = Server()

    @other.source("series", resumes="recompute")
    async def series(*, start: int) -> AsyncGenerator[bytes]:
        yield b"%d" % start

    async with start(other) as serving, Peer(serving.port) as peer:
        late = peer.subscribe(work.stream.resource)
        assert (await late.ended()).code == Code.PRODUCER_LOST


async def test_a_run_that_is_shorter_the_second_time_is_an_error(
    start: Starter,
) -> None:
    async with start(Program().server) as serving:
        ahead = await Peer(serving.port).connect()
        work = ahead.subscribe("sources/series")
        await work.events(20)
        await ahead.drop()
    other = Server()

    @other.source("series", resumes="recompute", kinds=["even", "odd"])
    async def series(*, start: int) -> AsyncGenerator[Event]:
        await begin.wait()
        for number in range(start, 10):
            yield Event(f"{number}", "odd" if number % 2 else "even")

    begin = asyncio.Event()
    async with start(other) as serving, Peer(serving.port) as peer:
        behind = peer.subscribe(work.stream.resource, Start.ID, 5)
        await behind.opened()
        ahead.port = serving.port
        await ahead.connect()
        begin.set()
        assert (await behind.ended()).outcome is OutcomeKind.COMPLETED
        outcome = await work.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.PROOF_MISMATCH,
        )
        assert "had 10 events, and at least 20 before" in outcome.text
        await ahead.drop()


async def test_what_is_not_kept_any_more_is_computed_again(start: Starter) -> None:
    program = Program()
    async with (
        start(program.server, run_buffer_events=100) as serving,
        Peer(serving.port) as peer,
    ):
        parameters: dict[str, object] = {"upto": 1000, "pause": 900}
        first = peer.subscribe("sources/series", parameters=parameters)
        await first.events(900)
        second = peer.subscribe(first.stream.resource, Start.ID, 50)
        await second.events(850)
        assert program.started == [0, 50]
        assert program.closed == 1
        program.more.set()
        for work, begin in ((first, 0), (second, 50)):
            await work.ended()
            assert work.received == numbered(begin, 1000)


async def test_an_emitter_is_given_anew(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/pushed")
        await work.opened()
        program.emitters[0].emit(b"0")
        await work.events(1)
        await peer.drop()
    assert program.emitters[0].ended
    again = Program()
    async with start(again.server) as serving:
        peer.port = serving.port
        await peer.connect()
        again.emitters[0].emit(b"1")
        again.emitters[0].complete()
        await work.ended()
        assert work.received == [(0, "", b"0"), (1, "", b"1")]
        assert again.started == [1]
        await peer.drop()


async def test_its_kinds_have_to_be_declared(start: Starter) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        outcome = await peer.subscribe("sources/unknown").ended()
        assert outcome.code == Code.SOURCE_FAILED
        assert "kinds=['even'" in outcome.text


async def test_start_is_not_for_the_client(start: Starter) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/series", parameters={"start": 3})
        refusal = (await work.refused()).message
        assert refusal.code == Code.INVALID_ARGUMENT
        assert "takes (upto: 'int' = 30, pause: 'int' = 20): 'start'" in refusal.text
