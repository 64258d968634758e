"""The embedded storage: everything in one data folder."""

from __future__ import annotations

import sqlite3
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ackline.server.stores.chunks import FileChunks
from ackline.server.stores.clock import ObservedClock
from ackline.server.stores.deliveries import RecordDeliveries
from ackline.server.stores.errors import StoreError
from ackline.server.stores.files import Files
from ackline.server.stores.folder import DataFolder
from ackline.server.stores.handles import Disk
from ackline.server.stores.histories import RecordHistories
from ackline.server.stores.logappender import LogsShared
from ackline.server.stores.logs import FileLogs
from ackline.server.stores.records import Records
from ackline.server.stores.runs import RecordRuns
from ackline.server.stores.schema import prepare
from ackline.server.stores.sessions import RecordSessions
from ackline.server.stores.space import Space
from ackline.server.stores.sync import Syncer
from ackline.server.stores.tail import TailCache
from ackline.server.stores.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from ackline.server.stores.history_seam import HistoryStore
    from ackline.server.stores.seams import (
        ChunkStore,
        DeliveryStore,
        LogStore,
        RunStore,
        SessionStore,
    )
    from ackline.server.stores.sync import SyncObserver

__all__ = ["Storage", "StorageOptions", "StorageStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """How the embedded storage uses its machine.

    Attributes:
        reserve: Bytes of the disk that uploads and logs leave free, so that there is
            always room for records. A few times the size of the database's log.
        io_threads: Reads and writes at a time. More than the disk serves in parallel
            is of no use; a hashed upload takes one now and then.
        sync_threads: Files synced at a time. One is busy for each log or upload that
            waits for the disk; they cost some 50 KB each.
        segment_size: Bytes at which a log segment ends. Opening a log reads one
            segment; retention deletes whole ones.
        tail_budget: Bytes of memory for the newest batches of all logs. Subscribers
            who lag further behind than that read from the disk.
        publishers: Publishers that a log remembers, at some 300 bytes each.
        cache_uploads: Whether chunks of a MiB and more stay in the page cache once they
            are synced. True spares a sink or fetch that comes at once a read from a
            slow disk. False keeps uploads from pushing everything else out of memory,
            begins to write early, and works in the same pages all the time: on a
            virtual machine that gets its memory on first use that is 0.5 s of processor
            time a GiB instead of 3.5, and five times the throughput.
    """

    reserve: int = 64 * 2**20
    io_threads: int = 4
    sync_threads: int = 8
    segment_size: int = 64 * 2**20
    tail_budget: int = 64 * 2**20
    publishers: int = 100_000
    cache_uploads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStats:
    """Counters since the storage was opened.

    Attributes:
        syncs: Calls of fdatasync that succeeded.
        sync_waiters: Stores and batches they served.
        sync_seconds: Time they took, added up over threads.
        sync_failures: Calls that failed.
        syncs_waiting: Stores that wait for one that has not begun.
        transactions: Group transactions of the database.
        operations: Operations in them.
        commit_seconds: Time their commits took.
        records_waiting: Operations that wait for the database.
        tail_bytes: Memory in use for the newest batches of logs.
        leftovers: Files of a crash that were deleted at the start.
    """

    syncs: int
    sync_waiters: int
    sync_seconds: float
    sync_failures: int
    syncs_waiting: int
    transactions: int
    operations: int
    commit_seconds: float
    records_waiting: int
    tail_bytes: int
    leftovers: int


class Storage:
    """The stores of one data folder.

    Use it as `async with Storage.open(path) as storage`. The attributes are typed as
    the seams they are: whoever uses more than those could not run on a cluster.

    Attributes:
        clock: Tells what is too old.
    """

    sessions: SessionStore
    runs: RunStore
    chunks: ChunkStore
    deliveries: DeliveryStore
    logs: LogStore
    histories: HistoryStore

    def __init__(
        self,
        folder: DataFolder,
        options: StorageOptions,
        *,
        clock: ObservedClock,
        files: Files,
        factory: type[sqlite3.Connection],
        observe_sync: SyncObserver | None,
    ) -> None:
        self._folder = folder
        self._files = files
        self._threads = Threads("ackline-disk", options.io_threads)
        self._syncer = Syncer(files, threads=options.sync_threads, observe=observe_sync)
        self._records = Records(folder.path / "records.sqlite3", files, factory=factory)
        self._cache = TailCache(options.tail_budget)
        self._leftovers = 0
        disk = Disk(files=files, threads=self._threads, syncer=self._syncer)
        space = Space(files, folder.path, reserve=options.reserve)
        self._chunks = FileChunks(
            folder.path / "objects",
            disk=disk,
            records=self._records,
            space=space,
            clock=clock,
            cached=options.cache_uploads,
        )
        self._logs = FileLogs(
            folder.path / "logs",
            LogsShared(
                disk=disk,
                records=self._records,
                space=space,
                cache=self._cache,
                clock=clock,
                segment_size=options.segment_size,
                publishers=options.publishers,
            ),
        )
        self.clock = clock
        self.sessions = RecordSessions(self._records)
        self.runs = RecordRuns(self._records, clock)
        self.histories = RecordHistories(self._records)
        self.chunks = self._chunks
        self.deliveries = RecordDeliveries(self._records)
        self.logs = self._logs

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        options: StorageOptions | None = None,
        *,
        clock: ObservedClock | None = None,
        files: Files | None = None,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        observe_sync: SyncObserver | None = None,
    ) -> AsyncGenerator[Storage]:
        """Open a data folder, making it if need be, for the time of a block.

        Args:
            path: The folder.
            options: How to use the machine.
            clock: By default the machine's.
            files: The file system; tests bring one that fails.
            factory: The class of database connections; tests bring one that fails.
            observe_sync: Told the seconds and the number of waiters of every sync.

        Raises:
            Locked: Another server has the folder.
            FormatMismatch: It is of another version, or holds something else.
            StorageFull: There is no room to make it.
            StoreFailed: It cannot be made or read.
        """
        files = files or Files()
        storage = cls(
            DataFolder.open(path, files),
            options or StorageOptions(),
            clock=clock or ObservedClock(time.time, time.monotonic),
            files=files,
            factory=factory,
            observe_sync=observe_sync,
        )
        try:
            await storage._start()
            yield storage
            with suppress(StoreError):  # then less time has passed
                await storage.keep_time()
        finally:
            await storage.close()

    @property
    def stats(self) -> StorageStats:
        """The counters as they are now."""
        return StorageStats(
            syncs=self._syncer.calls,
            sync_waiters=self._syncer.waiters,
            sync_seconds=self._syncer.seconds,
            sync_failures=self._syncer.failures,
            syncs_waiting=self._syncer.waiting,
            transactions=self._records.transactions,
            operations=self._records.operations,
            commit_seconds=self._records.commit_seconds,
            records_waiting=self._records.waiting,
            tail_bytes=self._cache.size,
            leftovers=self._leftovers,
        )

    def free(self) -> int:
        """Return the bytes free on the disk. Blocks for a system call.

        Raises:
            OSError: The file system does not answer.
        """
        return self._files.free(self._folder.path)

    async def checkpoint(self) -> None:
        """Make the database file complete, so that its log is short at the next start.

        Raises:
            StorageFull: The disk is full.
            StoreFailed: That failed; nothing is lost by it.
        """
        await self._records.checkpoint()

    async def keep_time(self) -> None:
        """Record that time passes: what is not recorded does not count (`clock`).

        Raises:
            StorageFull: There is no space for it.
            StoreFailed: It cannot be recorded.
        """
        await self.clock.keep(self._records)

    async def close(self) -> None:
        """Store what was taken, and let another server have the folder.

        May be called again.
        """
        await self._logs.close()
        await self._chunks.close()
        self._records.close()
        self._threads.close()
        self._syncer.close()
        self._folder.close()

    async def _start(self) -> None:
        await self._records.run(partial(prepare, folder=self._folder.path))
        await self.clock.restore(self._records)
        await self.keep_time()
        self._leftovers = await self._chunks.start() + await self._logs.start()
