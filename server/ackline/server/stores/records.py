"""The SQLite database, used by one thread in group transactions.

Every operation that waits when a transaction begins becomes part of it, so that one
sync of the write-ahead log serves them all. Each runs inside a savepoint: one that
fails is undone alone. Operations run in the order in which they were handed in.

SQLite does its own file-system calls. Tests make them fail with a connection class of
their own (`factory`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ackline.server.stores.errors import StorageFull, StoreFailed
from ackline.server.stores.schema import add_functions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Records"]

T = TypeVar("T")

#: Operations handed in and not done; more wait for a place. A thousand small writes
#: are some 20 ms of work, which is as long as anybody should wait for an ACK.
_QUEUE_LIMIT = 1024

#: Operations in one transaction: the first ones need not wait for all the others.
_GROUP_LIMIT = 256


@dataclass(slots=True, kw_only=True)
class _Operation:
    """Something to run, and where its result goes. Not frozen: it is filled in."""

    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    synced: bool
    alone: bool = False
    result: object = None
    error: BaseException | None = None


class Records:
    """The records of a data folder.

    `await open(...)`, then `await run(function)` any number of times from the event
    loop, then `close()`.

    Attributes:
        transactions: Group transactions committed.
        operations: Operations in them.
        commit_seconds: Time spent in COMMIT.
    """

    def __init__(
        self,
        path: Path,
        *,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self.transactions = 0
        self.operations = 0
        self.commit_seconds = 0.0
        self._path = path
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(_QUEUE_LIMIT)
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._synced = True
        self._closed = False
        self._thread = threading.Thread(
            target=self._work, name="ackline-records", daemon=True
        )
        self._thread.start()

    async def run(
        self, function: Callable[[sqlite3.Connection], T], *, synced: bool = True
    ) -> T:
        """Run a function inside the next group transaction and return its result.

        The function runs in the database thread and must not begin or end
        transactions. Cancelling the caller does not stop it.

        Args:
            function: Gets the connection; what it raises is raised here.
            synced: Wait until the transaction is on stable storage. False is for what
                need only survive the process; such a transaction becomes stable with
                the next synced one.

        Raises:
            StorageFull: The disk is full; nothing was recorded.
            StoreFailed: The transaction failed. Whether it was recorded is not known
                before it has been looked up.
        """
        async with self._places:
            self._check_open()
            future: asyncio.Future[Any] = self._loop.create_future()
            self._queue.put(_Operation(function=function, future=future, synced=synced))
            return cast("T", await future)

    @property
    def waiting(self) -> int:
        """Operations that were handed in and have not begun."""
        return self._queue.qsize()

    async def checkpoint(self) -> None:
        """Move what is in the write-ahead log to the database file.

        Raises:
            StorageFull: The disk is full.
            StoreFailed: The checkpoint failed.
        """
        async with self._places:
            self._check_open()
            future: asyncio.Future[Any] = self._loop.create_future()
            self._queue.put(
                _Operation(function=_checkpoint, future=future, synced=True, alone=True)
            )
            await future

    def close(self) -> None:
        """Finish what was handed in, close the database and end the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _check_open(self) -> None:
        """Refuse what nobody would ever do: the thread has ended.

        Raises:
            StoreFailed: The database is closed.
        """
        if self._closed:
            raise StoreFailed("record not stored", "the store is closed")

    def _work(self) -> None:
        """Serve the queue until it says to stop; this is the thread."""
        stop = False
        while not stop:
            group, stop = self._next_group()
            if group:
                self._transact(group)
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(_resolve, group)
        self._disconnect()

    def _next_group(self) -> tuple[list[_Operation], bool]:
        """Wait for an operation; return it with all that wait, and whether to stop."""
        group: list[_Operation] = []
        try:
            operation = self._queue.get()
            while operation is not None:
                group.append(operation)
                if len(group) == _GROUP_LIMIT:
                    return group, False
                operation = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _transact(self, group: list[_Operation]) -> None:
        try:
            connection = self._connected(synced=any(op.synced for op in group))
            connection.execute("BEGIN IMMEDIATE")
            for operation in group:
                if not operation.alone:
                    _attempt(connection, operation)
            begin = time.perf_counter()
            connection.execute("COMMIT")
            self.commit_seconds += time.perf_counter() - begin
        except Exception as error:  # noqa: BLE001 - the callers get it
            self._spoil(group, error)
        else:
            self.transactions += 1
            self.operations += len(group)
            for operation in group:
                if operation.alone:
                    _attempt_alone(connection, operation)

    def _spoil(self, group: list[_Operation], error: Exception) -> None:
        """Fail the whole group and begin the next one with a new connection.

        Closing and opening makes SQLite look at its files again instead of trusting
        pages that a failed sync may have lost.
        """
        self._disconnect()
        for operation in group:
            operation.error = _failure(error)

    def _connected(self, *, synced: bool) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, isolation_level=None, factory=self._factory
            )
            add_functions(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._connection = connection
            self._synced = True
        if synced is not self._synced:
            level = "FULL" if synced else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._synced = synced
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _attempt(connection: sqlite3.Connection, operation: _Operation) -> None:
    """Run one operation so that its failure undoes nothing but itself.

    Raises:
        sqlite3.OperationalError: The disk, not the operation, is at fault; SQLite may
            have rolled the whole transaction back.
    """
    connection.execute("SAVEPOINT operation")
    try:
        operation.result = operation.function(connection)
    except sqlite3.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - the caller gets it
        operation.error = error
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")


def _attempt_alone(connection: sqlite3.Connection, operation: _Operation) -> None:
    """Run one operation that may not be inside a transaction."""
    try:
        operation.function(connection)
    except sqlite3.Error as error:
        operation.error = _failure(error)


def _resolve(group: list[_Operation]) -> None:
    """Hand out the results, in the event loop."""
    for operation in group:
        future = operation.future
        if future.done():  # its caller was cancelled
            continue
        if operation.error is not None:
            future.set_exception(operation.error)
        else:
            future.set_result(operation.result)


def _failure(error: Exception) -> Exception:
    """Return what an error of the whole transaction means to each caller."""
    if not isinstance(error, sqlite3.Error):
        return error
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StorageFull()
    return StoreFailed("record not stored", str(error))
