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
    durable=False,
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


async def test_runs_are_listed_by_id_active_and_ended(tmp_path: Path) -> None:
    async with Storage.open(tmp_path) as storage:
        for run_id in ("b1", "a2", "a1"):
            await storage.runs.create(
                replace(RUN, run_id=run_id, key="", durable=run_id == "a1")
            )
        await storage.runs.finish("a1", b"completed")
        found = await storage.runs.runs()
        assert [run.run_id for run in found] == ["a1", "a2", "b1"]
        assert [run.durable for run in found] == [True, False, False]
        assert found[0].outcome == b"completed"
        assert [run.run_id for run in await storage.runs.runs("a")] == ["a1", "a2"]
        later = await storage.runs.runs(after="a1", limit=1)
        assert [run.run_id for run in later] == ["a2"]


async def test_outcomes_are_kept_for_the_retention(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path, clock=clock) as storage:
        for run_id in ("r1", "r2", "r3"):
            await storage.runs.create(replace(RUN, run_id=run_id, key=""))
        await storage.runs.finish("r2", b"completed")
        await storage.runs.finish("r1", b"completed")
        clock.now += 10
        assert await storage.runs.expired(10) == []
        clock.now += 1
        expired = [run.run_id for run in await storage.runs.expired(10)]
        assert sorted(expired) == ["r1", "r2"]
        assert len(await storage.runs.expired(10, limit=1)) == 1
        await storage.runs.forget(expired)
        assert await storage.runs.run("r1") is None
        assert await storage.runs.run("r3") is not None
