"""Checking a data folder while no server runs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.server.maintenance.findings import Report
from ackline.server.maintenance.logs import check_logs
from ackline.server.maintenance.objects import check_objects
from ackline.server.maintenance.reading import RECORDS, reading
from ackline.server.maintenance.records import (
    RESTORE,
    check_log_of_writes,
    check_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ackline.server.stores.files import Files

__all__ = ["check", "stored_bytes"]


def stored_bytes(folder: Path) -> int:
    """Return how many bytes `check` reads, about."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check(folder: Path, files: Files, progress: Callable[[int], None]) -> Report:
    """Compare every byte of a data folder with what its records say.

    Args:
        folder: Which nobody else uses meanwhile.
        files: The file system.
        progress: Told the number of bytes whenever some were compared.

    Raises:
        OSError: Something cannot be read.
        sqlite3.Error: The records cannot be opened.
    """
    report = Report(progress)
    if not (folder / RECORDS).exists():
        report.damaged(RECORDS, "it is missing", RESTORE)
        return report
    check_log_of_writes(folder, report)
    with reading(folder) as connection:
        report.read((folder / RECORDS).stat().st_size)
        if not check_records(connection, report):
            return report
        check_objects(files, folder / "objects", connection, report)
        check_logs(files, folder / "logs", connection, report)
    return report
