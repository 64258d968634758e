"""Sources that push: events from code that runs elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import OutcomeKind, Status, StatusReport
from ackline.server import BufferFull, Emitter, Event, Server
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.server.conftest import Start as Starter


class Rooms:
    """A program whose source keeps the emitters, by the room they are for."""

    def __init__(self) -> None:
        self.server = Server()
        self.here: dict[str, Emitter] = {}
        self.left: list[str] = []
        self.server.source("room")(self.room)
        self.server.source("volatile", resumes="none")(self.room)

    def room(self, emitter: Emitter, name: str = "a") -> None:
        self.here[name] = emitter
        emitter.on_end(lambda: self.left.append(name))

    async def has_left(self, name: str) -> None:
        async with asyncio.timeout(50):
            while name not in self.left:
                await asyncio.sleep(0.01)


async def test_one_producer_feeds_many_runs(start: Starter) -> None:
    rooms = Rooms()
    async with start(rooms.server) as serving, Peer(serving.port) as peer:
        names = [str(number) for number in range(50)]
        works = [peer.subscribe("sources/room", parameters={"name": n}) for n in names]
        for work in works:
            await work.opened()
        for turn in range(20):
            for name in names:
                rooms.here[name].emit(f"{turn} for {name}")
            await asyncio.sleep(0)
        for name in names:
            rooms.here[name].complete()
        for name, work in zip(names, works, strict=True):
            outcome = await work.ended()
            assert (outcome.outcome, outcome.position) == (OutcomeKind.COMPLETED, 20)
            assert [each[2] for each in work.received] == [
                f"{turn} for {name}".encode() for turn in range(20)
            ]
        assert sorted(rooms.left) == sorted(names)


async def test_what_is_emitted_before_the_function_returns_is_there(
    start: Starter,
) -> None:
    server = Server()

    @server.source("whole")
    def whole(emitter: Emitter, /, **_: object) -> None:
        emitter.emit(b"plain")
        emitter.emit("text")
        emitter.emit(Event(b"body", "named"))
        emitter.complete()

    async with start(server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/whole", parameters={"emitter": 1})
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        assert work.received == [
            (0, "", b"plain"),
            (1, "", b"text"),
            (2, "named", b"body"),
        ]


async def test_a_run_fails_as_its_producer_says(start: Starter) -> None:
    rooms = Rooms()
    async with start(rooms.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/room")
        await work.opened()
        rooms.here["a"].emit(b"last")
        rooms.here["a"].fail("the exchange is closed")
        rooms.here["a"].complete()  # the first end stands
        rooms.here["a"].fail("again")
        outcome = await work.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.SOURCE_FAILED,
        )
        assert outcome.text == "the exchange is closed"
        assert len(work.received) == 1
        await rooms.has_left("a")


async def test_a_function_that_raises_fails_its_run(start: Starter) -> None:
    server = Server()

    @server.source("broken")
    def broken(emitter: Emitter, *, first: bool) -> None:
        if first:
            emitter.complete()
        raise RuntimeError("no exchange")

    async with start(server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/broken", parameters={"first": False})
        outcome = await work.ended()
        assert outcome.code == Code.SOURCE_FAILED
        assert outcome.text == "RuntimeError: no exchange"
        work = peer.subscribe("sources/broken", parameters={"first": True})
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED


async def test_a_cancelled_run_drops_what_still_comes(start: Starter) -> None:
    rooms = Rooms()
    async with start(rooms.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/room")
        await work.opened()
        emitter = rooms.here["a"]
        emitter.emit(b"first")
        await work.events(1)
        assert not emitter.ended
        work.cancel(work=True)
        outcome = await work.ended()
        assert (outcome.outcome, outcome.position) == (OutcomeKind.CANCELLED, 1)
        await rooms.has_left("a")
        assert emitter.ended
        emitter.emit(b"late")
        await emitter.ready()


async def test_a_run_without_a_consumer_tells_its_producer(start: Starter) -> None:
    rooms = Rooms()
    async with start(rooms.server, run_grace=0.2) as serving:
        peer = await Peer(serving.port).connect()
        kept = peer.subscribe("sources/room", parameters={"name": "kept"})
        volatile = peer.subscribe("sources/volatile", parameters={"name": "volatile"})
        await kept.opened()
        await volatile.opened()
        await peer.drop()
        await rooms.has_left("volatile")
        await rooms.has_left("kept")
        assert rooms.left == ["volatile", "kept"]
        await peer.connect()
        assert (await kept.ended()).code == Code.NO_CONSUMER
        await peer.drop()


async def test_a_full_buffer_takes_nothing_until_its_consumer_goes_on(
    start: Starter,
) -> None:
    rooms = Rooms()
    async with (
        start(rooms.server, run_buffer_events=100) as serving,
        Peer(serving.port) as peer,
    ):
        work = peer.subscribe("sources/room", take=False)
        await work.opened()
        emitter = rooms.here["a"]
        await emitter.ready()
        for number in range(100):
            assert not emitter.full
            emitter.emit(str(number))
        assert emitter.full
        with pytest.raises(BufferFull, match=f"runs/{emitter.run_id} has no room"):
            emitter.emit(b"one more")
        report = await peer.request(FrameType.STATUS, Status(work.stream.resource))
        assert isinstance(report, StatusReport)
        assert any("consumer" in reason for reason in report.reasons)
        waiting = [asyncio.ensure_future(emitter.ready()) for _ in range(2)]
        given_up = asyncio.ensure_future(emitter.ready())
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in waiting)
        given_up.cancel()
        work.go_on()
        async with asyncio.timeout(50):
            await asyncio.gather(*waiting)
        emitter.emit(b"one more")
        emitter.complete()
        assert (await work.ended()).position == 101


async def test_who_waits_for_room_hears_of_the_end(start: Starter) -> None:
    rooms = Rooms()
    async with (
        start(rooms.server, run_buffer_events=1) as serving,
        Peer(serving.port) as peer,
    ):
        work = peer.subscribe("sources/room", take=False)
        await work.opened()
        rooms.here["a"].emit(b"only")
        waiting = asyncio.ensure_future(rooms.here["a"].ready())
        await asyncio.sleep(0)
        work.cancel(work=True)
        async with asyncio.timeout(50):
            await waiting


async def test_what_is_no_event_is_refused_to_the_producer(start: Starter) -> None:
    rooms = Rooms()
    async with start(rooms.server) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/room")
        await work.opened()
        item: Any = 1
        with pytest.raises(TypeError, match="not int"):
            rooms.here["a"].emit(item)
        with pytest.raises(ValueError, match=f"the largest has {MAX_EVENT}"):
            rooms.here["a"].emit(b"x" * (MAX_EVENT + 1))
        rooms.here["a"].complete()
        assert (await work.ended()).position == 0


async def test_parameters_are_checked_before_the_function_is_called(
    start: Starter,
) -> None:
    rooms = Rooms()
    async with start(rooms.server) as serving, Peer(serving.port) as peer:
        wrong: tuple[dict[str, object], ...] = ({"unknown": 1}, {"emitter": 1})
        for parameters in wrong:
            work = peer.subscribe("sources/room", parameters=parameters)
            refused = (await work.refused()).message
            assert refused.code == Code.INVALID_ARGUMENT
            assert "source 'room' takes (name: 'str' = 'a')" in refused.text
        assert not rooms.here


def test_a_source_is_a_generator_or_takes_an_emitter() -> None:
    server = Server()

    def nothing() -> None: ...

    def named(*, emitter: Emitter) -> None: ...

    async def coroutine(emitter: Emitter) -> None: ...

    def generator(emitter: Emitter) -> Any:
        yield emitter

    async def fine() -> AsyncGenerator[bytes]:
        yield b""

    for wrong in (nothing, named, coroutine, generator):
        function: Any = wrong
        with pytest.raises(ValueError, match="plain function whose first argument"):
            server.source("a")(function)
    server.source("a")(fine)
