"""The peers of the web do their work wherever they are installed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from bench import arrivals
from bench.arrivals import Arrivals, ticks
from bench.specs import Fanout, Fetch, Idle, Many, Mixed, Spec, Subscribe, Upload

from tests.bench.runs import run_once

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
SMALL: tuple[Spec, ...] = (
    Upload(size=3 * MIB, durability="synced", folder="disk"),
    Fetch(size=3 * MIB),
    Subscribe(events=3_010),
    Many(streams=6, seconds=0.3),
    Many(streams=6, connections=6, seconds=0.3, producers="each"),
    Fanout(subscribers=3, seconds=0.3),
    Mixed(size=8 * MIB),
    Mixed(size=8 * MIB, bulk="fetch"),
    Idle(connections=50, streams=50),
)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize(
    "name", ["websockets", "picows", "picows-packed", "sse", "grpc"]
)
def test_a_run_measures_both_sides(tmp_path: Path, name: str, spec: Spec) -> None:
    result = run_once(tmp_path, name, spec)
    if isinstance(spec, Many | Fanout | Mixed):
        assert result.latency is not None
        assert 0 <= result.latency.p50 <= result.latency.max < 1_000


async def test_ticks_come_when_they_are_due() -> None:
    came = [(number, due, time.monotonic()) async for number, due in ticks(100, 0.05)]
    assert [number for number, _, _ in came] == [0, 1, 2, 3, 4]
    assert all(now >= due for _, due, now in came)
    assert came[4][1] - came[0][1] == pytest.approx(0.04)


async def test_an_event_out_of_its_turn_is_a_wrong_result() -> None:
    arrived = Arrivals(2, 2)
    arrived.take(0, 0, 0.0)
    arrived.take(1, 1, 0.0)
    await arrived.wait(60.0)
    with pytest.raises(AssertionError, match="stream 1: 1 instead of 0"):
        arrived.measured()


async def test_what_a_saturated_peer_did_not_deliver_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals, "GRACE", 0.01)
    arrived = Arrivals(2, 2)
    arrived.take(0, 0, time.monotonic())
    await arrived.wait(0.01)
    measured = arrived.measured()
    assert measured.units == 1
    assert measured.extra == {"undelivered": 3}
