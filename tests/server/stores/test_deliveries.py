from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.proto.values import Existing
from ackline.server.stores.storage import Storage
from tests.server.stores.support import parameters, put_all
from tests.server.stores.test_chunks import OPTIONS, outcome

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.stores.entities import ObjectRecord
    from tests.server.stores.support import Clock


async def commit(storage: Storage, *sinks: str, name: str = "a") -> ObjectRecord:
    upload = await storage.chunks.create(parameters(name, existing=Existing.REPLACE))
    await put_all(upload, b"data")
    return await upload.commit(4, epoch=1, outcome=outcome, sinks=sinks)


async def test_a_delivery_is_there_until_it_is_finished_across_a_restart(
    tmp_path: Path, clock: Clock
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        record = await commit(storage, "index", "thumbnails")
        (due,) = await storage.deliveries.due("index", 10)
        assert (due.object_id, due.attempts, due.error) == (record.object_id, 0, "")
        assert due.next_try == clock.now
        await storage.deliveries.begin(due, clock.now + 5)
        await storage.deliveries.fail(due, "no room", clock.now + 9)
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        known = await storage.deliveries.of_object(record.object_id)
        assert [(each.sink, each.attempts, each.error) for each in known] == [
            ("index", 1, "no room"),
            ("thumbnails", 0, ""),
        ]
        assert known[0].next_try == clock.now + 9
        assert await storage.deliveries.counts() == {"index": 1, "thumbnails": 1}
        found = await storage.chunks.object("a")
        assert found is not None
        assert found.waiting_sinks == 2
        for each in known:
            await storage.deliveries.finish(each)
        assert await storage.deliveries.counts() == {}


async def test_what_is_due_first_comes_first(tmp_path: Path, clock: Clock) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        for name in ("a", "b", "c"):
            await commit(storage, "index", name=name)
            clock.now += 1
        first, second, _third = await storage.deliveries.due("index", 10)
        await storage.deliveries.begin(first, clock.now + 60)
        assert (await storage.deliveries.due("index", 1))[0] == second
        assert await storage.deliveries.due("other", 10) == []


@pytest.mark.parametrize("how", ["delete", "replace"])
async def test_an_object_that_goes_takes_its_deliveries_along(
    tmp_path: Path, clock: Clock, how: str
) -> None:
    async with Storage.open(tmp_path / "data", OPTIONS, clock=clock) as storage:
        await commit(storage, "index")
        (due,) = await storage.deliveries.due("index", 10)
        if how == "delete":
            await storage.chunks.delete("a")
        else:
            await commit(storage)
        assert await storage.deliveries.counts() == {}
        await storage.deliveries.begin(due, clock.now)
        await storage.deliveries.fail(due, "too late", clock.now)
        await storage.deliveries.finish(due)
        assert await storage.deliveries.counts() == {}
