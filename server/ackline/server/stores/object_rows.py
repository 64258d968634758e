"""The records of objects: what runs in the database thread.

Every function takes the connection first and is meant for `Records.run`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ackline.server.stores.entities import KeptObject, ObjectRecord
from ackline.server.stores.errors import NotFound

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

__all__ = [
    "add_object",
    "chunk_crcs",
    "delete_objects",
    "discard_objects",
    "every_version",
    "kept_objects",
    "newest_objects",
    "object_by_id",
    "object_by_name",
    "remove_object",
]

#: Sorts after every character that a name may have.
_LAST = "\U0010ffff"

_SELECT = """
    SELECT object_id, name, version, identity, size, crc32c, digest_algorithm, digest,
        metadata, created, chunk_size,
        (SELECT count(*) FROM deliveries
         WHERE deliveries.object_id = objects.object_id)
    FROM objects
"""

_IS_NEWEST = """
    NOT EXISTS (
        SELECT 1 FROM objects AS newer
        WHERE newer.name = objects.name AND newer.version > objects.version)
"""

_INSERT = """
    INSERT INTO objects (
        object_id, name, version, identity, size, crc32c, digest_algorithm, digest,
        metadata, created, chunk_size, chunk_crcs
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def object_by_id(connection: sqlite3.Connection, object_id: str) -> ObjectRecord | None:
    """Return an object, or None."""
    row = connection.execute(_SELECT + " WHERE object_id = ?", (object_id,)).fetchone()
    return _object(row) if row else None


def object_by_name(
    connection: sqlite3.Connection, name: str, version: int | None = None
) -> ObjectRecord | None:
    """Return a version of a name, by default the newest, or None."""
    row = connection.execute(
        _SELECT + " WHERE name = ? AND (version = ? OR ? IS NULL)"
        " ORDER BY version DESC LIMIT 1",
        (name, version, version),
    ).fetchone()
    return _object(row) if row else None


def newest_objects(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int
) -> list[ObjectRecord]:
    """Return the newest version of names with a prefix, from the one after `after`."""
    rows = connection.execute(
        _SELECT
        + " WHERE name > ? AND name >= ? AND name < ? AND "
        + _IS_NEWEST
        + " ORDER BY name LIMIT ?",
        (after, prefix, prefix + _LAST, limit),
    )
    return [_object(row) for row in rows]


def every_version(
    connection: sqlite3.Connection, prefix: str, after: tuple[str, int], limit: int
) -> list[ObjectRecord]:
    """Return all versions by (name, version), from the one after `after`."""
    rows = connection.execute(
        _SELECT
        + " WHERE (name, version) > (?, ?) AND name >= ? AND name < ?"
        + " ORDER BY name, version LIMIT ?",
        (*after, prefix, prefix + _LAST, limit),
    )
    return [_object(row) for row in rows]


def kept_objects(
    connection: sqlite3.Connection, before: tuple[float, str], limit: int
) -> list[KeptObject]:
    """Return what was committed before (time, id), the newest first."""
    rows = connection.execute(
        "SELECT object_id, name, size, created,"
        " (SELECT count(*) FROM deliveries"
        "  WHERE deliveries.object_id = objects.object_id)"
        " FROM objects WHERE (created, object_id) < (?, ?)"
        " ORDER BY created DESC, object_id DESC LIMIT ?",
        (*before, limit),
    )
    return [KeptObject(*row) for row in rows]


def chunk_crcs(connection: sqlite3.Connection, object_id: str) -> list[int]:
    """Return the CRCs of an object's chunks in order.

    Raises:
        NotFound: There is no such object.
    """
    row = connection.execute(
        "SELECT chunk_crcs FROM objects WHERE object_id = ?", (object_id,)
    ).fetchone()
    if row is None:
        raise NotFound("object", object_id)
    return list(struct.unpack(f">{len(row[0]) // 4}I", row[0]))


def add_object(
    connection: sqlite3.Connection, record: ObjectRecord, crcs: list[int]
) -> None:
    """Record an object and the CRCs of its chunks."""
    connection.execute(
        _INSERT,
        (
            record.object_id,
            record.name,
            record.version,
            record.identity,
            record.size,
            record.crc32c,
            record.digest_algorithm,
            record.digest,
            record.metadata,
            record.created,
            record.chunk_size,
            struct.pack(f">{len(crcs)}I", *crcs),
        ),
    )


def remove_object(connection: sqlite3.Connection, object_id: str) -> None:
    """Remove the record of an object."""
    connection.execute("DELETE FROM objects WHERE object_id = ?", (object_id,))


def delete_objects(
    connection: sqlite3.Connection, name: str, version: int | None
) -> list[str]:
    """Remove one version of a name, or all, and return their ids.

    Raises:
        NotFound: There is none.
    """
    rows = connection.execute(
        "DELETE FROM objects WHERE name = ? AND (version = ? OR ? IS NULL)"
        " RETURNING object_id",
        (name, version, version),
    ).fetchall()
    if not rows:
        which = "object" if version is None else f"version {version} of object"
        raise NotFound(which, name)
    return [row[0] for row in rows]


def discard_objects(
    connection: sqlite3.Connection, object_ids: Sequence[str]
) -> list[str]:
    """Remove objects by their ids, and return those that were there."""
    return [
        object_id
        for object_id in object_ids
        if connection.execute(
            "DELETE FROM objects WHERE object_id = ?", (object_id,)
        ).rowcount
    ]


def _object(row: Any) -> ObjectRecord:
    return ObjectRecord(
        object_id=row[0],
        name=row[1],
        version=row[2],
        identity=row[3],
        size=row[4],
        crc32c=row[5],
        digest_algorithm=row[6],
        digest=row[7],
        metadata=row[8],
        created=row[9],
        chunk_size=row[10],
        waiting_sinks=row[11],
    )
