"""Runs of sources: started once, read by many, stopped whole (SPEC.md §9.3, §14)."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from ackline.client import connect
from ackline.proto.errors import Code
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import (
    Outcome,
    OutcomeKind,
    Start,
    SubscribeOpened,
    opened_detail,
)
from ackline.server import Event, Server
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start as Starter


class Program:
    """A program with sources, which notes what they did."""

    def __init__(self) -> None:
        self.server = Server()
        self.started = 0
        self.produced = 0
        self.cleaned = 0
        self.more = asyncio.Event()
        source = self.server.source
        source("count")(self.count)
        source("forever")(self.forever)
        source("stepwise")(self.stepwise)
        source("volatile", resumes="none")(self.forever)

    async def count(self, upto: int = 10) -> AsyncGenerator[str]:
        self.started += 1
        for number in range(upto):
            self.produced += 1
            yield str(number)

    async def forever(self, cleanup: float = 0.0) -> AsyncGenerator[bytes]:
        self.started += 1
        try:
            while True:
                self.produced += 1
                yield b"x" * 100
        finally:
            await asyncio.sleep(cleanup)
            self.cleaned += 1

    async def stepwise(self) -> AsyncGenerator[bytes]:
        self.started += 1
        for number in range(5):
            yield str(number).encode()
        await self.more.wait()
        for number in range(5, 10):
            yield str(number).encode()


async def test_a_source_is_delivered_whole_and_in_order(start: Starter) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/count", parameters={"upto": 200_000})
        outcome = await work.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert outcome.position == 200_000
        assert [each[2] for each in work.received] == [
            str(number).encode() for number in range(200_000)
        ]
        assert work.stream.resource.startswith("runs/")


async def test_an_empty_source_completes(start: Starter) -> None:
    async with start(Program().server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/count", parameters={"upto": 0})
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 0)


async def test_kinds_are_named_as_the_source_named_them(start: Starter) -> None:
    server = Server()

    @server.source("kinds")
    async def kinds() -> AsyncGenerator[Event | bytes]:
        yield b"plain"
        yield Event("a token", "token")
        await asyncio.sleep(0.05)
        yield Event(b"usage", "usage")

    async with start(server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/kinds")
        await work.ended()
        assert work.received == [
            (0, "", b"plain"),
            (1, "token", b"a token"),
            (2, "usage", b"usage"),
        ]


async def test_a_resumed_subscription_does_not_start_the_work_twice(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/stepwise")
        await work.events(5)
        await peer.drop()
        program.more.set()
        await peer.connect()
        await work.ended()
        assert [each[0] for each in work.received] == list(range(10))
        assert program.started == 1
        await peer.drop()


async def test_the_key_joins_the_run_and_so_does_its_id(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        first = peer.subscribe("sources/stepwise", key="k")
        await first.events(5)
        second = peer.subscribe("sources/stepwise", key="k")
        assert (await second.opened()).message.existing
        async with Peer(serving.port) as other:
            third = other.subscribe(first.stream.resource, Start.ID, 3)
            await third.opened()
            program.more.set()
            for work in (first, second, third):
                assert (await work.ended()).outcome is OutcomeKind.COMPLETED
            assert [each[0] for each in third.received] == list(range(3, 10))
            assert third.stream.receiver is not None
            assert third.stream.receiver.end is not None
            assert third.stream.receiver.end.size == 7
        assert first.received == second.received
        assert program.started == 1
        conflict = peer.subscribe("sources/count", key="c", parameters={"upto": 1})
        await conflict.ended()
        refused = peer.subscribe("sources/count", key="c", parameters={"upto": 2})
        assert (await refused.refused()).message.code == Code.KEY_CONFLICT


async def test_an_ended_run_is_read_until_nobody_needs_it(start: Starter) -> None:
    program = Program()
    async with (
        start(program.server, run_retention=1.0) as serving,
        Peer(serving.port) as peer,
    ):
        first = peer.subscribe("sources/count", key="k")
        await first.ended()
        second = peer.subscribe(first.stream.resource)
        await second.ended()
        assert second.received == first.received
        await asyncio.sleep(1.5)
        third = peer.subscribe("sources/count", key="k")
        opened = (await third.opened()).message
        assert opened.existing
        assert opened.standing.outcome is not None
        assert opened.standing.outcome.position == 10
        assert program.started == 1


@pytest.mark.parametrize(
    ("resource", "parameters", "code"),
    [
        ("sources/none", {}, Code.NOT_FOUND),
        ("runs/none", {}, Code.NOT_FOUND),
        ("sources/count", {"unknown": 1}, Code.INVALID_ARGUMENT),
        ("objects/a", {}, Code.INVALID_ARGUMENT),
        ("nonsense", {}, Code.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_run_is_refused(
    start: Starter, resource: str, parameters: dict[str, object], code: Code
) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe(resource, parameters=parameters)
        assert (await work.refused()).message.code == code
        assert program.started == 0


async def test_cancel_runs_the_cleanup_and_waits_for_it(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/forever", window=10_000)
        other = peer.subscribe("sources/forever")
        await work.events(10)
        await other.events(10)
        work.cancel(work=True)
        outcome = await work.ended()
        assert program.cleaned == 1
        assert outcome.outcome is OutcomeKind.CANCELLED
        assert outcome.code == Code.CANCELLED_BY_CLIENT
        assert other.outcome is None


async def test_cancelling_the_work_ends_all_its_viewers(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        first = peer.subscribe("sources/stepwise")
        await first.events(5)
        second = peer.subscribe(first.stream.resource)
        await second.events(5)
        first.cancel()  # this stream only
        assert (await first.ended()).outcome is OutcomeKind.CANCELLED
        third = peer.subscribe(second.stream.resource)
        await third.events(5)
        second.cancel(work=True)
        assert (await second.ended()).code == Code.CANCELLED_BY_CLIENT
        outcome = await third.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.CANCELLED, 5)


async def test_slow_cleanup_is_told_as_still_stopping(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/forever", parameters={"cleanup": 1.3})
        await work.events(1)
        seen: list[OutcomeKind] = []
        ended = peer.core._ended

        def note(stream: object, outcome: Outcome) -> None:
            seen.append(outcome.outcome)
            ended(stream, outcome)  # type: ignore[arg-type]

        peer.core._ended = note  # type: ignore[method-assign]
        work.cancel(work=True)
        await work.ended()
        assert seen == [OutcomeKind.STILL_STOPPING, OutcomeKind.CANCELLED]
        assert program.cleaned == 1


async def test_a_run_without_a_consumer_is_cancelled(start: Starter) -> None:
    program = Program()
    async with start(program.server, run_grace=0.2) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/forever")
        await work.events(1)
        await peer.drop()
        async with asyncio.timeout(50):
            while not program.cleaned:
                await asyncio.sleep(0.02)
        await peer.connect()
        outcome = await work.ended()
        assert outcome.code == Code.NO_CONSUMER
        await peer.drop()


async def test_a_source_that_cannot_resume_says_so_and_ends(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/volatile")
        await work.events(1)
        await peer.drop()
        async with asyncio.timeout(50):
            while not program.cleaned:
                await asyncio.sleep(0.02)
        await peer.connect()
        await work.ended()
        await peer.drop()


async def test_a_source_that_raises_fails_after_its_last_event(start: Starter) -> None:
    server = Server()

    @server.source("broken")
    async def broken() -> AsyncGenerator[bytes]:
        yield b"first"
        raise RuntimeError("no more")

    @server.source("huge")
    async def huge() -> AsyncGenerator[bytes]:
        yield b"x" * MAX_EVENT
        yield b"x" * (MAX_EVENT + 1)

    @server.source("number")
    async def number() -> AsyncGenerator[int]:
        yield 1

    async with start(server) as serving, Peer(serving.port) as peer:
        for name, events, text in (
            ("broken", 1, "RuntimeError: no more"),
            ("huge", 1, f"the largest has {MAX_EVENT}"),
            ("number", 0, "not int"),
        ):
            work = peer.subscribe(f"sources/{name}")
            outcome = await work.ended()
            assert (outcome.outcome, outcome.code) == (
                OutcomeKind.FAILED,
                Code.SOURCE_FAILED,
            )
            assert text in outcome.text
            assert len(work.received) == events


async def test_a_producer_waits_for_its_slowest_consumer(start: Starter) -> None:
    program = Program()
    async with (
        start(program.server, run_buffer_events=1000) as serving,
        Peer(serving.port) as peer,
    ):
        work = peer.subscribe("sources/forever", take=False, window=5_000)
        await work.opened()
        await asyncio.sleep(0.3)
        assert program.produced <= 1001
        work.go_on()
        await work.events(5000)
        work.cancel(work=True)
        await work.ended()


@pytest.mark.parametrize("policy", ["block", "drop-oldest"])
async def test_a_consumer_is_told_how_far_the_run_gets_ahead(
    start: Starter, policy: str
) -> None:
    options = {"run_buffer_events": 1000, "run_buffer_bytes": 2000}
    async with (
        start(Program().server, **options) as serving,
        Peer(serving.port) as peer,
    ):
        value = None if policy == "block" else 10
        work = peer.subscribe("sources/count", policy=policy, policy_value=value)
        detail = opened_detail(work.stream.use, (await work.opened()).message)
        assert isinstance(detail, SubscribeOpened)
        told = (1000, 2000) if policy == "block" else (0, 0)
        assert (detail.ahead_units, detail.ahead_bytes) == told
        await work.ended()


@pytest.mark.parametrize("bound", ["run_buffer_events", "run_buffer_bytes"])
@pytest.mark.parametrize("auto_ack", [True, False])
async def test_a_run_does_not_stand_still_for_an_ack_that_may_wait(
    start: Starter, bound: str, auto_ack: bool
) -> None:
    """Without half of `ahead` in mind this takes 0.5 s for each of 100 buffers."""
    size = 200 if bound == "run_buffer_events" else 1024
    async with (
        asyncio.timeout(30),
        start(Program().server, **{bound: size}) as serving,
        connect(f"ackline://127.0.0.1:{serving.port}") as client,
        client.subscribe(
            "sources/count", params={"upto": 20_000}, auto_ack=auto_ack
        ) as events,
    ):
        received = 0
        async for event in events:
            assert event.id == received
            received += 1
            if not auto_ack:
                events.ack(event.id)
        assert received == 20_000


async def test_a_run_ends_with_the_process_that_had_it(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/stepwise", key="k")
        await work.events(5)
        await peer.drop()
    async with start(Program().server) as serving:
        peer.port = serving.port
        await peer.connect()
        outcome = await work.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.PRODUCER_LOST,
        )
        late = peer.subscribe(work.stream.resource)
        assert (await late.ended()).code == Code.PRODUCER_LOST
        await peer.drop()


async def test_a_deadline_ends_the_cursor(start: Starter) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/stepwise", deadline=0.2)
        outcome = await work.ended()
        assert outcome.code == Code.DEADLINE_EXCEEDED


async def test_a_source_that_never_waits_leaves_the_loop_to_others(
    start: Starter,
) -> None:
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        busy = peer.subscribe("sources/forever")
        await busy.opened()
        other = peer.subscribe("sources/count")
        assert (await other.ended()).outcome is OutcomeKind.COMPLETED
        busy.cancel(work=True)
        await busy.ended()


@pytest.mark.parametrize(("a_look", "at_most"), [(0.0, 600), (1.0, 20)])
async def test_a_turn_of_a_source_has_an_end(
    start: Starter, monkeypatch: pytest.MonkeyPatch, a_look: float, at_most: int
) -> None:
    clock = itertools.count(0.0, a_look)
    monkeypatch.setattr("ackline.server.generators.perf_counter", lambda: next(clock))
    program = Program()
    async with start(program.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/forever")
        await work.events(1)
        turns: list[int] = []
        for _ in range(50):
            before = program.produced
            await asyncio.sleep(0)
            turns.append(program.produced - before)
        assert 0 < max(turns) <= at_most
        work.cancel(work=True)
        await work.ended()


async def test_a_run_is_ahead_by_no_more_bytes_than_it_may_be(start: Starter) -> None:
    program = Program()
    async with (
        start(program.server, run_buffer_bytes=20_000) as serving,
        Peer(serving.port) as peer,
    ):
        work = peer.subscribe("sources/forever", take=False, window=5_000)
        await work.opened()
        await asyncio.sleep(0.3)
        assert 100 < program.produced <= 20_000 // 104 + 1
        work.go_on()
        await work.events(5000)
        assert [each[0] for each in work.received[:5000]] == list(range(5000))
        work.cancel(work=True)
        await work.ended()


async def test_an_event_does_not_wait_for_the_next_of_its_turn(
    start: Starter,
) -> None:
    server, seen = Server(), asyncio.Event()

    @server.source("one")
    async def one() -> AsyncGenerator[bytes]:
        yield b"first"
        await seen.wait()
        yield b"second"
        yield b"third"

    async with start(server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/one")
        await work.events(1)
        seen.set()
        await work.ended()
        assert [each[2] for each in work.received] == [b"first", b"second", b"third"]


def test_what_is_no_source_is_refused_when_it_is_registered() -> None:
    server = Server()

    async def coroutine() -> None: ...

    for name, function, resumes in (
        ("a", coroutine, "replay"),
        (" a", Program.count, "replay"),
        ("a", Program.count, "sometimes"),
    ):
        with pytest.raises(ValueError, match=r"source|resumes"):
            server.source(name, resumes=resumes)(function)  # type: ignore[arg-type, type-var]
    server.source("a")(Program.count)
    with pytest.raises(ValueError, match="already"):
        server.source("a")(Program.count)


async def test_a_source_that_never_stops_does_not_hold_the_server(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.server.SETTLE_SECONDS", 0.2)
    server, patience = Server(), asyncio.Event()

    @server.source("stubborn")
    async def stubborn() -> AsyncGenerator[str]:
        try:
            yield "here"
            await asyncio.sleep(60)
        finally:
            await patience.wait()

    async with asyncio.timeout(50), start(server) as serving:
        peer = await Peer(serving.port).connect()
        await peer.subscribe("sources/stubborn").events(1)
        await peer.drop()
    patience.set()
    for _ in range(10):
        await asyncio.sleep(0)
    left = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in left if name.startswith("runs/")]
