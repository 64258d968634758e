"""Deliveries: which committed object is still to be taken by which sink.

The records are the queue: a commit adds what its sinks have to take in the same
transaction, and a delivery is there until its sink has taken the object or the object
is deleted. Changes are not synced one by one: what a power cut undoes is called again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ackline.server.stores.entities import Delivery

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from ackline.server.stores.records import Records

__all__ = ["RecordDeliveries", "add_deliveries"]

_SELECT = "SELECT object_id, sink, attempts, error, next_try FROM deliveries"


class RecordDeliveries:
    """Deliveries in the database."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def due(self, sink: str, limit: int) -> list[Delivery]:
        """Return what a sink is to be called with next, by the time of that."""
        return await self._records.run(
            partial(_due, sink=sink, limit=limit), synced=False
        )

    async def of_object(self, object_id: str) -> list[Delivery]:
        """Return the deliveries of an object that are not done, by sink."""
        return await self._records.run(
            partial(_of_object, object_id=object_id), synced=False
        )

    async def counts(self) -> dict[str, int]:
        """Return how many objects wait for each sink that any waits for."""
        return await self._records.run(_counts, synced=False)

    async def begin(self, delivery: Delivery, next_try: float) -> None:
        """Count a call before it is made, and when to try again if it never returns.

        So a call that takes the process with it is counted too.
        """
        await self._records.run(
            partial(_begin, delivery=delivery, next_try=next_try), synced=False
        )

    async def fail(self, delivery: Delivery, error: str, next_try: float) -> None:
        """Record why a call failed, and when to try again."""
        await self._records.run(
            partial(_fail, delivery=delivery, error=error, next_try=next_try),
            synced=False,
        )

    async def finish(self, delivery: Delivery) -> None:
        """Record that the sink took the object."""
        await self._records.run(partial(_finish, delivery=delivery), synced=False)


def add_deliveries(
    connection: sqlite3.Connection, object_id: str, sinks: Iterable[str], now: float
) -> None:
    """Record that sinks have to take an object; part of the commit's transaction."""
    connection.executemany(
        "INSERT INTO deliveries (object_id, sink, next_try) VALUES (?, ?, ?)",
        [(object_id, sink, now) for sink in sinks],
    )


def _due(connection: sqlite3.Connection, sink: str, limit: int) -> list[Delivery]:
    rows = connection.execute(
        _SELECT + " WHERE sink = ? ORDER BY next_try LIMIT ?", (sink, limit)
    )
    return [_delivery(row) for row in rows]


def _of_object(connection: sqlite3.Connection, object_id: str) -> list[Delivery]:
    rows = connection.execute(
        _SELECT + " WHERE object_id = ? ORDER BY sink", (object_id,)
    )
    return [_delivery(row) for row in rows]


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(
        connection.execute("SELECT sink, count(*) FROM deliveries GROUP BY sink")
    )


def _begin(connection: sqlite3.Connection, delivery: Delivery, next_try: float) -> None:
    connection.execute(
        "UPDATE deliveries SET attempts = attempts + 1, next_try = ?"
        " WHERE object_id = ? AND sink = ?",
        (next_try, delivery.object_id, delivery.sink),
    )


def _fail(
    connection: sqlite3.Connection, delivery: Delivery, error: str, next_try: float
) -> None:
    connection.execute(
        "UPDATE deliveries SET error = ?, next_try = ?"
        " WHERE object_id = ? AND sink = ?",
        (error, next_try, delivery.object_id, delivery.sink),
    )


def _finish(connection: sqlite3.Connection, delivery: Delivery) -> None:
    connection.execute(
        "DELETE FROM deliveries WHERE object_id = ? AND sink = ?",
        (delivery.object_id, delivery.sink),
    )


def _delivery(row: Any) -> Delivery:
    return Delivery(
        object_id=row[0], sink=row[1], attempts=row[2], error=row[3], next_try=row[4]
    )
