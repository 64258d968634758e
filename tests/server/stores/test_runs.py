from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.entities import RunRecord
from ackline.server.stores.errors import AlreadyExists, NotFound
from ackline.server.stores.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.stores.support import Clock

RUN = RunRecord(
    run_id="r1",
    source="chat",
    parameters=b"parameters",
    identity="alice",
    key="key",
    generation=2**64 - 1,
    created=100.0,
    survives=False,
)


async def test_run_is_found_while_active_and_ended(tmp_path: Path) -> None:
    async with Storage.open(tmp_path) as storage:
        runs = storage.runs
        await runs.create(RUN)
        assert await runs.run("r1") == RUN
        assert await runs.find("alice", "chat", "key") == RUN
        assert await runs.find("bob", "chat", "key") is None
        assert await runs.active() == [RUN]
        with pytest.raises(AlreadyExists):
            await runs.create(replace(RUN, run_id="r2"))
        assert await runs.finish("r1", b"completed") == b"completed"
        assert await runs.finish("r1", b"cancelled") == b"completed"
        assert await runs.find("alice", "chat", "key") == replace(
            RUN, outcome=b"completed"
        )
        assert await runs.active() == []
        with pytest.raises(NotFound):
            await runs.finish("r2", b"completed")


async def test_ended_run_gives_its_key_up(tmp_path: Path) -> None:
    async with Storage.open(tmp_path) as storage:
        runs = storage.runs
        await runs.create(RUN)
        await runs.finish("r1", b"failed")
        await runs.create(replace(RUN, run_id="r2"))
        found = await runs.find("alice", "chat", "key")
        assert found is not None
        assert found.run_id == "r2"
        old = await runs.run("r1")
        assert old is not None
        assert old.outcome == b"failed"


async def test_runs_without_a_key_do_not_meet(tmp_path: Path) -> None:
    async with Storage.open(tmp_path) as storage:
        for run_id in ("r1", "r2"):
            await storage.runs.create(replace(RUN, run_id=run_id, key=""))
        assert await storage.runs.find("alice", "chat", "") is None
        assert len(await storage.runs.active()) == 2


async def test_runs_that_died_with_their_process_are_failed_at_the_start(
    tmp_path: Path,
) -> None:
    async with Storage.open(tmp_path) as storage:
        await storage.runs.create(RUN)
        await storage.runs.create(
            replace(RUN, run_id="r2", key="", survives=True, created=50.0)
        )
        await storage.runs.create(replace(RUN, run_id="r3", key=""))
        await storage.runs.finish("r3", b"completed")
    async with Storage.open(tmp_path) as storage:
        lost = await storage.runs.fail_lost(b"producer_lost")
        assert lost == [replace(RUN, outcome=b"producer_lost")]
        assert [run.run_id for run in await storage.runs.active()] == ["r2"]
        assert await storage.runs.fail_lost(b"producer_lost") == []


async def test_outcomes_are_kept_for_the_retention(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path, clock=clock) as storage:
        await storage.runs.create(RUN)
        await storage.runs.create(replace(RUN, run_id="r2", key=""))
        await storage.runs.finish("r1", b"completed")
        clock.now += 10
        assert await storage.runs.expire(10) == 0
        clock.now += 1
        assert await storage.runs.expire(10) == 1
        assert await storage.runs.run("r1") is None
        assert await storage.runs.run("r2") is not None
