"""All four uses on one session, under everything that can happen to it.

A machine opens streams and produces data while it cuts the link, connects again before
the server has noticed, has the server drain, loses its sessions, holds, refuses and
reorders stores, pauses and cancels. At the end the link
heals, and everything that is still wanted has to complete.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import End, Intent, OutcomeKind, Scope, Use
from ackline.proto.windows import STUCK, Budget
from tests.proto.joined import MemoryServer, Pair, limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ackline.proto.stream import Stream

SMALL = limits(
    max_chunk_size=20_000,
    window_units=200,
    window_bytes=300_000,
    initial_units=4,
    initial_bytes=10_000,
)
"""So that windows are met again and again; one largest event still fits."""

SERVER_MEMORY = 300_000
CLIENT_MEMORY = 600_000
CHUNK_SIZES = st.sampled_from([1024, 6000, 20_000])
PICK = st.integers(0, 2**16)
LOSSY = st.sampled_from([("latest", None), ("drop-oldest", 5), ("merge", None)])


@dataclass
class Item:
    """A stream, and what it is to carry."""

    stream: Stream
    data: bytes = b""
    buffer: EventBuffer | None = None
    produced: list[bytes] = field(default_factory=list)
    cancelled: bool = False
    lossy: bool = False


class Sessions(RuleBasedStateMachine):
    """A client and a server, and what may become of them."""

    def __init__(self) -> None:
        super().__init__()
        server = MemoryServer(server_limits=SMALL, budget=SERVER_MEMORY)
        self.pair = Pair(server)
        self.server = server
        self.client = self.pair.client
        self.client.budget = Budget(CLIENT_MEMORY)
        self.random = random.Random(1)
        self.items: list[Item] = []
        self.names = 0

    # What is opened

    def name(self) -> str:
        self.names += 1
        return f"n{self.names}"

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.random.seed(seed)
        self.server.objects["objects/first"] = self.random.randbytes(45_000)

    @rule(
        size=st.integers(0, 90_000),
        chunk_size=CHUNK_SIZES,
        early=st.booleans(),
        size_known=st.booleans(),
    )
    def upload(self, size: int, chunk_size: int, early: bool, size_known: bool) -> None:
        data = self.random.randbytes(size)
        name = self.name()
        stream = self.client.upload(
            data,
            chunk_size=chunk_size,
            key=name,
            early=early,
            size_known=size_known,
            resource=f"objects/{name}",
        )
        self.items.append(Item(stream, data=data))

    @rule(pick=PICK, chunk_size=CHUNK_SIZES)
    def fetch(self, pick: int, chunk_size: int) -> None:
        names = sorted(self.server.objects)
        name = names[pick % len(names)]
        stream = self.client.fetch(name, chunk_size=chunk_size)
        self.items.append(Item(stream, data=self.server.objects[name]))

    @rule()
    def publish(self) -> None:
        name = self.name()
        stream, buffer = self.client.publish(f"logs/{name}", key=name)
        self.items.append(Item(stream, buffer=buffer))

    @rule()
    def subscribe(self) -> None:
        name, buffer = self.source()
        self.items.append(Item(self.client.subscribe(name), buffer=buffer))

    @rule(policy=LOSSY)
    def subscribe_lossy(self, policy: tuple[str, int | None]) -> None:
        name, buffer = self.source()
        stream = self.client.subscribe(name, *policy, max_units=20)
        self.items.append(Item(stream, buffer=buffer, lossy=True))

    def source(self) -> tuple[str, EventBuffer]:
        name = f"sources/{self.name()}"
        buffer = self.server.logs[name] = EventBuffer(
            generation=3, max_events=10**6, max_bytes=10**8, keep=True, define=True
        )
        return name, buffer

    # What is produced

    @rule(
        pick=PICK,
        count=st.integers(1, 300),
        size=st.sampled_from([0, 1, 30, 2000, 40_000]),
        named=st.booleans(),
    )
    @precondition(lambda self: any(self.producers()))
    def produce(self, pick: int, count: int, size: int, named: bool) -> None:
        item = self.picked(self.producers(), pick)
        assert item.buffer is not None
        kind = 0
        if named and item.stream.use is Use.SUBSCRIBE:
            kind = item.buffer.define(f"kind {len(item.produced) % 5}")
        for _ in range(min(count, 1 + 200_000 // (size + 1))):
            if item.buffer.full:
                break
            body = self.random.randbytes(size)
            item.buffer.append(body, kind)
            item.produced.append(body)

    @rule(pick=PICK)
    @precondition(lambda self: any(self.producers()))
    def finish(self, pick: int) -> None:
        self.end(self.picked(self.producers(), pick))

    def end(self, item: Item) -> None:
        assert item.buffer is not None
        item.buffer.finish(End(Intent.COMPLETED, 0, "", size=len(item.produced)))

    # What happens

    @rule(count=st.integers(1, 40), piece=st.sampled_from([60, 900, 7000, 2**20]))
    def steps(self, count: int, piece: int) -> None:
        self.pair.piece = piece
        for _ in range(count):
            self.pair.step()

    @rule(seconds=st.floats(0.001, 2.0))
    def time_passes(self, seconds: float) -> None:
        pair = self.pair
        pair.now += seconds
        pair.c.handle_timeout(pair.now)
        pair.s.handle_timeout(pair.now)
        for _ in range(4):  # so that the two hear each other
            pair.step()

    @rule()
    def reconnect(self) -> None:
        self.pair.reconnect()

    @rule()
    def take_over(self) -> None:
        self.pair.take_over()

    @rule(count=st.integers(0, 20))
    def drain(self, count: int) -> None:
        pair = self.pair
        if not pair.s.closing:
            pair.s.go_away(Code.DRAINING, "restart", retry_after=1.0, deadline=5.0)
        for _ in range(count):
            pair.step()
        pair.reconnect()

    @rule()
    def lose_sessions(self) -> None:
        self.pair.drop()
        self.server.sessions.clear()
        self.pair.connect()

    @rule(held=st.booleans())
    def hold_stores(self, held: bool) -> None:
        self.server.hold_stores = held
        if not held:
            self.server.release_stores()

    @rule(seed=st.integers(0, 9), failing=st.integers(0, 3))
    def release_stores(self, seed: int, failing: int) -> None:
        order = random.Random(seed)
        self.server.fail_stores = failing
        self.server.release_stores(order=lambda _index: order.randrange(100))
        self.server.fail_stores = 0

    @rule(taken=st.booleans())
    def take_batches(self, taken: bool) -> None:
        self.server.take_batches = taken
        if taken:
            self.server.settle()

    @rule()
    def refuse_batches(self) -> None:
        for receiver in self.server.publishers.values():
            if receiver.batches and not receiver.stream.ended:
                receiver.refused(
                    receiver.stored, code=Code.INSUFFICIENT_STORAGE, retry_after=0.5
                )

    @rule(consuming=st.booleans())
    def consume(self, consuming: bool) -> None:
        self.client.consume = consuming
        if consuming:
            self.take_all()

    @rule(held=st.booleans())
    def hold_fetched(self, held: bool) -> None:
        self.client.hold_stores = held
        if not held:
            self.client.release_stores()

    @rule(pick=PICK, paused=st.booleans(), there=st.booleans())
    @precondition(lambda self: self.items)
    def pause(self, pick: int, paused: bool, there: bool) -> None:
        stream = self.picked(iter(self.items), pick).stream
        if not there:
            stream.pause(paused=paused)
        elif stream.id in self.pair.s.streams:
            self.pair.s.streams[stream.id].pause(paused=paused)

    @rule(pick=PICK)
    @precondition(lambda self: any(self.live()))
    def cancel(self, pick: int) -> None:
        item = self.picked(self.live(), pick)
        item.cancelled = True
        self.pair.c.cancel(item.stream, scope=Scope.STREAM)

    @rule(pick=PICK)
    @precondition(lambda self: self.items)
    def release(self, pick: int) -> None:
        item = self.picked(iter(self.items), pick)
        self.items.remove(item)
        self.pair.c.release(item.stream)

    # What always holds

    @invariant()
    def nobody_broke_the_protocol(self) -> None:
        assert not self.pair.c.closing
        assert not self.pair.s.closing
        assert self.client.broken == {}
        assert self.client.errors == []
        assert set(self.client.refusals.values()) <= {Code.OVERLOADED}

    @invariant()
    def no_window_is_exceeded(self) -> None:
        for core in (self.pair.c, self.pair.s):
            assert core.credit.fits(0, 0)
            for stream in core.streams.values():
                if stream.sender is not None:
                    assert stream.sender.window.fits(0, 0)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert 0 <= self.server.budget.used <= SERVER_MEMORY
        assert 0 <= self.client.budget.used <= CLIENT_MEMORY

    @invariant()
    def what_has_arrived_is_a_prefix(self) -> None:
        for item in self.items:
            got = self.arrived(item)
            if item.lossy:
                produced = iter(item.produced)
                assert all(body in produced for body in got)
            else:
                assert got == item.produced[: len(got)]

    @invariant()
    def no_chunk_is_stored_twice_or_differs(self) -> None:
        for item in self.items:
            upload = self.server.uploads.get(item.stream.open.key)
            if item.stream.use is Use.UPLOAD and upload is not None:
                assert len(upload.stored_log) == len(set(upload.stored_log))
                for index, (part, _crc) in upload.chunks.items():
                    at = index * item.stream.sender.chunk_size  # type: ignore[union-attr]
                    assert part == item.data[at : at + len(part)]

    # How it ends

    def teardown(self) -> None:
        """Heal the link: everything that is wanted completes, and memory is free."""
        pair, server, client = self.pair, self.server, self.client
        server.hold_stores = client.hold_stores = False
        server.take_batches = client.consume = True
        pair.piece = 2**20
        pair.reconnect()
        pair.run()
        for item in self.items:
            item.stream.pause(paused=False)
            if item.buffer is not None:
                self.end(item)
        for stream in pair.s.streams.values():
            stream.pause(paused=False)
        server.settle()
        client.release_stores()
        self.take_all()
        pair.run(patience=STUCK)  # does not come to rest while anyone waits for memory
        for item in self.items:
            self.complete(item)
        assert server.budget.used == 0
        assert client.budget.used == 0
        assert server.budget.waiting == client.budget.waiting == 0
        self.nobody_broke_the_protocol()

    def complete(self, item: Item) -> None:
        stream, outcome = item.stream, item.stream.outcome
        if stream.id in self.client.refusals:
            return
        assert outcome is not None, (stream.use, stream.id)
        there = self.pair.s.streams.get(stream.id)
        assert there is None or there.outcome == outcome
        if item.cancelled and outcome.outcome is OutcomeKind.CANCELLED:
            return
        assert outcome.outcome is OutcomeKind.COMPLETED
        if item.lossy:
            receiver = stream.receiver
            assert isinstance(receiver, EventReceiver)
            left_out = receiver.left_out.total
            assert len(self.arrived(item)) + left_out == len(item.produced)
        else:
            assert self.arrived(item) == item.produced
        if stream.use is Use.UPLOAD:
            upload = self.server.uploads[stream.open.key]
            assert upload.data() == item.data
            assert upload.outcome == outcome
        elif stream.use is Use.FETCH and not item.cancelled:
            assert isinstance(stream.context, int)
            chunks = self.client.fetched[stream.context]
            assert b"".join(chunks[n] for n in sorted(chunks)) == item.data

    # Helpers

    def live(self) -> Iterator[Item]:
        return (item for item in self.items if not item.stream.ended)

    def producers(self) -> Iterator[Item]:
        return (
            item
            for item in self.live()
            if item.buffer is not None and item.buffer.end is None
        )

    def picked(self, items: Iterator[Item], pick: int) -> Item:
        found = list(items)
        return found[pick % len(found)]

    def arrived(self, item: Item) -> list[bytes]:
        if item.stream.use is Use.SUBSCRIBE:
            assert isinstance(item.stream.context, int)
            events = self.client.events[item.stream.context]
            return [body for body in events if body != b"gap"]
        if item.stream.use is Use.PUBLISH:
            return self.server.published.get(item.stream.open.resource, [])
        return []

    def take_all(self) -> None:
        for item in self.items:
            if isinstance(item.stream.receiver, EventReceiver):
                self.client.take(item.stream)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=250, stateful_step_count=40)
