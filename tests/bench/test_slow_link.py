"""The slow link delays, limits, queues and drops as a router does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench import slow_link
from bench.runner import Runner, contenders
from bench.slow_link import MTU, QUEUE, SLOW_DELAY, SLOW_RATE, Lane
from bench.specs import Mixed

if TYPE_CHECKING:
    from pathlib import Path


def test_packets_arrive_in_order_after_their_time_to_send_and_the_delay() -> None:
    lane = Lane(SLOW_DELAY)
    packets = [bytes([number]) * MTU for number in range(3)]
    for packet in packets:
        lane.put(packet, 5.0)
    assert lane.due() == pytest.approx(5.0 + MTU / SLOW_RATE + SLOW_DELAY)
    assert list(lane.take(lane.due() - 1e-6)) == []
    assert list(lane.take(lane.due())) == packets[:1]
    assert list(lane.take(5.0 + 3.01 * MTU / SLOW_RATE + SLOW_DELAY)) == packets[1:]
    assert lane.due() == float("inf")


def test_what_does_not_fit_the_queue_is_dropped() -> None:
    lane = Lane(0.0)
    for _ in range(2 * QUEUE // MTU):
        lane.put(bytes(MTU), 0.0)
    taken = sum(map(len, lane.take(1.0)))
    assert QUEUE <= taken <= QUEUE + MTU
    lane.put(b"later", 1.0)
    assert list(lane.take(2.0)) == [b"later"]


@pytest.mark.parametrize("namespaces", [True, False])
def test_a_transfer_over_it_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, namespaces: bool
) -> None:
    def refuse() -> None:
        raise PermissionError

    if not namespaces:
        monkeypatch.setattr(slow_link, "_namespaces", refuse)
    runner = Runner(tmp_path)
    peer = contenders(["ackline"])[0][0]
    try:
        result = runner.run(peer, Mixed(bulk="fetch", size=2 << 20, link="slow"), 0)
    finally:
        runner.close()
    assert result.seconds >= (2 << 20) / SLOW_RATE
    assert 0 < result.extra["link_use"] < 1.1
    assert result.latency is not None
    assert result.latency.p50 >= SLOW_DELAY * 1e3 * 0.9
