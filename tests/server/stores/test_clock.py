"""Nothing gets old by a jump of the clock, or while no server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.server.stores.clock import _MAX_JUMPS, _TOLERANCE
from ackline.server.stores.entities import RunRecord
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import Clock, Publisher, parameters

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = StorageOptions(reserve=0, segment_size=2000)
DAY = 86_400.0
YEAR = 365 * DAY


class Copy(Clock):
    """The clock of the next process: it has seen no jump itself."""

    def __init__(self, other: Clock) -> None:
        super().__init__(other.now)
        self.jumped = other.jumped
        self._seen = other(), other.now


RUN = RunRecord(
    run_id="r",
    source="s",
    parameters=b"",
    identity="alice",
    key="",
    generation=1,
    created=0,
    durable=True,
)


async def expire(storage: Storage) -> dict[str, bool]:
    """Delete what is more than a day old; return what is still there."""
    await storage.keep_time()
    ended = await storage.chunks.expire(idle=DAY, retention=DAY, outcome=b"expired")
    await storage.logs.trim()
    log = await storage.logs.open("events")
    runs = await storage.runs.expired(DAY)
    return {
        "upload": not ended,
        "outcome": await storage.chunks.find("alice", "video.mp4", "old") is not None,
        "events": log.first_id == 0,
        "run": not runs,
    }


async def fill(storage: Storage) -> None:
    upload = await storage.chunks.create(parameters(key="old"))
    await upload.abort(b"outcome")
    await storage.chunks.create(parameters(key="open"))
    await storage.logs.configure("events", retention_seconds=DAY, retention_bytes=None)
    log = await storage.logs.open("events")
    publisher = Publisher(log)
    for _ in range(20):
        log.append(publisher.batch(bytes(200)))
    await log.flush()
    await storage.runs.create(RUN)
    await storage.runs.finish("r", b"outcome")


@pytest.mark.parametrize("jump", [YEAR, 2 * DAY, 60.0, -60.0, -YEAR])
async def test_a_jump_makes_nothing_older(
    tmp_path: Path, clock: Clock, jump: float
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        await fill(storage)
        clock.jumped += jump
        assert all((await expire(storage)).values())
        clock.now += DAY - 100
        assert all((await expire(storage)).values())
        if jump > 0:
            clock.now += 200
            assert not any((await expire(storage)).values())


async def test_what_is_noted_after_a_jump_gets_old_as_usual(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        clock.now += 50
        clock.jumped += YEAR
        await storage.keep_time()
        await fill(storage)
        clock.now += DAY - 1
        assert all((await expire(storage)).values())
        clock.now += 2
        assert not any((await expire(storage)).values())


@pytest.mark.parametrize("jump", [0.0, YEAR, -60.0])
async def test_time_in_which_no_server_ran_does_not_count(
    tmp_path: Path, clock: Clock, jump: float
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        await fill(storage)
        clock.now += DAY / 2
        assert all((await expire(storage)).values())
    clock.now += 30 * DAY
    clock.jumped += jump
    again = Copy(clock)
    async with Storage.open(tmp_path / "data", OPTIONS, clock=again) as storage:
        assert all((await expire(storage)).values())
        again.now += DAY / 2 - 100
        assert all((await expire(storage)).values())
        again.now += 200
        assert not any((await expire(storage)).values())


async def test_a_jump_is_remembered_by_the_next_process(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        await fill(storage)
        clock.jumped += YEAR
        await storage.keep_time()
    async with Storage.open(tmp_path / "data", OPTIONS, clock=Copy(clock)) as storage:
        assert all((await expire(storage)).values())


def test_a_jump_and_back_is_none() -> None:
    clock = Clock()
    clock.jumped += YEAR
    clock.look()
    clock.now += 100
    clock.jumped -= YEAR
    assert clock.before(50) == clock() - 50
    assert clock.before(5000) == clock() - 5000


def test_setting_a_clock_gently_is_no_jump() -> None:
    clock = Clock()
    for _ in range(100):
        clock.now += 60
        clock.jumped += _TOLERANCE / 2
        clock.look()
    assert clock.before(10) == clock() - 10


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, DAY),  # time that passes
            st.sampled_from([0, 0, 10, 3600, YEAR, -10, -3600, -YEAR]),  # a jump
        ),
        max_size=_MAX_JUMPS + 20,
    ),
    keep=st.floats(1, 3 * DAY),
)
def test_nothing_is_too_old_before_its_time(
    steps: list[tuple[float, float]], keep: float
) -> None:
    clock = Clock()
    noted: list[tuple[float, float]] = []  # unix time and real time of things
    for passes, jump in steps:
        noted.append((clock(), clock.now))
        clock.now += passes
        noted.append((clock(), clock.now))
        clock.look()
        clock.jumped += jump
        clock.look()
        before = clock.before(keep)
        for unix, real in noted:
            if unix < before - 1e-3:
                # Less than the tolerance, for each of the jumps that may be as small.
                assert clock.now - real >= keep - 1e-3


def test_jumps_are_bounded() -> None:
    clock = Clock()
    for _ in range(3 * _MAX_JUMPS):
        clock.now += 60
        clock.jumped += 60
        clock.look()
    assert len(clock._jumps) == _MAX_JUMPS
    assert clock.before(60 * 10 + 1) == pytest.approx(
        clock() - 60 * 10 - 1 - 600, abs=61
    )
