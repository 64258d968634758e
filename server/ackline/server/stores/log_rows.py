"""The records of logs: what runs in the database thread.

Every function takes the connection first and is meant for `Records.run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ackline.server.stores.entities import LogRecord
from ackline.server.stores.errors import NotFound, Unsupported

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

__all__ = [
    "MAX_KINDS",
    "add_kinds",
    "add_log",
    "configure_log",
    "known_logs",
    "log_by_name",
    "logs_by_prefix",
    "note_synced",
    "remove_log",
    "retained_logs",
    "seal_log",
]

#: Kinds of one log: the numbers that are left for names (SPEC.md §11).
MAX_KINDS = 239

#: The least that a client's name begins with: those of the server's own logs begin with
#: a space, which a NAME of SPEC.md §1 cannot.
_FIRST = "!"

#: Sorts after every character that a name may have.
_LAST = "\U0010ffff"

_SELECT = """
    SELECT log_id, name, kinds, sealed, retention_seconds, retention_bytes, created,
        salt, synced_to
    FROM logs
"""


def add_log(connection: sqlite3.Connection, record: LogRecord, salt: int) -> None:
    """Record a new log, whose name must be free."""
    connection.execute(
        "INSERT INTO logs (log_id, name, salt, kinds, created)"
        " VALUES (?, ?, ?, '[]', ?)",
        (record.log_id, record.name, salt, record.created),
    )


def log_by_name(
    connection: sqlite3.Connection, name: str
) -> tuple[LogRecord, int, int] | None:
    """Return a log, its salt and the id before which it is known to be synced."""
    row = connection.execute(_SELECT + " WHERE name = ?", (name,)).fetchone()
    return (_log(row), row[7], row[8]) if row else None


def logs_by_prefix(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int
) -> list[LogRecord]:
    """Return logs by name, from the one after `after`."""
    rows = connection.execute(
        _SELECT + " WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?",
        (after, max(prefix, _FIRST), prefix + _LAST, limit),
    )
    return [_log(row) for row in rows]


def retained_logs(connection: sqlite3.Connection) -> list[str]:
    """Return the names of logs whose events may go some day."""
    rows = connection.execute(
        "SELECT name FROM logs"
        " WHERE retention_seconds IS NOT NULL OR retention_bytes IS NOT NULL"
    )
    return [row[0] for row in rows]


def known_logs(connection: sqlite3.Connection) -> set[str]:
    """Return the ids of all logs."""
    return {row[0] for row in connection.execute("SELECT log_id FROM logs")}


def add_kinds(
    connection: sqlite3.Connection, log_id: str, names: Sequence[str]
) -> tuple[str, ...]:
    """Add those kinds that a log does not have, and return all it has.

    Raises:
        NotFound: There is no such log.
        Unsupported: There would be too many.
    """
    row = connection.execute(
        "SELECT kinds FROM logs WHERE log_id = ?", (log_id,)
    ).fetchone()
    if row is None:
        raise NotFound("log", log_id)
    # A dict is an ordered set.
    kinds = tuple(dict.fromkeys((*msgspec.json.decode(row[0], type=list[str]), *names)))
    if len(kinds) > MAX_KINDS:
        raise Unsupported(f"a log with {len(kinds)} kinds", f"use {MAX_KINDS} at most")
    connection.execute(
        "UPDATE logs SET kinds = ? WHERE log_id = ?",
        (msgspec.json.encode(kinds).decode(), log_id),
    )
    return kinds


def seal_log(connection: sqlite3.Connection, log_id: str, outcome: bytes) -> bytes:
    """Record that a log takes no more, unless it is; return the outcome that stands.

    Raises:
        NotFound: There is no such log.
    """
    row = connection.execute(
        "UPDATE logs SET sealed = coalesce(sealed, ?) WHERE log_id = ?"
        " RETURNING sealed",
        (outcome, log_id),
    ).fetchone()
    if row is None:
        raise NotFound("log", log_id)
    return bytes(row[0])


def configure_log(
    connection: sqlite3.Connection,
    log_id: str,
    retention_seconds: float | None,
    retention_bytes: int | None,
) -> None:
    """Record how long events are kept."""
    connection.execute(
        "UPDATE logs SET retention_seconds = ?, retention_bytes = ? WHERE log_id = ?",
        (retention_seconds, retention_bytes, log_id),
    )


def note_synced(
    connection: sqlite3.Connection, ends: Sequence[tuple[int, str]]
) -> None:
    """Record that everything before an id is synced, for (id, log id) pairs."""
    connection.executemany(
        "UPDATE logs SET synced_to = max(synced_to, ?) WHERE log_id = ?", ends
    )


def remove_log(connection: sqlite3.Connection, log_id: str) -> None:
    """Remove the record of a log."""
    connection.execute("DELETE FROM logs WHERE log_id = ?", (log_id,))


def _log(row: Any) -> LogRecord:
    return LogRecord(
        log_id=row[0],
        name=row[1],
        kinds=tuple(msgspec.json.decode(row[2], type=list[str])),
        sealed=row[3],
        retention_seconds=row[4],
        retention_bytes=row[5],
        created=row[6],
    )
