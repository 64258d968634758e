"""Streams that share a link of limited speed, on a virtual clock (SPEC.md §21)."""

from __future__ import annotations

import random

import pytest

from ackline.proto.heartbeat import MAX_FRAGMENT, SHARED_FRAGMENT
from ackline.proto.messages import OutcomeKind
from tests.proto.joined import Pair

TICK = 0.001


class SlowLink:
    """Moves bytes from the client to the server at a fixed rate."""

    def __init__(self, pair: Pair, rate: float) -> None:
        self.pair = pair
        self.rate = rate
        self.blocked = False

    @property
    def full(self) -> bool:
        """Whether the socket takes no more: one fragment, as TCP_NOTSENT_LOWAT says."""
        return len(self.pair.to_server) >= self.pair.c.rate.fragment

    def tick(self) -> None:
        """Let a millisecond pass."""
        pair = self.pair
        pair.now += TICK
        if self.blocked and not self.full:
            self.blocked = False
            pair.c.output_taken(pair.now, pair.c.rate.fragment)
        while not self.blocked and pair._write(pair.c, pair.to_server):
            if self.full:
                self.blocked = True
                pair.c.output_blocked(pair.now)
        pair.piece = int(self.rate * TICK)
        pair._deliver(pair.to_server, pair.s)
        pair.piece = 2**20
        pair._write(pair.s, pair.to_client)
        while pair._deliver(pair.to_client, pair.c):
            pass
        pair.c.handle_timeout(pair.now)
        pair.s.handle_timeout(pair.now)


@pytest.mark.parametrize("rate", [6e6, 100e6])
def test_tokens_do_not_notice_an_upload_on_the_same_connection(rate: float) -> None:
    """100 events/s beside a file, in the same direction: p99 under 20 ms."""
    pair = Pair()
    pair.run()
    data = random.Random(1).randbytes(2**20) * int(rate * 1.1 / 2**20)
    upload = pair.client.upload(data, chunk_size=2**22)
    _tokens, buffer = pair.client.publish("logs/tokens", key="p")
    link = SlowLink(pair, rate)
    sent: list[float] = []
    latencies: list[float] = []
    for tick in range(1000):
        if tick % 10 == 0:
            buffer.append(b"x" * 64)
            sent.append(pair.now)
        link.tick()
        arrived = len(pair.server.published["logs/tokens"]) if tick > 5 else 0
        while len(latencies) < arrived:
            latencies.append(pair.now - sent[len(latencies)])
    latencies.sort()
    assert len(latencies) >= 97
    assert latencies[int(len(latencies) * 0.99)] < 0.020
    moved = pair.sent_to_server
    assert moved > 0.9 * rate  # and the link is full
    while upload.id not in pair.client.outcomes:
        link.tick()
    assert pair.client.outcomes[upload.id].outcome is OutcomeKind.COMPLETED


def test_uploads_of_one_priority_share_the_link_evenly() -> None:
    pair = Pair()
    pair.run()
    data = random.Random(1).randbytes(2**20) * 8
    streams = [pair.client.upload(data, chunk_size=2**20) for _ in range(4)]
    link = SlowLink(pair, 20e6)
    for _ in range(800):
        link.tick()
    stored = [len(pair.server.uploads[f"none-{s.id}"].chunks) for s in streams]
    assert sum(stored) >= 10
    assert max(stored) - min(stored) <= 1


def test_both_sides_write_smaller_fragments_once_an_event_went_over_the_link() -> None:
    pair = Pair()
    pair.run()
    _tokens, buffer = pair.client.publish("logs/tokens", key="p")
    for core in (pair.c, pair.s):
        core.rate.fragment = MAX_FRAGMENT
    pair.run()
    assert pair.c.rate.fragment == pair.s.rate.fragment == MAX_FRAGMENT
    buffer.append(b"x")
    pair.run()
    assert pair.c.rate.fragment == pair.s.rate.fragment == SHARED_FRAGMENT
