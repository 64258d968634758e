"""Histories: what happened to uploads and durable runs, over restarts.

One row for each, written whole, and not synced: what a power cut takes of it is told
nobody again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from ackline.server.stores.records import Records

__all__ = ["RecordHistories"]


class RecordHistories:
    """Histories in the database."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def load(self, resource: str) -> list[str]:
        """Return the entries of a resource, the oldest first."""
        return await self._records.run(partial(_load, resource=resource), synced=False)

    async def save(self, histories: Mapping[str, list[str]], now: float) -> None:
        """Replace the entries of some resources; `now` is in unix seconds."""
        rows = [
            (resource, msgspec.json.encode(entries), now)
            for resource, entries in histories.items()
        ]
        await self._records.run(partial(_save, rows=rows), synced=False)

    async def expire(self, before: float) -> None:
        """Delete what nothing was added to since then, in unix seconds."""
        await self._records.run(partial(_expire, before=before), synced=False)


def _load(connection: sqlite3.Connection, *, resource: str) -> list[str]:
    row = connection.execute(
        "SELECT entries FROM histories WHERE resource = ?", (resource,)
    ).fetchone()
    return [] if row is None else msgspec.json.decode(row[0], type=list[str])


def _save(
    connection: sqlite3.Connection, *, rows: list[tuple[str, bytes, float]]
) -> None:
    connection.executemany(
        "INSERT INTO histories (resource, entries, touched) VALUES (?, ?, ?)"
        " ON CONFLICT (resource) DO UPDATE SET entries = excluded.entries,"
        " touched = excluded.touched",
        rows,
    )


def _expire(connection: sqlite3.Connection, *, before: float) -> None:
    connection.execute("DELETE FROM histories WHERE touched < ?", (before,))
