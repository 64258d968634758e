"""The records of runs: which sources run, and how they ended."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ackline.server.stores.entities import RunRecord
from ackline.server.stores.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ackline.server.stores.clock import ObservedClock
    from ackline.server.stores.records import Records

__all__ = ["RecordRuns"]

#: Sorts after every character of an id.
_LAST = "\U0010ffff"

_SELECT = """
    SELECT run_id, source, parameters, identity, key, generation, created, durable,
        outcome
    FROM runs
"""

_INSERT = """
    INSERT INTO runs (
        run_id, source, parameters, identity, key, generation, created, durable
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


class RecordRuns:
    """Runs in the database."""

    def __init__(self, records: Records, clock: ObservedClock) -> None:
        self._records = records
        self._clock = clock

    async def create(self, run: RunRecord) -> None:
        """Record a run before it starts.

        An ended run with the same key keeps its id and gives up the key.

        Raises:
            AlreadyExists: The key has an active run.
        """
        await self._records.run(partial(_create, run=run))

    async def run(self, run_id: str) -> RunRecord | None:
        """Return a run, active or ended, or None."""
        return await self._records.run(partial(_find, run_id=run_id))

    async def find(self, identity: str, source: str, key: str) -> RunRecord | None:
        """Return the run of this key, active or ended, or None."""
        return await self._records.run(
            partial(_find_by_key, named=(identity, source, key))
        )

    async def active(self) -> list[RunRecord]:
        """Return the runs that have no outcome, oldest first."""
        return await self._records.run(_active)

    async def finish(self, run_id: str, outcome: bytes) -> bytes:
        """Record an outcome unless there is one; return the one that stands.

        Raises:
            NotFound: There is no such run.
        """
        return await self._records.run(
            partial(_finish, run_id=run_id, outcome=outcome, now=self._clock())
        )

    async def runs(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[RunRecord]:
        """Return runs ordered by id, active and ended, from the one after `after`."""
        return await self._records.run(
            partial(_by_prefix, prefix=prefix, after=after, limit=limit)
        )

    async def expired(self, retention: float, limit: int = 1000) -> list[RunRecord]:
        """Return runs that ended more than `retention` seconds ago, oldest first."""
        return await self._records.run(
            partial(_expired, before=self._clock.before(retention), limit=limit)
        )

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Forget runs."""
        await self._records.run(partial(_forget, run_ids=run_ids))


def _create(connection: sqlite3.Connection, run: RunRecord) -> None:
    named = (run.identity, run.source, run.key)
    if run.key:
        connection.execute(
            "UPDATE runs SET key = '' WHERE identity = ? AND source = ? AND key = ?"
            " AND key <> '' AND outcome IS NOT NULL",
            named,
        )
        if _find_by_key(connection, named) is not None:
            raise AlreadyExists("run", run.key)
    connection.execute(
        _INSERT,
        (
            run.run_id,
            run.source,
            run.parameters,
            run.identity,
            run.key,
            f"{run.generation:x}",
            run.created,
            run.durable,
        ),
    )


def _find(connection: sqlite3.Connection, run_id: str) -> RunRecord | None:
    row = connection.execute(_SELECT + " WHERE run_id = ?", (run_id,)).fetchone()
    return _run(row) if row else None


def _find_by_key(
    connection: sqlite3.Connection, named: tuple[str, str, str]
) -> RunRecord | None:
    row = connection.execute(
        _SELECT + " WHERE identity = ? AND source = ? AND key = ? AND key <> ''", named
    ).fetchone()
    return _run(row) if row else None


def _active(connection: sqlite3.Connection) -> list[RunRecord]:
    rows = connection.execute(_SELECT + " WHERE outcome IS NULL ORDER BY created")
    return [_run(row) for row in rows]


def _finish(
    connection: sqlite3.Connection, run_id: str, outcome: bytes, now: float
) -> bytes:
    row = connection.execute(
        "UPDATE runs SET outcome = coalesce(outcome, ?), ended = coalesce(ended, ?)"
        " WHERE run_id = ? RETURNING outcome",
        (outcome, now, run_id),
    ).fetchone()
    if row is None:
        raise NotFound("run", run_id)
    return bytes(row[0])


def _by_prefix(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int
) -> list[RunRecord]:
    rows = connection.execute(
        _SELECT + " WHERE run_id > ? AND run_id >= ? AND run_id < ?"
        " ORDER BY run_id LIMIT ?",
        (after, prefix, prefix + _LAST, limit),
    )
    return [_run(row) for row in rows]


def _expired(
    connection: sqlite3.Connection, before: float, limit: int
) -> list[RunRecord]:
    rows = connection.execute(
        _SELECT + " WHERE outcome IS NOT NULL AND ended < ? ORDER BY ended LIMIT ?",
        (before, limit),
    )
    return [_run(row) for row in rows]


def _forget(connection: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    connection.executemany(
        "DELETE FROM runs WHERE run_id = ?", [(run_id,) for run_id in run_ids]
    )


def _run(row: Any) -> RunRecord:
    return RunRecord(
        run_id=row[0],
        source=row[1],
        parameters=row[2],
        identity=row[3],
        key=row[4],
        generation=int(row[5], 16),
        created=row[6],
        durable=bool(row[7]),
        outcome=row[8],
    )
