"""Durable runs: in a log of their own, read beyond their process (SPEC.md §14)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Durability,
    Error,
    List,
    Listed,
    Outcome,
    OutcomeKind,
    Resumes,
    Start,
    Status,
    StatusReport,
    SubscribeOpened,
    opened_detail,
)
from ackline.server import Event, Server
from ackline.server.runlog import RunLog
from ackline.server.stores.errors import EventsLost, StorageFull
from ackline.server.stores.logwriter import LogWriter
from tests.server.peer import Peer, Work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start as Starter


class Program:
    """A program whose durable sources note what they did."""

    def __init__(self) -> None:
        self.server = Server()
        self.started: list[int] = []
        self.produced = 0
        self.more = asyncio.Event()
        source = self.server.source
        source("job", durable=True)(self.job)
        source("series", durable=True, resumes="recompute")(self.series)
        source("flood", durable=True)(self.flood)

    async def job(self, first: int = 5, then: int = 5) -> AsyncGenerator[Event]:
        self.started.append(0)
        for number in range(first):
            yield Event(f"{number}", "number" if number % 2 else "")
        await self.more.wait()
        for number in range(first, first + then):
            yield Event(f"{number}", "later")

    async def series(self, *, start: int) -> AsyncGenerator[Event]:
        self.started.append(start)
        for number in range(start, 20):
            if number == 10:
                await self.more.wait()
            yield Event(f"{number}", "odd" if number % 2 else "even")

    async def flood(self) -> AsyncGenerator[bytes]:
        while True:
            self.produced += 1
            yield b"x" * 1000


async def test_a_durable_run_says_so_and_is_delivered_whole(start: Starter) -> None:
    program = Program()
    program.more.set()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/job")
        opened = (await work.opened()).message
        assert opened.durability is Durability.SYNCED
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 10)
        assert work.received == [
            (0, "", b"0"),
            (1, "number", b"1"),
            (2, "", b"2"),
            (3, "number", b"3"),
            (4, "", b"4"),
            *((n, "later", b"%d" % n) for n in range(5, 10)),
        ]


async def test_an_ended_durable_run_is_read_after_a_restart(start: Starter) -> None:
    program = Program()
    program.more.set()
    async with (
        start(program.server, run_retention=0.0) as serving,
        Peer(serving.port) as peer,
    ):
        first = peer.subscribe("sources/job", key="k")
        await first.ended()
        second = peer.subscribe(first.stream.resource)
        await second.ended()
        assert second.received == first.received
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        for resource, key in ((first.stream.resource, ""), ("sources/job", "k")):
            late = peer.subscribe(resource, Start.ID, 7, key=key)
            assert (await late.opened()).message.existing
            assert (await late.ended()).outcome is OutcomeKind.COMPLETED
            assert late.received == first.received[7:]
        listed = await peer.request(FrameType.LIST, List("runs/"))
        assert isinstance(listed, Listed)
        (entry,) = listed.entries
        assert (entry.resource, entry.state) == (first.stream.resource, "COMPLETED")
        assert entry.size > 10
        assert entry.facts == {
            "source": "job",
            "durable": True,
            "first": 0,
            "next": 10,
        }
        logs = await peer.request(FrameType.LIST, List("logs/"))
        assert isinstance(logs, Listed)
        assert not logs.entries
        logs = await peer.request(FrameType.LIST, List("logs/ "))
        assert isinstance(logs, Listed)
        assert not logs.entries


async def test_a_run_that_replays_ends_after_its_last_event_with_its_process(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/job")
        await work.events(3)
        work.take = False
        await peer.drop()
    async with start(Program().server) as serving:
        peer.port = serving.port
        await peer.connect()
        work.go_on()
        outcome = await work.ended()
        assert (outcome.outcome, outcome.code, outcome.position) == (
            OutcomeKind.FAILED,
            Code.PRODUCER_LOST,
            5,
        )
        assert [each[0] for each in work.received] == list(range(5))
        assert program.started == [0]
        late = peer.subscribe(work.stream.resource)
        assert (await late.ended()).code == Code.PRODUCER_LOST
        assert late.received == work.received
        await peer.drop()


async def test_a_durable_run_that_is_computed_goes_on_behind_its_last_event(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/series")
        await work.events(10)
        await peer.drop()
    again = Program()
    again.more.set()
    async with start(again.server) as serving:
        peer.port = serving.port
        await peer.connect()
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 20)
        assert [each[:2] for each in work.received] == [
            (n, "odd" if n % 2 else "even") for n in range(20)
        ]
        assert (program.started, again.started) == ([0], [10])
        assert work.stream.receiver is not None
        late = peer.subscribe(
            work.stream.resource,
            Start.ID,
            20,
            generation=work.stream.generation,
            proof=work.stream.receiver.proof(),
        )
        assert (await late.opened()).message.standing.verified
        await peer.drop()


async def test_who_blocks_a_durable_run_stops_its_producer(start: Starter) -> None:
    program = Program()
    async with (
        start(program.server, run_buffer_events=1000) as serving,
        Peer(serving.port) as peer,
    ):
        slow = peer.subscribe("sources/flood", take=False, window=5_000)
        await slow.opened()
        assert await reasons(peer, slow) == ("consumer",)
        assert program.produced <= 1001
        # Who reads what is only on the disk holds nobody back.
        slow.go_on()
        await slow.events(3000)
        late = peer.subscribe(slow.stream.resource)
        await late.events(1500)
        assert late.received[:1500] == slow.received[:1500]
        slow.cancel(work=True)
        assert (await slow.ended()).code == Code.CANCELLED_BY_CLIENT
        assert (await late.ended()).code == Code.CANCELLED_BY_CLIENT


async def test_a_full_disk_delays_a_durable_run_and_loses_nothing(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.runlog.RETRY_SECONDS", 0.02)
    write, failures = LogWriter.write, 2

    async def full(*arguments: object) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StorageFull
        await write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LogWriter, "write", full)
    program = Program()
    program.more.set()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/job")
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 10)
        assert [each[2] for each in work.received] == [b"%d" % n for n in range(10)]
    assert failures < 0


async def test_a_durable_run_whose_log_is_lost_fails(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/job")
        await work.events(5)

        def lost(*_: object) -> None:
            raise EventsLost("run", position=5, next_id=3)

        monkeypatch.setattr(RunLog, "_entry", lost)
        program.more.set()
        outcome = await work.ended()
        assert (outcome.outcome, outcome.code, outcome.position) == (
            OutcomeKind.FAILED,
            Code.POSITION_LOST,
            5,
        )
        report = await peer.request(FrameType.STATUS, Status(work.stream.resource))
        assert isinstance(report, StatusReport)
        assert (report.state, report.facts["code"]) == ("FAILED", "position_lost")


async def test_a_durable_run_that_waits_for_its_disk_says_so(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.runlog.RETRY_SECONDS", 0.02)
    write, full = LogWriter.write, True

    async def failing(*arguments: object) -> None:
        if full:
            raise StorageFull
        await write(*arguments)  # type: ignore[arg-type]

    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/job")
        await work.events(5)
        monkeypatch.setattr(LogWriter, "write", failing)
        program.more.set()
        assert await reasons(peer, work) == ("disk",)
        full = False
        assert (await work.ended()).position == 10


async def reasons(peer: Peer, work: Work) -> tuple[str, ...]:
    """Return why a run does not move, once it does not."""
    async with asyncio.timeout(50):
        while True:
            report = await peer.request(FrameType.STATUS, Status(work.stream.resource))
            assert isinstance(report, StatusReport)
            if report.reasons != ("producer",):
                return tuple(report.reasons)
            await asyncio.sleep(0.01)


async def test_what_a_durable_run_produced_goes_with_its_record(
    start: Starter,
) -> None:
    program = Program()
    program.more.set()
    chosen = {"outcome_ttl": 0.1, "cleanup_interval": 0.05}
    async with start(program.server, **chosen) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/job")
        await work.ended()
        work.release()
        async with asyncio.timeout(50):
            while True:
                late = peer.subscribe(work.stream.resource)
                answer = await peer.request(
                    FrameType.STATUS, Status(work.stream.resource)
                )
                if isinstance(answer, Error):
                    break
                await late.ended()
                late.release()
                await asyncio.sleep(0.05)
        assert answer.code == Code.NOT_FOUND
        assert (await late.refused()).message.code == Code.NOT_FOUND
    async with start(Program().server):
        pass


async def test_resuming_is_said_when_it_is_opened(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        for name, resumes in (
            ("job", Resumes.REPLAY),
            ("series", Resumes.RECOMPUTE),
        ):
            work = peer.subscribe(f"sources/{name}")
            opened = (await work.opened()).message
            detail = opened_detail(work.stream.use, opened)
            assert isinstance(detail, SubscribeOpened)
            assert (detail.resumes, detail.first) == (resumes, 0)
            work.cancel(work=True)
            outcome: Outcome = await work.ended()
            assert outcome.outcome is OutcomeKind.CANCELLED
