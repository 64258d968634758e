"""No statement of a running server reads a whole table: that grows with use."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

from ackline.client import connect
from ackline.server.cleanup import clean
from ackline.server.stores import storage
from ackline.server.stores.records import Records
from tests.server.test_hostile_peers import service_of
from tests.server.test_memory import program, use

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from ackline.server.stores.files import Files
    from tests.server.conftest import Start

FOLDERS = ("objects/", "uploads/", "logs/", "runs/", "sources/")
LONG = re.compile("SCAN (?!clock|logs$)").match
"""Whole tables, but for one that has one row, and the logs, which are few."""


class Planned(sqlite3.Connection):
    """Asks of each statement how it would be run."""

    plans: dict[str, set[str]]

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)\b", sql):
            found = super().execute(f"EXPLAIN QUERY PLAN {sql}", *arguments)
            self.plans.setdefault(sql, set()).update(row[3] for row in found)
        return super().execute(sql, *arguments)


async def test_no_statement_reads_a_whole_table(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: dict[str, set[str]] = {}
    monkeypatch.setattr(Planned, "plans", plans, raising=False)

    def planned(path: Path, files: Files, **_options: object) -> Records:
        return Records(path, files, factory=Planned)

    monkeypatch.setattr(storage, "Records", planned)
    async with start(program(), run_grace=0.0, run_retention=0.01) as serving:
        plans.clear()  # starting may take note of all there is
        service = service_of(serving)
        url = f"ackline://127.0.0.1:{serving.port}"
        await use(url, service)
        async with connect(url) as client:
            await client.upload(b"x", "keyed", key="k")
            for folder in FOLDERS:
                async for entry in client.list(folder):
                    await client.status(entry.resource)
            await client.delete("objects/keyed")
        await clean(service)
    assert len(plans) > 40
    assert not [
        (sql, each) for sql, plan in plans.items() for each in plan if LONG(each)
    ]
