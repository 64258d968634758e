"""Windows follow the disk and the consumer, for all four uses (SPEC.md §12)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.feed import EventBuffer
from ackline.proto.receiver import LATE
from tests.proto.joined import MemoryServer, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.receiver import Receiver
    from ackline.proto.stream import Stream

CHUNK = 64 * 2**10
EVENT = b"x" * 16_000
KIB = 2**10

DATA = random.Random(1).randbytes(100 * CHUNK)

AHEAD = 10 * 2**20
"""Bytes of events that a sender has: more than the largest window."""


def granted(receiver: Receiver) -> int:
    """Return bytes on their way, as the receiver allows."""
    return receiver.grant.limit_bytes - receiver.grant.bytes + receiver._pending


class Events:
    """A stream of events, whose receiver takes them when it is told to."""

    largest = 8 * 2**20

    def __init__(self, pair: Pair, use: str) -> None:
        self.pair = pair
        self.smallest = (16 if use == "publish" else 256) * KIB
        if use == "publish":
            pair.server.take_batches = False
            self.stream, self.feed = pair.client.publish(
                "logs/x", key="p", max_bytes=AHEAD
            )
            pair.run()
            self.half = pair.s.streams[self.stream.id].receiver
            self.take: Callable[[Stream], None] = pair.server.batches
        else:
            pair.client.consume = False
            self.feed = EventBuffer(
                generation=5, max_events=10**4, max_bytes=AHEAD, keep=False
            )
            pair.server.logs["sources/x"] = self.feed
            self.stream = pair.client.subscribe("sources/x")
            self.half = self.stream.receiver
            self.take = pair.client.take
        assert isinstance(self.half, EventReceiver)
        self.receiver = self.half

    def move(self) -> None:
        """Have more than a window to send, and take all that comes of it."""
        self.feed.set_floor(self.receiver.stored)
        while not self.feed.full:
            self.feed.append(EVENT)
        self.pair.run()
        self.take(self.receiver.stream)
        self.pair.run()


class Chunks:
    """A stream of chunks, whose receiver stores one when it is told to."""

    smallest, largest = 2 * CHUNK, 4 * CHUNK

    def __init__(self, pair: Pair, use: str) -> None:
        self.pair = pair
        if use == "upload":
            pair.server.hold_stores = True
            self.owner: MemoryServer | object = pair.server
            stream = pair.client.upload(DATA, chunk_size=CHUNK, key="k")
            pair.run()
            half = pair.s.streams[stream.id].receiver
        else:
            pair.server.objects["objects/x"] = DATA
            pair.client.hold_stores = True
            self.owner = pair.client
            stream = pair.client.fetch("objects/x", chunk_size=CHUNK)
            pair.run()
            half = stream.receiver
        assert isinstance(half, ChunkReceiver)
        self.receiver = half

    def move(self) -> None:
        """Store what came, and let the next come."""
        owner = self.pair.server if self.owner is self.pair.server else self.pair.client
        owner.release_stores()
        self.pair.run()


@pytest.fixture(params=["upload", "fetch", "publish", "subscribe"])
def moving(request: pytest.FixtureRequest) -> Events | Chunks:
    kind = Chunks if request.param in {"upload", "fetch"} else Events
    return kind(Pair(), request.param)


def idle(pair: Pair, seconds: float) -> None:
    pair.now += seconds
    pair.c.handle_timeout(pair.now)
    pair.s.handle_timeout(pair.now)


def test_a_window_grows_shrinks_and_grows_with_who_takes_the_units(
    moving: Events | Chunks,
) -> None:
    receiver, pair = moving.receiver, moving.pair
    assert granted(receiver) < moving.largest
    for _ in range(10):
        moving.move()
    assert granted(receiver) == moving.largest
    held = receiver.budget.used
    for _ in range(10):
        idle(pair, LATE + 1)
        moving.move()
    assert granted(receiver) == moving.smallest
    assert receiver.budget.used == held - moving.largest + moving.smallest
    for _ in range(10):
        moving.move()
    assert granted(receiver) == moving.largest


def test_a_window_in_between_stays_as_it_is(moving: Events | Chunks) -> None:
    """Neither soon nor late: what is on the way is a few seconds of work."""
    for _ in range(3):
        moving.move()
    before = granted(moving.receiver)
    for _ in range(4):
        idle(moving.pair, LATE / 2)
        moving.move()
    assert granted(moving.receiver) == before


def test_a_slow_link_does_not_shrink_the_window_of_a_disk_that_is_not(
    request: pytest.FixtureRequest,
) -> None:
    moving = Chunks(Pair(), "upload")
    for _ in range(4):
        moving.move()
    moving.pair.server.hold_stores = False
    moving.move()
    idle(moving.pair, LATE + 1)
    moving.move()
    assert moving.receiver._window_chunks == 4


@pytest.mark.parametrize("use", ["upload", "publish"])
def test_a_grown_window_is_given_up_for_those_that_have_none(use: str) -> None:
    pair = Pair(MemoryServer(budget=2 * 2**20 if use == "publish" else 5 * CHUNK))
    first = (Events if use == "publish" else Chunks)(pair, use)
    for _ in range(6):
        first.move()
    grown = granted(first.receiver)
    others = [
        pair.client.publish(f"logs/{n}", key=f"{n}")[0]
        if use == "publish"
        else pair.client.upload(DATA, chunk_size=CHUNK, key=f"{n}")
        for n in range(40 if use == "publish" else 3)
    ]
    pair.run()
    first.move()
    pair.run()
    for other in others:
        half = pair.s.streams[other.id].receiver
        assert half is not None
        assert granted(half) > 0
    assert granted(first.receiver) < grown
