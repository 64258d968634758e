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
    """Event logs in a folder and in the database.

    A log stays open while it is watched or asked for. One that was let go of is opened
    again, as another object; the old one takes no more.
    """

    def __init__(self, folder: Path, shared: LogsShared) -> None:
        self._folder = folder
        self._shared = shared
        self._logs: dict[str, FileLog] = {}
        # Opened since the last `trim`: those stay open.
        self._recent: set[str] = set()
        # Logs with retention that were let go of, and when something in them is due.
        self._due: dict[str, float] = {}
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
        logs = list(self._logs.values())
        for log in logs:
            await log.close()
        with suppress(StoreError):  # what is noted less is guarded less, no more
            await self._note(logs)
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
            log = await self._opened(name, create=create)
            self._recent.add(name)
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

        Also notes how far each is synced, closes files that are not in use, and lets go
        of logs that nobody watches and nobody opened since the last time. A log that
        fails is left for the next time.
        """
        count, now = 0, self._shared.clock()
        retained = await self._shared.records.run(log_rows.retained_logs)
        due = [name for name in retained if self._due.get(name, 0) <= now]
        for name in dict.fromkeys((*due, *self._logs)):
            with suppress(StoreError):
                async with self._lock(name):
                    log = await self._opened(name, create=False)
                count += await log.trim()
        with suppress(StoreError):
            await self._note(list(self._logs.values()))
        await self._let_go()
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

    async def _opened(self, name: str, *, create: bool) -> FileLog:
        """Return a log, opened if need be; the caller has its lock."""
        log = self._logs.get(name)
        if log is None:
            log = await uninterrupted(self._open(name, create=create))
        elif log.failure is not None:
            await log.recover()
        return log

    async def _note(self, logs: list[FileLog]) -> None:
        """Record how far logs are synced, so that what gets lost is missed."""
        ends = [log for log in logs if log.next_id > log.synced_to]
        if not ends:
            return
        rows = [(log.next_id, log.record.log_id) for log in ends]
        await self._shared.records.run(partial(log_rows.note_synced, ends=rows))
        for log, (next_id, _) in zip(ends, rows, strict=True):
            log.synced_to = next_id

    async def _let_go(self) -> None:
        """Close and forget the logs that nobody uses."""
        unused = [name for name in self._logs if name not in self._recent]
        self._recent.clear()
        for name in unused:
            async with self._lock(name):
                log = self._logs.get(name)
                if log is None or name in self._recent or log.watched:
                    continue
                with suppress(StoreError):
                    due = await log.due()
                    await log.close()
                    await self._note([log])
                    del self._logs[name]
                    if log.retained:
                        self._due[name] = due

    async def _open(self, name: str, *, create: bool) -> FileLog:
        records = self._shared.records
        found = await records.run(partial(log_rows.log_by_name, name=name))
        if found is None:
            if not create:
                raise NotFound("log", name)
            found = await self._create(name)
        record, salt, synced_to = found
        folder = self._folder / record.log_id
        log = FileLog(
            self._shared, record, salt=salt, synced_to=synced_to, folder=folder
        )
        await log.recover()
        self._logs[name] = log
        self._due.pop(name, None)
        return log

    async def _create(self, name: str) -> tuple[LogRecord, int, int]:
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
        return record, salt, 0

    async def _delete(self, name: str) -> None:
        disk, records = self._shared.disk, self._shared.records
        found = await records.run(partial(log_rows.log_by_name, name=name))
        if found is None:
            raise NotFound("log", name)
        log_id = found[0].log_id
        await records.run(partial(log_rows.remove_log, log_id=log_id))
        self._due.pop(name, None)
        log = self._logs.pop(name, None)
        if log is not None:
            await log.close(deleted=True)
        with suppress(StoreError):  # what cannot go now goes at the next start
            await disk.run(disk.files.remove_directory, self._folder / log_id)
