"""Slow consumers of logs and runs (SPEC.md §14, §16)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.entries import LeftOut
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Configure,
    OnTrimmed,
    OutcomeKind,
    Start,
    Status,
    StatusReport,
)
from ackline.proto.stream import Stream
from ackline.server import Address, Event, Server
from tests.server.peer import PATIENCE, Peer, Work
from tests.server.test_metrics import get

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from ackline.proto.messages import Standing
    from tests.server.conftest import Start as Starter

SMALL = {"run_buffer_events": 1000}
POLICIES: list[tuple[str, Any]] = [
    ("latest", None),
    ("drop-oldest", 10),
    ("sample", 0.01),
    ("merge", None),
    ("merge", "key"),
]


class Program:
    """A source of numbers, which a test can look at."""

    def __init__(self, *, resumes: Any = "replay", durable: bool = False) -> None:
        self.server = Server()
        self.produced = 0
        self.go_on = asyncio.Event()
        self.server.source("numbers", resumes=resumes, durable=durable)(self.numbers)
        self.server.source("later")(self.later)

    async def numbers(self, upto: int) -> AsyncGenerator[str]:
        for number in range(upto):
            self.produced += 1
            yield str(number)

    async def later(self, first: int, second: int) -> AsyncGenerator[Event]:
        for number in range(first + second):
            if number == first:
                await self.go_on.wait()
            yield Event(str(number), f"kind {number % 3}")


def sums(work: Work) -> tuple[int, int]:
    """Return how many events came, and how many ids are gaps."""
    return len(work.received), sum(count for _id, count in work.gaps)


def receiver_of(work: Work) -> EventReceiver:
    assert isinstance(work.stream.receiver, EventReceiver)
    return work.stream.receiver


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("policy", "value"), POLICIES)
@pytest.mark.parametrize("resumes", ["replay", "none"])
async def test_only_a_consumer_that_blocks_stops_the_generator(
    start: Starter, policy: str, value: object, resumes: str
) -> None:
    program = Program(resumes=resumes)
    async with start(program.server, **SMALL) as serving, Peer(serving.port) as peer:
        upto: dict[str, object] = {"upto": 20_000}
        lossy = peer.subscribe(
            "sources/numbers",
            parameters=upto,
            take=False,
            units=4,
            policy=policy,
            policy_value=value,
        )
        await wait_for(lambda: program.produced == 20_000)
        lossy.go_on()
        outcome = await lossy.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert sum(sums(lossy)) == 20_000
        assert sums(lossy)[1] > 10_000
        assert lossy.received[-1][2] == b"19999"

        program.produced = 0
        peer.subscribe("sources/numbers", parameters=upto, take=False, units=4)
        await wait_for(lambda: program.produced >= 1000)
        for _ in range(100):
            await asyncio.sleep(0)
        assert program.produced < 2000


async def test_a_consumer_that_blocks_holds_what_another_may_miss(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server, **SMALL) as serving, Peer(serving.port) as peer:
        blocking = peer.subscribe(
            "sources/numbers", parameters={"upto": 5000}, take=False, units=4
        )
        await wait_for(lambda: program.produced >= 1000)
        run = (await blocking.opened()).stream.resource
        lossy = peer.subscribe(run, policy="latest", units=2)
        await lossy.events(1)
        assert program.produced < 2000
        blocking.go_on()
        await blocking.ended()
        await lossy.ended()
        assert sums(blocking) == (5000, 0)
        assert sum(sums(lossy)) == 5000


async def test_the_producer_waits_again_for_one_who_blocks_and_joins(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server, **SMALL) as serving, Peer(serving.port) as peer:
        lossy = peer.subscribe(
            "sources/numbers", parameters={"upto": 10**9}, policy="latest", units=2
        )
        await wait_for(lambda: program.produced > 5000)
        run = (await lossy.opened()).stream.resource
        blocking = peer.subscribe(run, Start.NEXT, take=False, units=4)
        first = (await blocking.opened()).message.standing.position
        await wait_for(lambda: program.produced >= first + 1000)
        for _ in range(100):
            await asyncio.sleep(0)
        assert program.produced < first + 2000
        blocking.go_on()
        await blocking.events(2000)
        assert [each[0] for each in blocking.received[:2000]] == list(
            range(first, first + 2000)
        )
        lossy.cancel(work=True)
        await lossy.ended()


async def test_policies_that_are_none_are_refused_with_what_would_be(
    start: Starter,
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"x"]).ended()
        for policy, value, linger, code, text in [
            ("newest", None, 0.0, Code.UNSUPPORTED, "use block, latest, sample"),
            ("latest", 1, 0.0, Code.INVALID_ARGUMENT, "takes no value"),
            ("sample", None, 0.0, Code.INVALID_ARGUMENT, "the seconds between"),
            ("sample", 0, 0.0, Code.INVALID_ARGUMENT, "0.001 to 3600"),
            ("sample", 1.0, 1.0, Code.INVALID_ARGUMENT, "leave out the linger"),
            ("merge", 7, 0.0, Code.INVALID_ARGUMENT, "the kind"),
            ("drop-oldest", None, 0.0, Code.INVALID_ARGUMENT, "number of events"),
            ("block", None, 61.0, Code.INVALID_ARGUMENT, "0 to 60 s"),
        ]:
            work = peer.subscribe(
                "logs/log", policy=policy, policy_value=value, linger=linger
            )
            message = (await work.refused()).message
            assert message.code == code
            assert text in message.text


async def publish(peer: Peer, count: int, first: int = 0) -> None:
    bodies = [b"%d" % number for number in range(first, first + count)]
    await peer.publish("log", bodies, kinds=("a", "b")).ended()


@pytest.mark.parametrize("restart", [False, True])
async def test_logs_are_read_under_every_policy(start: Starter, restart: bool) -> None:
    """What is not in memory is loaded for it."""
    async with start() as serving, Peer(serving.port) as peer:
        await publish(peer, 3000)
        if not restart:
            await check_log(peer)
    if restart:
        async with start() as serving, Peer(serving.port) as peer:
            await check_log(peer)


async def check_log(peer: Peer) -> None:
    latest = peer.subscribe("logs/log", policy="latest")
    oldest = peer.subscribe("logs/log", policy="drop-oldest", policy_value=5)
    merged = peer.subscribe("logs/log", policy="merge")
    by_key = peer.subscribe("logs/log", policy="merge", policy_value="a")
    await latest.events(1)
    await oldest.events(5)
    await merged.events(3)
    await by_key.events(3000)
    assert latest.received == [(2999, "b", b"2999")]
    assert [each[0] for each in oldest.received] == list(range(2995, 3000))
    assert [each[0] for each in merged.received] == [2997, 2998, 2999]
    assert latest.gaps == [(0, 2999)]
    assert merged.gaps == [(0, 2997)]
    assert not by_key.gaps
    await publish(peer, 1, first=3000)
    await latest.events(2)
    assert latest.received[-1] == (3000, "", b"3000")


async def test_a_kind_that_is_new_is_named_though_its_first_event_is_left_out(
    start: Starter,
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"plain"]).ended()
        work = peer.subscribe("logs/log", policy="latest", units=2, take=False)
        await wait_for(lambda: receiver_of(work).position == 1)
        await publish(peer, 3000)
        work.go_on()
        await work.events(2)
        await wait_for(lambda: receiver_of(work).position == 3001)
        assert work.received[-1] == (3000, "b", b"2999")


@pytest.mark.parametrize("more", [50, 5000])
async def test_a_resume_goes_on_and_says_whether_it_is_verified(
    start: Starter, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC.md §15: what was trimmed proves nothing."""
    program = Program()
    metrics = Address("127.0.0.1", 0)
    async with start(program.server, metrics=metrics, **SMALL) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe(
            "sources/later",
            parameters={"first": 10, "second": more},
            policy="drop-oldest",
            policy_value=40,
        )
        await work.events(10)
        run = work.stream.resource
        await peer.drop()
        program.go_on.set()
        async with Peer(serving.port) as other:
            while (await status(other, run)).state != "COMPLETED":
                pass
            verified = (await status(other, run)).facts["first"] == 0
        assert verified == (more == 50)
        standings: list[Standing] = []
        monkeypatch.setattr(
            Stream, "go_on", lambda _stream, standing: standings.append(standing)
        )
        await peer.connect()
        await work.ended()
        assert [each.verified for each in standings] == [verified]
        assert work.gaps == [(10, more - 40)]
        assert [each[0] for each in work.received[10:]] == list(
            range(more - 30, more + 10)
        )
        _code, text = await get(serving, "/metrics")
        assert f'ackline_gaps_total{{reason="dropped"}} {more - 40}.0' in text
        await peer.drop()


async def test_a_log_that_is_trimmed_meanwhile_is_a_gap(start: Starter) -> None:
    async with start(cleanup_interval=0.05, log_segment_bytes=2**16) as serving:
        peer = await Peer(serving.port).connect()
        await publish(peer, 100)
        work = peer.subscribe("logs/log", policy="drop-oldest", policy_value=10**6)
        await work.events(100)
        await peer.drop()
        async with Peer(serving.port) as other:
            await other.publish("log", [b"x" * 1000] * 500).ended()
            keep = Configure("logs/log", {"retention_bytes": 2**16})
            await other.request(FrameType.CONFIGURE, keep)
            while int(str((await status(other, "logs/log")).facts["first"])) < 400:
                pass
            facts = (await status(other, "logs/log")).facts
        await peer.connect()
        first = int(str(facts["first"]))
        await work.events(100 + 600 - first)
        assert work.gaps == [(100, first - 100)]
        assert receiver_of(work).left_out == LeftOut(trimmed=first - 100)
        await peer.drop()


async def test_a_start_that_is_trimmed_is_refused_unless_a_gap_will_do(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server, **SMALL) as serving, Peer(serving.port) as peer:
        work = peer.subscribe(
            "sources/numbers", parameters={"upto": 5000}, policy="latest"
        )
        await work.ended()
        run = work.stream.resource
        refused = peer.subscribe(run, Start.ID, 1, policy="drop-oldest", policy_value=9)
        assert (await refused.refused()).message.code == Code.POSITION_TRIMMED
        gap = peer.subscribe(
            run,
            Start.ID,
            1,
            policy="drop-oldest",
            policy_value=9,
            on_trimmed=OnTrimmed.GAP,
        )
        await gap.ended()
        assert sums(gap) == (9, 4990)


async def test_durable_runs_have_lossy_readers_too(start: Starter) -> None:
    program = Program(durable=True)
    async with start(program.server, **SMALL) as serving, Peer(serving.port) as peer:
        work = peer.subscribe(
            "sources/numbers",
            parameters={"upto": 5000},
            policy="latest",
            units=2,
            take=False,
        )
        await wait_for(lambda: program.produced == 5000)
        work.go_on()
        await work.ended()
        assert sum(sums(work)) == 5000
        assert work.received[-1][2] == b"4999"


async def test_nothing_is_computed_again_for_who_may_miss_it(start: Starter) -> None:
    server, starts, go_on = Server(), list[int](), asyncio.Event()

    @server.source("squares", resumes="recompute")
    async def squares(*, start: int) -> AsyncGenerator[str]:
        starts.append(start)
        for number in range(start, 5000):
            if number == 10:
                await go_on.wait()
            yield str(number * number)

    async with start(server, **SMALL) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/squares", policy="latest")
        await wait_for(lambda: receiver_of(work).position == 10)
        await peer.drop()
        go_on.set()
        async with Peer(serving.port) as other:
            while (await status(other, work.stream.resource)).state != "COMPLETED":
                pass
        await peer.connect()
        await work.ended()
        assert sum(sums(work)) == 5000
        assert work.received[-1] == (4999, "", str(4999**2).encode())
        assert starts == [0]
        await peer.drop()


async def test_status_tells_the_policy_and_what_it_left_out(start: Starter) -> None:
    program = Program()
    async with start(program.server, **SMALL) as serving, Peer(serving.port) as peer:
        work = peer.subscribe(
            "sources/later",
            parameters={"first": 1000, "second": 1},
            policy="drop-oldest",
            policy_value=7,
        )
        await work.events(7)
        await wait_for(lambda: receiver_of(work).consumed == 1000)
        assert peer.session.session is not None
        session = f"sessions/{peer.session.session.session_id}"
        line = (await status(peer, session)).facts["stream 1"]
        assert "drop-oldest:7 at 1000, 993 dropped" in str(line)
        facts = (await status(peer, work.stream.resource)).facts
        assert facts["cursor 1"] == "drop-oldest:7 at 1000, 993 dropped"
        program.go_on.set()
        await work.ended()


async def status(peer: Peer, target: str) -> StatusReport:
    report = await peer.request(FrameType.STATUS, Status(target))
    assert isinstance(report, StatusReport)
    return report
