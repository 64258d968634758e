"""The SQLite database, used by one thread in group transactions.

Every operation that waits when a transaction begins becomes part of it, so that one
sync of the write-ahead log serves them all. Each runs inside a savepoint: one that
fails is undone alone. Operations run in the order in which they were handed in.

SQLite does its own file-system calls. Tests make them fail with a connection class of
their own (`factory`). It believes what it reads of its write-ahead log: what a killed
process wrote there and did not sync, and what a sync failed to bring to the disk, is
recorded for it. So that file is settled before SQLite opens it. For the same reason
SQLite must not move pages from there to the database after a sync has failed, which it
would do with the last connection that is closed, and may not checkpoint by itself,
because it keeps the errors of that to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ackline.server.stores.errors import (
    StorageFull,
    StoreError,
    StoreFailed,
    disk_failure,
)
from ackline.server.stores.schema import add_functions
from ackline.server.stores.segments import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ackline.server.stores.files import Files

__all__ = ["Records"]

T = TypeVar("T")

#: Operations handed in and not done; more wait for a place. A thousand small writes
#: are some 20 ms of work, which is as long as anybody should wait for an ACK.
_QUEUE_LIMIT = 1024

#: Operations in one transaction: the first ones need not wait for all the others.
_GROUP_LIMIT = 256

#: Operations between two checkpoints: some MiB of write-ahead log.
_CHECKPOINT_OPERATIONS = 500


@dataclass(slots=True, kw_only=True)
class _Operation:
    """Something to run, and where its result goes. Not frozen: it is filled in."""

    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    synced: bool
    checkpoint: bool = False
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
        files: Files,
        *,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self.transactions = 0
        self.operations = 0
        self.commit_seconds = 0.0
        self._path = path
        self._files = files
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(_QUEUE_LIMIT)
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        # A connection for reading. While it is there the other one is not the last, and
        # it can move nothing itself.
        self._guard: sqlite3.Connection | None = None
        self._synced = True
        self._in_memory = False
        self._unmoved = 0
        self._handed_in = 0
        self._done = 0
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
            self._hand_in(_Operation(function=function, future=future, synced=synced))
            try:
                return cast("T", await future)
            finally:
                del future  # else its exception, with this frame, is in a cycle

    @property
    def free(self) -> bool:
        """Whether `run_now` may be used.

        The database is memory, its thread has nothing to do, and is not needed either
        for what takes longer.
        """
        return (
            self._in_memory
            and self._done == self._handed_in
            and self._connection is not None
            and self._unmoved + 1 < _CHECKPOINT_OPERATIONS
            and not self._closed
        )

    def run_now(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Do what `run` does with `synced=False`, here and now, while it is `free`.

        The way to the thread and back, with the wake-ups and the turns of the GIL on
        it, took three times as long as the transaction: a tenth of an upload's work.

        Raises:
            StorageFull, StoreFailed: As `run`.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        group = [_Operation(function=function, future=future, synced=False)]
        self._handed_in += 1
        self._transact(group)
        _resolve(group)
        try:
            return cast("T", future.result())
        finally:
            del future, group

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
            self._hand_in(
                _Operation(
                    function=_nothing, future=future, synced=True, checkpoint=True
                )
            )
            await future

    def close(self) -> None:
        """Finish what was handed in, close the database and end the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _hand_in(self, operation: _Operation) -> None:
        self._handed_in += 1
        self._queue.put(operation)

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
            del group  # or the last results stay until there is more to do
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
                _attempt(connection, operation)
            begin = time.perf_counter()
            connection.execute("COMMIT")
            self.commit_seconds += time.perf_counter() - begin
        except Exception as error:  # noqa: BLE001 - the callers get it
            self._spoil(group, error)
        else:
            self.transactions += 1
            self.operations += len(group)
            self._unmoved += len(group)
            waiters = [operation for operation in group if operation.checkpoint]
            if waiters or self._unmoved >= _CHECKPOINT_OPERATIONS:
                self._checkpoint(connection, waiters)
        self._done += len(group)  # the connection is not used from here on

    def _checkpoint(
        self, connection: sqlite3.Connection, waiters: list[_Operation]
    ) -> None:
        """Move what is in the write-ahead log to the database, for those who wait."""
        mode = "TRUNCATE" if waiters else "PASSIVE"
        try:
            connection.execute(f"PRAGMA wal_checkpoint({mode})")
        except sqlite3.Error as error:
            self._spoil(waiters, error)
        else:
            self._unmoved = 0

    def _spoil(self, group: list[_Operation], error: Exception) -> None:
        """Fail the whole group and begin the next one with a new connection.

        Closing and opening makes SQLite look at its files again instead of trusting
        pages that a failed sync may have lost.
        """
        self._disconnect(failed=True)
        for operation in group:
            operation.error = _failure(error)

    def _connected(self, *, synced: bool) -> sqlite3.Connection:
        if self._connection is None:
            self._settle()
            self._in_memory = self._files.in_memory(self._path.parent)
            connection = self._connection = self._connect("rwc")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._guard = self._connect("ro")
            # Its lock is there once it has read.
            self._guard.execute("PRAGMA schema_version").fetchone()
            self._synced = True
        if synced is not self._synced:
            level = "FULL" if synced else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._synced = synced
        return self._connection

    def _settle(self) -> None:
        """Let the write-ahead log, if there is one, be what the disk has of it.

        Raises:
            OSError: It cannot be synced.
        """
        log = self._path.with_name(f"{self._path.name}-wal")
        if log.exists():
            with opened(self._files, log, os.O_RDWR) as fd:
                self._files.fdatasync(fd)
                self._files.drop_cache(fd)
            self._files.sync_directory(log.parent)

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,  # `run_now` is called in the event loop
            factory=self._factory,
        )
        add_functions(connection)
        return connection

    def _disconnect(self, *, failed: bool = False) -> None:
        """Close the database; leave its files as they are if something `failed`."""
        connections = [self._guard, self._connection]
        self._guard = self._connection = None
        for connection in reversed(connections) if failed else connections:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()


def _nothing(_connection: sqlite3.Connection) -> None:
    """Do what a checkpoint has to do inside the transaction before it."""


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
    except StoreError as error:
        # An answer like any other. Its traceback has the frames of this thread, with
        # the operation in them: a cycle.
        operation.error = error.with_traceback(None)
        connection.execute("ROLLBACK TO operation")
    except Exception as error:  # noqa: BLE001 - the caller gets it
        operation.error = error
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")


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
    if isinstance(error, OSError):
        return disk_failure("records", error)
    if not isinstance(error, sqlite3.Error):
        return error
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StorageFull()
    return StoreFailed("record not stored", str(error))
