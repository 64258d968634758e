"""Streams of an identity that may move so much a second (SPEC.md §12)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest

from ackline.proto.feed import EventBuffer
from ackline.proto.messages import End, Intent, OutcomeKind, Scope
from ackline.proto.notices import PongReceived
from ackline.proto.token_bucket import TokenBucket
from tests.proto.joined import MemoryServer, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.stream import Stream

RATE = 100_000
BURST = 1.0
FIRST_WINDOW = 262_144
HEARTBEAT = 5.0


class Rated:
    """Connections of one identity, with a clock that goes on when nothing moves."""

    def __init__(
        self, connections: int = 1, *, events: float = inf, size: float = inf
    ) -> None:
        self.server = MemoryServer()
        self.bucket = TokenBucket(self.server.stats, self._wait)
        self.bucket.limit(events, size)
        self.pairs = [Pair(self.server) for _ in range(connections)]
        self._due = False
        self.start = self.pairs[0].now
        for pair in self.pairs:
            pair.s.bucket = self.bucket

    def _wait(self, _bucket: TokenBucket) -> None:
        self._due = True

    @property
    def seconds(self) -> float:
        return self.pairs[0].now - self.start

    def rest(self) -> None:
        """Go on until nothing moves, in no time."""
        moved = True
        while moved:
            moved = False
            for pair in self.pairs:
                moved |= pair.step()

    def until(
        self, done: Callable[[], bool], look: Callable[[], None] = lambda: None
    ) -> None:
        """Let time pass until something is true, looking at every turn."""
        for _ in range(20_000):
            self.rest()
            look()
            if done():
                return
            now = self.pairs[0].now
            now += min(max(self.bucket.owed(now), 0.01), HEARTBEAT)
            for pair in self.pairs:
                pair.now = now
                pair.c.handle_timeout(now)
                pair.s.handle_timeout(now)
            if self._due:  # perhaps too early, as after more was spent
                self._due = False
                self.bucket.serve(now)
        message = "it does not happen"
        raise AssertionError(message)

    def completed(self, pair: Pair, stream: Stream) -> Callable[[], bool]:
        def done() -> bool:
            outcome = pair.client.outcomes.get(stream.id)
            assert outcome is None or outcome.outcome is OutcomeKind.COMPLETED
            return outcome is not None

        return done


def feed(count: int, body: bytes) -> EventBuffer:
    buffer = EventBuffer(generation=5, max_events=10**6, max_bytes=10**8, keep=True)
    for _ in range(count):
        buffer.append(body)
    buffer.finish(End(Intent.COMPLETED, 0, "", size=count))
    return buffer


def test_an_upload_keeps_to_the_rate() -> None:
    rated = Rated(size=RATE)
    pair = rated.pairs[0]
    data = bytes(1_000_000)
    stream = pair.client.upload(data, chunk_size=16_384, key="k")

    def look() -> None:
        upload = rated.server.uploads.get("k")
        arrived = 0 if upload is None else len(upload.data())
        assert arrived <= RATE * (BURST + rated.seconds) + 16_384

    rated.until(rated.completed(pair, stream), look)
    assert rated.server.uploads["k"].data() == data
    assert 8.7 < rated.seconds < 9.5
    assert rated.server.stats.held_seconds > 8


def test_a_fetch_keeps_to_the_rate() -> None:
    rated = Rated(size=RATE)
    pair = rated.pairs[0]
    rated.server.objects["objects/x"] = data = bytes(1_000_000)
    stream = pair.client.fetch("objects/x", chunk_size=200_000)

    def look() -> None:
        assert pair.sent_to_client <= RATE * (BURST + rated.seconds) + 20_000

    rated.until(rated.completed(pair, stream), look)
    fetched = pair.client.fetched[stream.id]
    assert b"".join(fetched[index] for index in sorted(fetched)) == data
    assert 8.7 < rated.seconds < 9.5


@pytest.mark.parametrize(
    ("events", "size", "body"), [(100, inf, b"token"), (inf, RATE, bytes(996))]
)
def test_a_publisher_keeps_to_the_rate(events: float, size: float, body: bytes) -> None:
    rated = Rated(events=events, size=size)
    pair = rated.pairs[0]
    count = 1000
    stream, buffer = pair.client.publish("logs/x", key="p")
    for _ in range(count):
        buffer.append(body)
    buffer.finish(End(Intent.COMPLETED, 0, "", size=count))
    window = 100 if events < inf else FIRST_WINDOW // len(body)

    def look() -> None:
        came = len(rated.server.published.get("logs/x", ()))
        assert came <= 100 * (BURST + rated.seconds) + window

    rated.until(rated.completed(pair, stream), look)
    assert len(rated.server.published["logs/x"]) == count
    # What it may send beyond the rate is its last window, and only once.
    assert 9 - 1.1 * window / 100 < rated.seconds < 10


@pytest.mark.parametrize(
    ("events", "size", "body"), [(100, inf, b"token"), (inf, RATE, bytes(996))]
)
def test_a_subscriber_keeps_to_the_rate(
    events: float, size: float, body: bytes
) -> None:
    rated = Rated(events=events, size=size)
    pair = rated.pairs[0]
    rated.server.logs["sources/x"] = feed(1000, body)
    stream = pair.client.subscribe("sources/x")

    def look() -> None:
        came = len(pair.client.events[stream.id])
        assert came <= 100 * (BURST + rated.seconds) + 20

    rated.until(rated.completed(pair, stream), look)
    assert len(pair.client.events[stream.id]) == 1000
    assert 8.7 < rated.seconds < 9.5


@pytest.mark.parametrize("use", ["upload", "fetch", "publish", "subscribe"])
def test_connections_of_one_identity_share_the_rate_evenly(use: str) -> None:
    rated = Rated(3, size=RATE)
    *sharing, other = rated.pairs
    other.s.bucket = None
    streams: list[Stream] = []
    for number, pair in enumerate(rated.pairs):
        name = f"x{number}"
        match use:
            case "upload":
                data = bytes(600_000)
                stream = pair.client.upload(data, chunk_size=16_384, key=name)
            case "fetch":
                rated.server.objects[f"objects/{name}"] = bytes(600_000)
                stream = pair.client.fetch(f"objects/{name}", chunk_size=16_384)
            case "publish":
                stream, buffer = pair.client.publish(f"logs/{name}", key=name)
                for _ in range(60):
                    buffer.append(bytes(10_000))
                buffer.finish(End(Intent.COMPLETED, 0, "", size=60))
            case _:
                rated.server.logs[f"sources/{name}"] = feed(60, bytes(10_000))
                stream = pair.client.subscribe(f"sources/{name}")
        streams.append(stream)
    rated.rest()
    assert rated.completed(other, streams[2])()  # at once: it has no limit
    assert not any(pair.client.outcomes for pair in sharing)
    ends: list[float] = []

    def look() -> None:
        ended = sum(bool(pair.client.outcomes) for pair in sharing)
        ends.extend([rated.seconds] * (ended - len(ends)))

    rated.until(lambda: len(ends) == 2, look)
    # Windows of publishers are large, and the last one is used up at the end.
    early = 2 * FIRST_WINDOW / RATE if use == "publish" else 0.3
    assert 11 - early < ends[1] < 11.5
    assert ends[1] - ends[0] < max(early, 1)


def test_what_is_larger_than_the_burst_moves_and_is_waited_for_afterwards() -> None:
    rated = Rated(events=0.5, size=1000)
    pair = rated.pairs[0]
    stream = pair.client.upload(bytes(100_000), chunk_size=50_000, key="k")
    log, buffer = pair.client.publish("logs/x", key="p")
    buffer.append(bytes(10_000))
    buffer.finish(End(Intent.COMPLETED, 0, "", size=1))
    ended = rated.completed(pair, stream), rated.completed(pair, log)
    rated.until(lambda: all(done() for done in ended))
    assert 45 < rated.seconds < 120


def test_pings_cancels_and_control_frames_go_on_in_deep_debt() -> None:
    rated = Rated(size=RATE)
    pair = rated.pairs[0]
    rated.server.logs["sources/x"] = feed(1000, bytes(1000))
    rated.server.objects["objects/x"] = bytes(10**6)
    streams = [
        pair.client.upload(bytes(10**6), key="k"),
        pair.client.publish("logs/x", key="p")[0],
        pair.client.subscribe("sources/x"),
        pair.client.fetch("objects/x"),
    ]
    rated.rest()
    rated.bucket.spend(0, 1000 * RATE, pair.now)
    number = pair.c.ping()
    for stream in streams:
        pair.c.cancel(stream, scope=Scope.STREAM)
    rated.rest()
    assert PongReceived(number) in pair.client.notices
    for stream in streams:
        assert pair.client.outcomes[stream.id].outcome is OutcomeKind.CANCELLED
    assert rated.bucket.owed(pair.now) > 900
    assert rated.seconds == 0


def test_reconnecting_pays_no_debt_and_loses_nothing() -> None:
    rated = Rated(size=RATE)
    pair = rated.pairs[0]
    data = bytes(1_000_000)
    stream = pair.client.upload(data, chunk_size=16_384, key="k")
    rated.server.logs["sources/x"] = feed(100, bytes(10_000))
    reader = pair.client.subscribe("sources/x")
    ended = rated.completed(pair, stream), rated.completed(pair, reader)
    reconnected = 0

    def look() -> None:
        nonlocal reconnected
        if rated.seconds > 2 * reconnected:
            reconnected += 1
            pair.reconnect()
            pair.s.bucket = rated.bucket

    rated.until(lambda: all(done() for done in ended), look)
    assert reconnected > 5
    assert rated.server.uploads["k"].data() == data
    assert pair.client.events[reader.id] == [bytes(10_000)] * 100
    assert 18.5 < rated.seconds < 23


def test_windows_that_were_not_used_are_given_back() -> None:
    rated = Rated(size=1000)
    pair = rated.pairs[0]
    pair.client.hold_loads = True
    stream = pair.client.upload(bytes(10**6), chunk_size=10**6, key="k")
    rated.rest()
    assert rated.bucket.owed(pair.now) > 900
    pair.c.cancel(stream, scope=Scope.STREAM)
    rated.rest()
    assert rated.bucket.owed(pair.now) == 0


def test_a_connection_that_is_gone_waits_for_nothing() -> None:
    rated = Rated(size=RATE)
    pair = rated.pairs[0]
    rated.server.objects["objects/x"] = bytes(10**6)
    pair.client.fetch("objects/x")
    pair.client.upload(bytes(10**6), key="k")
    rated.rest()
    assert rated.bucket.waiting == 2
    assert pair.s.held_back
    pair.drop()
    assert rated.bucket.waiting == 0
