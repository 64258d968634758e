"""Promises hold over crashes, and the simulator would notice if one did not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.records import Records
from tests.crash.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable

#: Some 50 crashes each.
SEEDS = range(24)

#: Runs after which a planted fault has to be found; most are in the first.
ENOUGH = 15


@pytest.mark.parametrize("seed", SEEDS)
async def test_everything_that_was_answered_survives_every_crash(seed: int) -> None:
    simulation = Simulation(seed)
    await simulation.run()
    assert simulation.checked > 10


async def test_a_seed_brings_the_same_again() -> None:
    one, two = Simulation(7), Simulation(7)
    await one.run()
    await two.run()
    assert [case.facts for case in one.cases] == [case.facts for case in two.cases]


async def noticed(deaf: Callable[[str, str], bool] | None = None) -> bool:
    for seed in range(ENOUGH):
        try:
            await Simulation(seed, deaf=deaf).run()
        except Exception:  # noqa: BLE001 - a violation, or what it leads to
            return True
    return False


@pytest.mark.parametrize(
    ("call", "names"),
    [
        pytest.param("fdatasync", r"objects/", id="the bytes of chunks"),
        pytest.param("sync_directory", r"data/objects$", id="the names of objects"),
        pytest.param("fdatasync", r"\.log$", id="events"),
        pytest.param("sync_directory", r"logs/\w+$", id="the names of segments"),
        pytest.param("sync_directory", r"data/logs$", id="the names of logs"),
        pytest.param("xSync", r"-wal$", id="the commit of records"),
        pytest.param("xSync", r"sqlite3$", id="the database at a checkpoint"),
        pytest.param("fdatasync", r"format", id="the format file"),
        pytest.param("sync_directory", r"data$", id="the names in the folder"),
        pytest.param("sync_directory", r"^\.$", id="the name of the folder"),
    ],
)
async def test_a_sync_that_is_left_out_is_noticed(call: str, names: str) -> None:
    def deaf(called: str, name: str) -> bool:
        return called == call and re.search(names, name) is not None

    assert await noticed(deaf)


async def test_records_that_were_only_in_the_cache_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Records, "_settle", lambda _self: None)
    assert await noticed()
