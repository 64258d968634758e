"""Reading the records of a data folder without changing anything in it."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ackline.server.stores.schema import add_functions

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["RECORDS", "reading"]

RECORDS = "records.sqlite3"


@contextmanager
def reading(folder: Path) -> Generator[sqlite3.Connection]:
    """Open the records of a folder for reading, for the time of a block.

    A log of writes that a crash or a running server has is taken into account.

    Raises:
        sqlite3.Error: They cannot be opened.
    """
    path = folder / RECORDS
    log = path.with_name(f"{path.name}-wal")
    # Without a log there is no server, and nothing need be made beside the file.
    how = "mode=ro" if log.exists() else "immutable=1"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None
    )
    try:
        add_functions(connection)
        # A wrong byte must not keep the rest of a row from being compared.
        connection.text_factory = _text
        yield connection
    finally:
        connection.close()


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
