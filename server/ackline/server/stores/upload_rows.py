"""The records of uploads: what runs in the database thread.

Every function takes the connection first and is meant for `Records.run`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ackline.proto.values import Durability, Existing
from ackline.server.stores.deliveries import add_deliveries
from ackline.server.stores.entities import UploadParameters, UploadRecord
from ackline.server.stores.errors import AlreadyExists, Ended, Fenced, NotFound
from ackline.server.stores.object_rows import (
    add_object,
    object_by_name,
    remove_object,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable

    from ackline.server.stores.entities import ObjectRecord

__all__ = [
    "add_upload",
    "chunk_rows",
    "claims",
    "commit_upload",
    "drop_chunks",
    "end_upload",
    "forget_uploads",
    "idle_uploads",
    "known_files",
    "open_uploads",
    "put_chunk",
    "put_epoch",
    "put_whole",
    "restore_upload",
    "stored_by",
    "touch_uploads",
    "upload_by_id",
    "upload_by_key",
]

_SELECT = """
    SELECT upload_id, identity, name, key, chunk_size, total_size, digest_algorithm,
        digest, existing, metadata, parameters_hash, durability, epoch, created,
        touched, outcome
    FROM uploads
"""

_INSERT = """
    INSERT INTO uploads (
        upload_id, identity, name, key, chunk_size, total_size, digest_algorithm,
        digest, existing, metadata, parameters_hash, durability, epoch, created,
        touched, allocated
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def add_upload(
    connection: sqlite3.Connection, record: UploadRecord, *, allocated: bool
) -> None:
    """Record a new upload.

    An ended upload of the same key gives the key up and stays to be asked by its id.

    Raises:
        AlreadyExists: The key has an open upload, or the name an object that this
            upload may not touch (better now than after the last byte).
    """
    of = record.parameters
    named = (of.identity, of.name, of.key)
    if of.existing is Existing.REFUSE and object_by_name(connection, of.name):
        raise AlreadyExists("object", of.name)
    if of.key:
        connection.execute(
            "UPDATE uploads SET key = '' WHERE identity = ? AND name = ? AND key = ?"
            " AND key <> '' AND outcome IS NOT NULL",
            named,
        )
        if upload_by_key(connection, *named):
            raise AlreadyExists("upload", of.key)
    connection.execute(
        _INSERT,
        (
            record.upload_id,
            *named,
            of.chunk_size,
            of.total_size,
            of.digest_algorithm,
            of.digest,
            int(of.existing),
            of.metadata,
            of.parameters_hash,
            int(of.durability),
            record.epoch,
            record.created,
            record.touched,
            allocated,
        ),
    )


def restore_upload(connection: sqlite3.Connection, record: UploadRecord) -> None:
    """Record an open upload again if its record is gone.

    It is not synced before the first chunk is, so a failed sync may take it.

    Raises:
        AlreadyExists: As `add_upload`.
    """
    if upload_by_id(connection, record.upload_id) is None:
        add_upload(connection, record, allocated=False)


def upload_by_id(connection: sqlite3.Connection, upload_id: str) -> UploadRecord | None:
    """Return an upload, open or ended, or None."""
    row = connection.execute(_SELECT + " WHERE upload_id = ?", (upload_id,)).fetchone()
    return _upload(row) if row else None


def upload_by_key(
    connection: sqlite3.Connection, identity: str, name: str, key: str
) -> UploadRecord | None:
    """Return the upload that has a key, open or ended, or None."""
    row = connection.execute(
        _SELECT + " WHERE identity = ? AND name = ? AND key = ? AND key <> ''",
        (identity, name, key),
    ).fetchone()
    return _upload(row) if row else None


def stored_by(
    connection: sqlite3.Connection, identity: str, besides: Collection[str]
) -> int:
    """Return the bytes of an identity's objects and open uploads.

    An upload counts with its whole size from the beginning, where that is known.

    Args:
        connection: Of the records.
        identity: Whose.
        besides: Ids of uploads, committed or not, that are not to be counted.
    """
    row = connection.execute(
        """
        WITH besides AS (SELECT value FROM json_each(:besides))
        SELECT
            (SELECT coalesce(sum(size), 0) FROM objects WHERE identity = :identity
                AND object_id NOT IN besides)
            + (SELECT coalesce(sum(coalesce(
                total_size, (SELECT sum(length) FROM chunks WHERE upload = serial), 0
            )), 0) FROM uploads WHERE identity = :identity AND outcome IS NULL
                AND upload_id NOT IN besides)
        """,
        {"identity": identity, "besides": json.dumps(list(besides))},
    ).fetchone()
    return int(row[0])


def open_uploads(
    connection: sqlite3.Connection, after: str, limit: int
) -> list[UploadRecord]:
    """Return open uploads ordered by id, from the one after `after`."""
    rows = connection.execute(
        _SELECT + " WHERE outcome IS NULL AND upload_id > ? ORDER BY upload_id LIMIT ?",
        (after, limit),
    )
    return [_upload(row) for row in rows]


def claims(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """Return (id, bytes still to come) of open uploads without reserved space."""
    rows = connection.execute(
        "SELECT upload_id, total_size - coalesce(("
        "  SELECT sum(length) FROM chunks WHERE upload = serial), 0)"
        " FROM uploads"
        " WHERE outcome IS NULL AND total_size IS NOT NULL AND NOT allocated"
    )
    return rows.fetchall()


def known_files(connection: sqlite3.Connection) -> set[str]:
    """Return the ids of everything that has a file."""
    rows = connection.execute(
        "SELECT upload_id FROM uploads WHERE outcome IS NULL"
        " UNION ALL SELECT object_id FROM objects"
    )
    return {row[0] for row in rows}


def put_chunk(
    connection: sqlite3.Connection,
    upload_id: str,
    index: int,
    length: int,
    crc: int,
    touched: float | None,
) -> None:
    """Record a chunk of an open upload.

    Args:
        connection: The database.
        upload_id: Of the upload.
        index: Of the chunk.
        length: Bytes.
        crc: CRC-32C.
        touched: When the upload was last used, or None to leave what is recorded: that
            is another page to write.

    Raises:
        Ended: An outcome was recorded meanwhile.
        NotFound: The upload was forgotten meanwhile.
    """
    inserted = connection.execute(
        "INSERT OR REPLACE INTO chunks SELECT serial, ?, ?, ? FROM uploads"
        " WHERE upload_id = ? AND outcome IS NULL",
        (index, length, crc, upload_id),
    )
    if not inserted.rowcount:
        _open_serial(connection, upload_id)  # raises
    if touched is not None:
        connection.execute(
            "UPDATE uploads SET touched = ? WHERE upload_id = ?", (touched, upload_id)
        )


def chunk_rows(
    connection: sqlite3.Connection, upload_id: str
) -> list[tuple[int, int, int]]:
    """Return (index, length, CRC) of an upload's chunks in order."""
    rows = connection.execute(
        "SELECT number, length, crc FROM chunks JOIN uploads ON upload = serial"
        " WHERE upload_id = ? ORDER BY number",
        (upload_id,),
    )
    return rows.fetchall()


def drop_chunks(
    connection: sqlite3.Connection, upload_id: str, indices: Iterable[int]
) -> None:
    """Forget chunks whose bytes are not there."""
    connection.executemany(
        "DELETE FROM chunks WHERE number = ?"
        " AND upload = (SELECT serial FROM uploads WHERE upload_id = ?)",
        [(index, upload_id) for index in indices],
    )


def put_epoch(
    connection: sqlite3.Connection, upload_id: str, epoch: int, now: float
) -> None:
    """Record who owns an open upload.

    Raises:
        Ended: An outcome is recorded.
        NotFound: There is no such upload.
    """
    serial = _open_serial(connection, upload_id)
    connection.execute(
        "UPDATE uploads SET epoch = ?, touched = ? WHERE serial = ?",
        (epoch, now, serial),
    )


def touch_uploads(
    connection: sqlite3.Connection, upload_ids: Iterable[str], now: float
) -> None:
    """Record that uploads are attached."""
    connection.executemany(
        "UPDATE uploads SET touched = ? WHERE upload_id = ? AND outcome IS NULL",
        [(now, upload_id) for upload_id in upload_ids],
    )


def commit_upload(
    connection: sqlite3.Connection,
    candidate: ObjectRecord,
    crcs: list[int],
    *,
    epoch: int,
    outcome: Callable[[ObjectRecord], bytes],
    sinks: Iterable[str],
) -> tuple[ObjectRecord, bytes, list[str]]:
    """Make an object visible and record its upload's outcome, both or neither.

    Args:
        connection: The database.
        candidate: The object; its version is chosen here.
        crcs: Of its chunks.
        epoch: The caller's.
        outcome: Makes the outcome of the object as recorded.
        sinks: Names of those that have to take it.

    Returns:
        The object, the outcome, and the ids of objects it replaced.

    Raises:
        Ended: An outcome was recorded before.
        Fenced: The upload has a newer epoch.
        AlreadyExists: The name is taken and must not be replaced.
        NotFound: There is no such upload.
    """
    upload = upload_by_id(connection, candidate.object_id)
    if upload is None:
        raise NotFound("upload", candidate.object_id)
    if upload.outcome is not None:
        raise Ended(upload.upload_id, upload.outcome)
    if upload.epoch > epoch:
        raise Fenced("the upload", epoch=epoch, current=upload.epoch)
    existing = upload.parameters.existing
    newest = object_by_name(connection, candidate.name)
    version, replaced = 1, list[str]()
    if newest is not None:
        if existing is Existing.REFUSE:
            raise AlreadyExists("object", candidate.name)
        version = newest.version + 1
        if existing is Existing.REPLACE:
            replaced.append(newest.object_id)
            remove_object(connection, newest.object_id)
    record = replace(candidate, version=version)
    add_object(connection, record, crcs)
    add_deliveries(connection, record.object_id, sinks, record.created)
    result = outcome(record)
    end_upload(connection, record.object_id, result, record.created)
    return record, result, replaced


def put_whole(
    connection: sqlite3.Connection,
    upload: UploadRecord,
    candidate: ObjectRecord,
    crcs: list[int],
    *,
    outcome: Callable[[ObjectRecord], bytes],
    sinks: Iterable[str],
) -> tuple[bytes, list[str]]:
    """Record an upload, its object and its outcome, unless they are recorded.

    Returns:
        The outcome, and the ids of objects it replaced.

    Raises:
        AlreadyExists: As `add_upload`.
    """
    known = upload_by_id(connection, upload.upload_id)
    if known is not None and known.outcome is not None:
        return known.outcome, []  # by an attempt that seemed to fail
    add_upload(connection, upload, allocated=False)
    _, result, replaced = commit_upload(
        connection,
        candidate,
        crcs,
        epoch=upload.epoch,
        outcome=outcome,
        sinks=sinks,
    )
    return result, replaced


def end_upload(
    connection: sqlite3.Connection, upload_id: str, outcome: bytes, now: float
) -> tuple[bytes, bool]:
    """Record an outcome unless there is one.

    Returns:
        The outcome that stands, and whether it is this one.

    Raises:
        NotFound: There is no such upload.
    """
    try:
        serial = _open_serial(connection, upload_id)
    except Ended as ended:
        return ended.outcome, False
    connection.execute(
        "UPDATE uploads SET outcome = ?, ended = ? WHERE serial = ?",
        (outcome, now, serial),
    )
    connection.execute("DELETE FROM chunks WHERE upload = ?", (serial,))
    return outcome, True


def idle_uploads(connection: sqlite3.Connection, before: float) -> list[str]:
    """Return the ids of open uploads in which nothing was stored since."""
    rows = connection.execute(
        "SELECT upload_id FROM uploads WHERE outcome IS NULL AND touched < ?", (before,)
    )
    return [row[0] for row in rows]


def forget_uploads(connection: sqlite3.Connection, before: float) -> int:
    """Forget uploads that ended before, and return how many."""
    return connection.execute(
        "DELETE FROM uploads WHERE outcome IS NOT NULL AND ended < ?", (before,)
    ).rowcount


def _open_serial(connection: sqlite3.Connection, upload_id: str) -> int:
    """Return the serial number of an open upload.

    Raises:
        Ended: An outcome is recorded.
        NotFound: There is no such upload.
    """
    row = connection.execute(
        "SELECT serial, outcome FROM uploads WHERE upload_id = ?", (upload_id,)
    ).fetchone()
    if row is None:
        raise NotFound("upload", upload_id)
    if row[1] is not None:
        raise Ended(upload_id, row[1])
    return int(row[0])


def _upload(row: Any) -> UploadRecord:
    return UploadRecord(
        upload_id=row[0],
        parameters=UploadParameters(
            identity=row[1],
            name=row[2],
            key=row[3],
            chunk_size=row[4],
            total_size=row[5],
            digest_algorithm=row[6],
            digest=row[7],
            existing=Existing(row[8]),
            metadata=row[9],
            parameters_hash=row[10],
            durability=Durability(row[11]),
        ),
        epoch=row[12],
        created=row[13],
        touched=row[14],
        outcome=row[15],
    )
