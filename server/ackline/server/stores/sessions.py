"""The session store: who may resume what, and who owns it now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ackline.server.stores.entities import SessionRecord, StreamRecord
from ackline.server.stores.errors import Fenced, NotFound

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Mapping

    from ackline.server.stores.entities import StreamKey
    from ackline.server.stores.records import Records

__all__ = ["RecordSessions"]

_SELECT_SESSION = """
    SELECT session_id, identity, epoch, token_hash, successor_hash, created, touched
    FROM sessions
"""

_PUT_SESSION = """
    INSERT INTO sessions (
        session_id, identity, epoch, token_hash, successor_hash, created, touched
    ) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (session_id) DO UPDATE SET
        epoch = excluded.epoch, token_hash = excluded.token_hash,
        successor_hash = excluded.successor_hash, touched = excluded.touched
"""

_PUT_STREAM = """
    INSERT INTO streams (session_id, stream_id, use, open_message, target, outcome)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (session_id, stream_id) DO UPDATE SET
        open_message = excluded.open_message, target = excluded.target
"""


class RecordSessions:
    """Sessions and their streams in the database.

    Every change names the epoch of the connection that makes it. One whose epoch is no
    longer the session's is refused: a connection that lost its session cannot undo what
    the new one did.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    async def save(self, session: SessionRecord) -> None:
        """Record a new session, or the state of one of the same epoch.

        Raises:
            Fenced: The session has another epoch; see `advance`.
        """
        await self._records.run(partial(_save, session=session))

    async def load(self, session_id: str) -> SessionRecord | None:
        """Return a session, or None."""
        return await self._records.run(partial(_find, session_id=session_id))

    async def advance(
        self,
        session_id: str,
        expected_epoch: int,
        *,
        token_hash: bytes,
        successor_hash: bytes | None,
        touched: float,
    ) -> SessionRecord:
        """Raise the epoch by one, if it is the expected one; return the session.

        Of two connections that try at the same time, one succeeds.

        Args:
            session_id: Which session.
            expected_epoch: As the caller loaded it.
            token_hash: Of the token that is valid from now on.
            successor_hash: Of the token issued with this resume, or None.
            touched: Unix seconds.

        Raises:
            Fenced: Somebody else was faster.
            NotFound: There is no such session.
        """
        return await self._records.run(
            partial(
                _advance,
                session_id=session_id,
                expected=expected_epoch,
                changes=(token_hash, successor_hash, touched),
            )
        )

    async def touch(self, session_ids: list[str], now: float) -> None:
        """Record that sessions have a connection."""
        await self._records.run(
            partial(_touch, session_ids=session_ids, now=now), synced=False
        )

    async def delete(self, session_id: str) -> None:
        """Forget a session and its streams."""
        await self._records.run(partial(_delete, session_id=session_id))

    async def expire(self, before: float) -> list[str]:
        """Forget sessions not touched since; return their ids.

        Args:
            before: Unix seconds. Touch those that have a connection first.
        """
        return await self._records.run(partial(_expire, before=before))

    async def save_stream(self, stream: StreamRecord) -> None:
        """Record a stream of a session.

        Raises:
            NotFound: There is no such session.
        """
        await self._records.run(partial(_save_stream, stream=stream))

    async def streams(self, session_id: str) -> list[StreamRecord]:
        """Return the streams of a session by number."""
        return await self._records.run(partial(_streams, session_id=session_id))

    async def end_streams(self, outcomes: Mapping[StreamKey, bytes]) -> None:
        """Record outcomes of streams that are there and have none."""
        await self._records.run(partial(_end_streams, outcomes=outcomes))

    async def delete_streams(self, streams: Collection[StreamKey]) -> None:
        """Forget streams that were released."""
        await self._records.run(partial(_delete_streams, streams=streams))


def _find(connection: sqlite3.Connection, session_id: str) -> SessionRecord | None:
    row = connection.execute(
        _SELECT_SESSION + " WHERE session_id = ?", (session_id,)
    ).fetchone()
    return _session(row) if row else None


def _save(connection: sqlite3.Connection, session: SessionRecord) -> None:
    stored = _find(connection, session.session_id)
    if stored is not None and stored.epoch != session.epoch:
        raise Fenced("the session", epoch=session.epoch, current=stored.epoch)
    connection.execute(
        _PUT_SESSION,
        (
            session.session_id,
            session.identity,
            session.epoch,
            session.token_hash,
            session.successor_hash,
            session.created,
            session.touched,
        ),
    )


def _advance(
    connection: sqlite3.Connection,
    session_id: str,
    expected: int,
    changes: tuple[bytes, bytes | None, float],
) -> SessionRecord:
    changed = connection.execute(
        "UPDATE sessions SET epoch = epoch + 1, token_hash = ?, successor_hash = ?,"
        " touched = ? WHERE session_id = ? AND epoch = ?",
        (*changes, session_id, expected),
    ).rowcount
    session = _find(connection, session_id)
    if session is None:
        raise NotFound("session", session_id)
    if not changed:
        raise Fenced("the session", epoch=expected, current=session.epoch)
    return session


def _touch(connection: sqlite3.Connection, session_ids: list[str], now: float) -> None:
    connection.executemany(
        "UPDATE sessions SET touched = ? WHERE session_id = ?",
        [(now, session_id) for session_id in session_ids],
    )


def _delete(connection: sqlite3.Connection, session_id: str) -> None:
    connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))


def _expire(connection: sqlite3.Connection, before: float) -> list[str]:
    rows = connection.execute(
        "DELETE FROM sessions WHERE touched < ? RETURNING session_id", (before,)
    )
    return [row[0] for row in rows.fetchall()]


def _save_stream(connection: sqlite3.Connection, stream: StreamRecord) -> None:
    if _find(connection, stream.session_id) is None:
        raise NotFound("session", stream.session_id)
    connection.execute(
        _PUT_STREAM,
        (
            stream.session_id,
            stream.stream_id,
            stream.use,
            stream.open_message,
            stream.target,
            stream.outcome,
        ),
    )


def _streams(connection: sqlite3.Connection, session_id: str) -> list[StreamRecord]:
    rows = connection.execute(
        "SELECT session_id, stream_id, use, open_message, target, outcome"
        " FROM streams WHERE session_id = ? ORDER BY stream_id",
        (session_id,),
    )
    return [_stream(row) for row in rows]


def _end_streams(
    connection: sqlite3.Connection, outcomes: Mapping[StreamKey, bytes]
) -> None:
    connection.executemany(
        "UPDATE streams SET outcome = ?"
        " WHERE session_id = ? AND stream_id = ? AND outcome IS NULL",
        [(outcome, *stream) for stream, outcome in outcomes.items()],
    )


def _delete_streams(
    connection: sqlite3.Connection, streams: Collection[StreamKey]
) -> None:
    connection.executemany(
        "DELETE FROM streams WHERE session_id = ? AND stream_id = ?", streams
    )


def _session(row: Any) -> SessionRecord:
    return SessionRecord(
        session_id=row[0],
        identity=row[1],
        epoch=row[2],
        token_hash=row[3],
        successor_hash=row[4],
        created=row[5],
        touched=row[6],
    )


def _stream(row: Any) -> StreamRecord:
    return StreamRecord(
        session_id=row[0],
        stream_id=row[1],
        use=row[2],
        open_message=row[3],
        target=row[4],
        outcome=row[5],
    )
