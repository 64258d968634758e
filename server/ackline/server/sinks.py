"""Sinks: functions of the embedding program that get committed objects."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from ackline.server import outcomes
from ackline.server.stores.errors import NotFound, StoreError
from ackline.server.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ackline.proto.messages import Value
    from ackline.server.service import Service
    from ackline.server.stores.entities import ObjectRecord
    from ackline.server.stores.seams import Object

__all__ = ["CommittedObject", "Sink", "SinkFunction", "Sinks"]

log = logging.getLogger(__name__)

FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0
"""Seconds before a sink that raised is called again; doubled each time."""

AT_ONCE = 8
"""Calls of sinks at a time: a burst of small uploads must not start thousands."""


class CommittedObject:
    """An object as its sink gets it. Sizes are bytes, times unix seconds.

    Attributes:
        object_id: never used again.
        name, version: what it is known by.
        size: of the whole.
        crc: CRC-32C of the whole.
        algorithm, digest: of the whole, as the uploader asked for.
        metadata: as it was uploaded with.
        created: when it was committed.
        path: a file with its bytes, for reading only, or None if they are elsewhere.
    """

    def __init__(self, stored: Object) -> None:
        record = stored.record
        self.object_id = record.object_id
        self.name = record.name
        self.version = record.version
        self.size = record.size
        self.crc = record.crc32c
        self.algorithm = record.digest_algorithm
        self.digest = record.digest
        self.metadata: dict[str, Value] = outcomes.metadata_of(record.metadata)
        self.created = record.created
        self.path: Path | None = stored.path
        self._stored = stored

    async def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset`, or fewer at the end; None is all."""
        rest = max(0, self.size - offset)
        buffer = bytearray(rest if size is None else min(size, rest))
        count = await self._stored.read(offset, buffer)
        return bytes(buffer[:count])


SinkFunction: TypeAlias = Callable[[CommittedObject], Awaitable[Any] | Any]


class Sink:
    """A registered sink.

    Args:
        pattern: names of objects it gets; `*` and `?` as in a shell, `/` is ordinary.
        function: called with each, in the event loop if it is async, else in a thread.
    """

    def __init__(self, pattern: str, function: SinkFunction) -> None:
        self.pattern = pattern
        self._function = function

    def takes(self, name: str) -> bool:
        """Tell whether it gets objects of this name."""
        return fnmatchcase(name, self.pattern)

    async def call(self, stored: CommittedObject) -> None:
        """Hand an object over; what the function raises is raised."""
        if inspect.iscoroutinefunction(self._function):
            await self._function(stored)
        else:
            result = await asyncio.to_thread(self._function, stored)
            if inspect.isawaitable(result):
                await result


class Sinks:
    """Hands each committed object to its sinks, at least once across crashes.

    The object's record says that it is pending until all its sinks have taken it.
    """

    def __init__(self, service: Service, sinks: Sequence[Sink]) -> None:
        self._service = service
        self._sinks = list(sinks)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._pending: dict[str, str] = {}
        self._tasks = Tasks()

    def wants(self, name: str) -> bool:
        """Tell whether some sink gets objects of this name."""
        return any(sink.takes(name) for sink in self._sinks)

    def pending(self, name: str) -> bool:
        """Tell whether an object of this name waits for its sink."""
        return name in self._pending.values()

    async def start(self) -> None:
        """Call the sinks again that had not finished when the last process died.

        Raises:
            StoreError: the records cannot be read.
        """
        for record in await self._service.chunks.pending_sinks():
            self.committed(record)

    def committed(self, record: ObjectRecord) -> None:
        """Take note of a committed object."""
        if self.wants(record.name) and record.object_id not in self._pending:
            self._pending[record.object_id] = record.name
            self._tasks.spawn(
                self._deliver(record), f"sink of objects/{record.object_id}"
            )

    async def stop(self) -> None:
        """Cancel what runs: it is called again at the next start."""
        await self._tasks.close(0)

    async def _deliver(self, record: ObjectRecord) -> None:
        delay = FIRST_RETRY
        try:
            while not await self._try(record):
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY)
        finally:
            del self._pending[record.object_id]

    async def _try(self, record: ObjectRecord) -> bool:
        """Call the sinks; tell whether that is over."""
        chunks = self._service.chunks
        try:
            async with self._places:
                await self._call_all(record)
            await chunks.sink_done(record.object_id)
        except NotFound:
            log.info("objects/%s is gone before its sink took it", record.object_id)
        except Exception as error:
            log.warning(
                "the sink of objects/%s (%s) failed; it is called again",
                record.object_id,
                record.name,
                exc_info=error,
            )
            await self._note(record.object_id, f"{type(error).__name__}: {error}")
            return False
        return True

    async def _call_all(self, record: ObjectRecord) -> None:
        stored = await self._service.chunks.open(record.object_id)
        try:
            for sink in self._sinks:
                if sink.takes(record.name):
                    await sink.call(CommittedObject(stored))
        finally:
            await stored.close()

    async def _note(self, object_id: str, text: str) -> None:
        try:
            await self._service.chunks.sink_failed(object_id, text)
        except StoreError as error:
            log.warning("objects/%s: %s", object_id, error)
