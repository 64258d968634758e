"""The tables of records.sqlite3, their version, and the checksums of their rows.

SQLite notices a wrong byte only where it breaks a page. So every row has a checksum of
all its other columns, computed by SQLite whenever the row is written and compared by
`ackline-server check`. A chunk's row needs none: it says itself what its bytes are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.checksums import crc32c
from ackline.server.stores.errors import FormatMismatch

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

__all__ = ["VERSION", "add_functions", "prepare"]

#: Version of the tables below. The folder has a version of its own (`folder`).
VERSION = 3

#: Where a column is defined.
_COLUMN = re.compile(r"^ +(\w+) (?:TEXT|INTEGER|REAL|BLOB)\b.*$", re.MULTILINE)

_TABLES = (
    # One row, so that an older program can tell before it touches another table.
    "CREATE TABLE schema (version INTEGER NOT NULL) STRICT",
    # One row: when a server of this folder was last seen running, and the jumps of its
    # clock, a JSON array of [when it was noticed, seconds].
    """
    CREATE TABLE clock (
        seen REAL NOT NULL,
        jumps TEXT NOT NULL
    ) STRICT
    """,
    # The serial number keeps a chunk's row short; it is seen nowhere else.
    """
    CREATE TABLE uploads (
        serial INTEGER PRIMARY KEY,
        upload_id TEXT NOT NULL UNIQUE,
        identity TEXT NOT NULL,
        name TEXT NOT NULL,
        key TEXT NOT NULL,
        chunk_size INTEGER NOT NULL,
        total_size INTEGER,
        digest_algorithm TEXT NOT NULL,
        digest BLOB NOT NULL,
        existing INTEGER NOT NULL,
        metadata BLOB NOT NULL,
        parameters_hash BLOB NOT NULL,
        durability INTEGER NOT NULL,
        allocated INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        created REAL NOT NULL,
        touched REAL NOT NULL,
        outcome BLOB,
        ended REAL
    ) STRICT
    """,
    """
    CREATE UNIQUE INDEX uploads_by_key ON uploads (identity, name, key)
    WHERE key <> ''
    """,
    "CREATE INDEX uploads_open ON uploads (touched) WHERE outcome IS NULL",
    "CREATE INDEX uploads_ended ON uploads (ended) WHERE outcome IS NOT NULL",
    """
    CREATE TABLE chunks (
        upload INTEGER NOT NULL,
        number INTEGER NOT NULL,
        length INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (upload, number)
    ) STRICT, WITHOUT ROWID
    """,
    # chunk_crcs: one big-endian u32 a chunk.
    """
    CREATE TABLE objects (
        object_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        identity TEXT NOT NULL,
        size INTEGER NOT NULL,
        crc32c INTEGER NOT NULL,
        digest_algorithm TEXT NOT NULL,
        digest BLOB NOT NULL,
        metadata BLOB NOT NULL,
        created REAL NOT NULL,
        chunk_size INTEGER NOT NULL,
        chunk_crcs BLOB NOT NULL,
        UNIQUE (name, version)
    ) STRICT
    """,
    "CREATE INDEX objects_by_age ON objects (created, object_id)",
    # What sinks have still to take. attempts: calls begun. next_try: unix seconds.
    """
    CREATE TABLE deliveries (
        object_id TEXT NOT NULL REFERENCES objects ON DELETE CASCADE,
        sink TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        next_try REAL NOT NULL,
        PRIMARY KEY (object_id, sink)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX deliveries_due ON deliveries (sink, next_try)",
    # kinds: a JSON array. salt: what the checksums in its files begin with. synced_to:
    # id before which everything was synced when that was last noted; what the files
    # lack of that was acknowledged and is lost.
    """
    CREATE TABLE logs (
        log_id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        salt INTEGER NOT NULL,
        kinds TEXT NOT NULL,
        sealed BLOB,
        retention_seconds REAL,
        retention_bytes INTEGER,
        created REAL NOT NULL,
        synced_to INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    """
    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY,
        identity TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        token_hash BLOB NOT NULL,
        successor_hash BLOB,
        created REAL NOT NULL,
        touched REAL NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX sessions_touched ON sessions (touched)",
    """
    CREATE TABLE streams (
        session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
        stream_id INTEGER NOT NULL,
        use INTEGER NOT NULL,
        open_message BLOB NOT NULL,
        target TEXT NOT NULL,
        outcome BLOB,
        PRIMARY KEY (session_id, stream_id)
    ) STRICT, WITHOUT ROWID
    """,
    # generation: hexadecimal, because SQLite has no unsigned 64-bit integer.
    """
    CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        parameters BLOB NOT NULL,
        identity TEXT NOT NULL,
        key TEXT NOT NULL,
        generation TEXT NOT NULL,
        created REAL NOT NULL,
        durable INTEGER NOT NULL,
        outcome BLOB,
        ended REAL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX runs_by_key ON runs (identity, source, key) WHERE key <> ''",
    "CREATE INDEX runs_active ON runs (created) WHERE outcome IS NULL",
    # entries: a JSON array of texts.
    """
    CREATE TABLE histories (
        resource TEXT PRIMARY KEY,
        entries BLOB NOT NULL,
        touched REAL NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX histories_touched ON histories (touched)",
)

#: Indexes that databases of this version got later; made where they are missing.
_LATER = (
    "CREATE INDEX IF NOT EXISTS runs_ended ON runs (ended) WHERE outcome IS NOT NULL",
)


def _statements() -> list[str]:
    """Return what makes the tables and indexes of a new database."""
    return [_checked(statement) for statement in _TABLES]


def add_functions(connection: sqlite3.Connection) -> None:
    """Add what the tables compute their checksums with; needed by every writer."""
    connection.create_function("row_checksum", -1, _row_checksum, deterministic=True)


def prepare(connection: sqlite3.Connection, folder: Path) -> None:
    """Make the tables in a new database, or check that they are of this version.

    Raises:
        FormatMismatch: The tables are of another version.
    """
    made = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'schema'"
    ).fetchone()[0]
    if not made:
        for statement in _statements():
            connection.execute(statement)
        connection.execute("INSERT INTO schema VALUES (?)", (VERSION,))
    (found,) = connection.execute("SELECT version FROM schema").fetchone()
    if found != VERSION:
        raise FormatMismatch(
            folder, found=f"records {found}", supported=f"records {VERSION}"
        )
    for statement in _LATER:
        connection.execute(statement)


def _checked(statement: str) -> str:
    """Add the checksum, behind the last column, to a table that has several."""
    columns = list(_COLUMN.finditer(statement))
    if not columns or "chunks (" in statement:
        return statement
    names = ", ".join(column[1] for column in columns)
    end = columns[-1].end()
    before = statement[:end].rstrip(",")
    return (
        f"{before},\n        checksum INTEGER AS (row_checksum({names})) STORED"
        f"{statement[len(before) : end]}{statement[end:]}"
    )


def _row_checksum(*values: float | str | bytes | None) -> int:
    return crc32c(msgspec.msgpack.encode(values))
