"""The event log store: logs by name, and their retention."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ackline.server.stores import log_rows
from ackline.server.stores.entities import LogRecord
from ackline.server.stores.errors import NotFound, StoreError
from ackline.server.stores.eventlog import FileLog
from ackline.server.stores.threads import uninterrupted

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.stores.logappender import LogsShared

__all__ = ["FileLogs"]


class FileLogs:
    """Event logs in a folder and in the database."""

    def __init__(self, folder: Path, shared: LogsShared) -> None:
        self._folder = folder
        self._shared = shared
        self._logs: dict[str, FileLog] = {}
        # One opener at a time for each name; a lock nobody holds disappears.
        self._opening = WeakValueDictionary[str, asyncio.Lock]()

    async def start(self) -> int:
        """Delete the folders of logs that have no record; return how many.

        Raises:
            StoreFailed: The folder or the records cannot be read.
        """
        disk, files = self._shared.disk, self._shared.disk.files
        known = await self._shared.records.run(log_rows.known_logs)
        found = await disk.run(files.sizes, self._folder)
        leftovers = [name for name in found if name not in known]
        for name in leftovers:
            await disk.run(files.remove_directory, self._folder / name)
        return len(leftovers)

    async def close(self) -> None:
        """Store what was appended and close all logs."""
        for log in list(self._logs.values()):
            await log.close()
        self._logs.clear()

    async def open(self, name: str, *, create: bool = True) -> FileLog:
        """Return a log, ready to append and read; the same object to every caller.

        The first time in a process, and after a failure, this reads its last segment.

        Raises:
            NotFound: There is no such log, and it is not to be created.
            Corrupt: Acknowledged events cannot be read.
            StorageFull: It cannot be created.
            StoreFailed: It cannot be read, or the failure lasts.
        """
        async with self._lock(name):
            log = self._logs.get(name)
            if log is None:
                log = await uninterrupted(self._open(name, create=create))
            elif log.failure is not None:
                await log.recover()
            return log

    async def logs(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[LogRecord]:
        """Return logs by name, from the one after `after`."""
        return await self._shared.records.run(
            partial(log_rows.logs_by_prefix, prefix=prefix, after=after, limit=limit)
        )

    async def seal(self, name: str, outcome: bytes) -> bytes:
        """Let a log take no more; return the outcome that stands.

        Raises:
            NotFound: There is no such log.
            Corrupt: Acknowledged events cannot be read.
            StorageFull: The outcome could not be stored.
            StoreFailed: The same.
        """
        log = await self.open(name, create=False)
        return await log.seal(outcome)

    async def configure(
        self,
        name: str,
        *,
        retention_seconds: float | None,
        retention_bytes: int | None,
    ) -> None:
        """Set how long events are kept; create the log if need be.

        Whole segments go, so somewhat more is kept. None keeps everything.

        Raises:
            Corrupt: Acknowledged events cannot be read.
            StorageFull: It could not be recorded.
            StoreFailed: The same.
        """
        log = await self.open(name)
        await self._shared.records.run(
            partial(
                log_rows.configure_log,
                log_id=log.record.log_id,
                retention_seconds=retention_seconds,
                retention_bytes=retention_bytes,
            )
        )
        log.configure(retention_seconds, retention_bytes)

    async def trim(self) -> int:
        """Delete what retention does not keep, in all logs; return how many segments.

        Also closes files that are not in use. A log that fails is left for the next
        time.
        """
        count = 0
        retained = await self._shared.records.run(log_rows.retained_logs)
        for name in {*retained, *self._logs}:
            with suppress(StoreError):
                count += await (await self.open(name, create=False)).trim()
        return count

    async def delete(self, name: str) -> None:
        """Delete a log with its events; those who watch it are called.

        Raises:
            NotFound: There is no such log.
            StoreFailed: Its record could not be removed.
        """
        async with self._lock(name):
            await uninterrupted(self._delete(name))

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._opening.get(name)
        if lock is None:
            lock = self._opening[name] = asyncio.Lock()
        return lock

    async def _open(self, name: str, *, create: bool) -> FileLog:
        records = self._shared.records
        found = await records.run(partial(log_rows.log_by_name, name=name))
        if found is None:
            if not create:
                raise NotFound("log", name)
            found = await self._create(name)
        record, salt = found
        folder = self._folder / record.log_id
        log = FileLog(self._shared, record, salt=salt, folder=folder)
        await log.recover()
        self._logs[name] = log
        return log

    async def _create(self, name: str) -> tuple[LogRecord, int]:
        disk = self._shared.disk
        record = LogRecord(
            log_id=secrets.token_hex(16),
            name=name,
            kinds=(),
            sealed=None,
            retention_seconds=None,
            retention_bytes=None,
            created=self._shared.clock(),
        )
        salt = secrets.randbits(32)
        # The folder first: a record without a folder would be damage, a folder without
        # a record is a leftover.
        await disk.run(disk.files.make_directory, self._folder / record.log_id)
        await disk.syncer.sync(self._folder)
        await self._shared.records.run(
            partial(log_rows.add_log, record=record, salt=salt)
        )
        return record, salt

    async def _delete(self, name: str) -> None:
        disk, records = self._shared.disk, self._shared.records
        found = await records.run(partial(log_rows.log_by_name, name=name))
        if found is None:
            raise NotFound("log", name)
        log_id = found[0].log_id
        await records.run(partial(log_rows.remove_log, log_id=log_id))
        log = self._logs.pop(name, None)
        if log is not None:
            await log.close(deleted=True)
        with suppress(StoreError):  # what cannot go now goes at the next start
            await disk.run(disk.files.remove_directory, self._folder / log_id)
