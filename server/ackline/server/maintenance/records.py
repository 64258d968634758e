"""Checking the records: the database's structure, its tables, and every row."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.server.maintenance.reading import RECORDS
from ackline.server.maintenance.walfile import unreadable_commits
from ackline.server.stores.schema import VERSION, add_functions, prepare

if TYPE_CHECKING:
    from ackline.server.maintenance.findings import Report

__all__ = ["RESTORE", "check_log_of_writes", "check_records"]

RESTORE = "restore the folder from a backup"


def check_log_of_writes(folder: Path, report: Report) -> None:
    """Check that every transaction that is not in the database yet can be read.

    Raises:
        OSError: The file cannot be read.
    """
    path = folder / f"{RECORDS}-wal"
    if not path.exists():
        return
    report.read(path.stat().st_size)
    lost = unreadable_commits(path)
    if lost:
        report.damaged(
            path.name,
            f"{lost} transactions behind a wrong byte cannot be read",
            f"{RESTORE}; after a power cut they may be such as nobody waited for",
        )


def check_records(connection: sqlite3.Connection, report: Report) -> bool:
    """Check the database; return whether what it says can be compared with files."""
    try:
        return _check(connection, report)
    except (sqlite3.Error, UnicodeError) as error:  # damaged text, in messages too
        report.damaged(RECORDS, str(error), RESTORE)
        return False


def _check(connection: sqlite3.Connection, report: Report) -> bool:
    before = len(report.damage)
    for (told,) in connection.execute("PRAGMA integrity_check"):
        if told != "ok":
            report.damaged(RECORDS, str(told), RESTORE)
    versions = connection.execute("SELECT version FROM schema").fetchall()
    if versions != [(VERSION,)]:
        report.damaged(
            RECORDS,
            f"its version is {versions}, this program reads {VERSION}",
            "use the version that made it",
        )
        return False
    found, expected = _tables(connection), _expected_tables()
    # Indexes that are missing are made when the server starts.
    if found - expected or any("INDEX" not in sql for _, sql in expected - found):
        report.damaged(RECORDS, "its tables are defined otherwise", RESTORE)
        return False
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        report.damaged(f"{RECORDS}: {table}", f"a row names none of {parent}", RESTORE)
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table'"
    ).fetchall():
        _check_rows(connection, table, report)
    for (upload,) in connection.execute(
        "SELECT DISTINCT upload FROM chunks WHERE NOT EXISTS"
        " (SELECT 1 FROM uploads WHERE serial = upload AND outcome IS NULL)"
    ):
        report.damaged(
            f"{RECORDS}: chunks", f"rows of no open upload: {upload}", RESTORE
        )
    return len(report.damage) == before


def _tables(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(
        connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    )


def _expected_tables() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        add_functions(fresh)
        prepare(fresh, Path())
        return _tables(fresh)


def _check_rows(connection: sqlite3.Connection, table: str, report: Report) -> None:
    """Compare the checksums of a table's rows with their columns."""
    columns = [
        row[1] for row in connection.execute(f"PRAGMA table_xinfo({table})").fetchall()
    ]
    if "checksum" not in columns:
        return
    columns.remove("checksum")
    names = ", ".join(columns)
    # Which row it is says its key, as far as that can be believed.
    query = (
        f"SELECT {columns[0]}, {columns[1]}, checksum IS row_checksum({names})"  # noqa: S608
        f" FROM {table} NOT INDEXED"
    )
    for first, second, right in connection.execute(query):
        report.counts["rows"] += 1
        if not right:
            report.damaged(
                f"{RECORDS}: {table}",
                f"the row {first!r}, {second!r} is not what was stored",
                RESTORE,
            )
