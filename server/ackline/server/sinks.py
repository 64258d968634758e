"""Sinks: functions of the embedding program that get committed objects."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from ackline.server import outcomes

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.proto.messages import Value
    from ackline.server.stores.seams import Object

__all__ = ["CONCURRENCY", "CommittedObject", "Sink", "SinkFunction"]

CONCURRENCY = 8
"""Calls of one sink at a time: a burst of small uploads must not start thousands."""


class CommittedObject:
    """An object as its sink gets it. Sizes are bytes, times unix seconds.

    Attributes:
        object_id: never used again; the same in every call with this object.
        name, version: what it is known by.
        size: of the whole.
        crc: CRC-32C of the whole.
        algorithm, digest: of the whole, as the uploader asked for.
        metadata: as it was uploaded with.
        created: when it was committed.
        path: a file with its bytes, for reading only, or None if they are elsewhere.
        attempt: 1 for the first call of this sink with this object.
    """

    def __init__(self, stored: Object, attempt: int) -> None:
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
        self.attempt = attempt
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
        function: called with each object, in the event loop if it is async, else in a
            thread of its own.
        name: what an object that waits finds it by after a restart.
        pattern: names of objects it gets; `*` and `?` as in a shell, `/` is ordinary.
        timeout: seconds a call may take, or None for any.
        concurrency: calls at a time.
    """

    def __init__(
        self,
        function: SinkFunction,
        name: str,
        pattern: str,
        *,
        timeout: float | None = None,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self.function = function
        self.name = name
        self.patterns = [pattern]
        self.timeout = timeout
        self.concurrency = concurrency

    def takes(self, name: str) -> bool:
        """Tell whether it gets objects of this name."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    async def call(self, stored: CommittedObject) -> None:
        """Hand an object over; what the function raises is raised.

        Raises:
            TimeoutError: it took longer than it may. A thread cannot be stopped: it
                goes on, and the next call may overlap with it.
        """
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                await self._call(stored)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"it took longer than {self.timeout:g} s") from error
            raise

    async def _call(self, stored: CommittedObject) -> None:
        if inspect.iscoroutinefunction(self.function):
            await self.function(stored)
        else:
            result = await _in_thread(self.function, stored)
            if inspect.isawaitable(result):
                await result


async def _in_thread(function: SinkFunction, stored: CommittedObject) -> Any:
    """Call a function in a thread of its own.

    Not in the loop's executor: a few calls that hang would stop everything else that
    uses it, and the process could not end before them. A daemon thread it may leave.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    context = contextvars.copy_context()

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = context.run(function, stored)
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_settle, future, result, failure)

    name = f"ackline-sink {stored.name}"
    threading.Thread(target=work, name=name, daemon=True).start()
    return await future


def _settle(
    future: asyncio.Future[Any], result: object, failure: BaseException | None
) -> None:
    if future.done():  # nobody waits any more
        return
    if failure is None:
        future.set_result(result)
    elif isinstance(failure, Exception) and not isinstance(failure, StopIteration):
        future.set_exception(failure)
    else:  # what would end the event loop, or a future does not take
        future.set_exception(RuntimeError(f"the sink raised {failure!r}"))
