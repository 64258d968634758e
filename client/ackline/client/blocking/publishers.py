"""A publisher, for programs without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Self

from ackline.client.blocking.streams import Stream
from ackline.client.publishers import Publisher as AsyncPublisher
from ackline.proto.errors import AcklineError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from ackline.client.blocking.portal import Portal
    from ackline.proto.messages import Outcome

__all__ = ["Publisher"]

MAX_HANDED = 1024
"""Events handed to the loop's thread before somebody waits for it. One by one the way
there and back takes 60 us; more than these together bring no more."""

MAX_HANDED_BYTES = 2**20


class Publisher(Stream[AsyncPublisher]):
    """Writes events to a log: `ackline.client.Publisher` that waits.

    Several threads may send; each one's events stay in order.
    """

    def __init__(self, portal: Portal, publisher: AsyncPublisher) -> None:
        super().__init__(portal, publisher)
        # The sending threads append, the loop takes.
        self._handed: deque[tuple[bytes, str]] = deque()
        self._told = False
        self._taker: asyncio.Task[None] | None = None
        self._failure: AcklineError | None = None
        # What is handed over keeps the order of the unit numbers.
        self._lock = threading.Lock()
        self._position = 0
        self._events = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        self.portal.call(self.stream.__aenter__())
        self._position = self.stream.first_unit
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.portal.usable or kind is None:
            self.portal.call(self._leave(kind, error, traceback))

    def send(self, data: bytes | str, kind: str = "") -> int:
        """Add one event and return its unit number.

        Returns as soon as the event is on its way to the replay buffer, and waits while
        that is full. `flush()` tells that it is stored.

        Args:
            data: its body; a str is sent as UTF-8.
            kind: one of `kinds`, or "" for none.

        Raises:
            UsageError: the event is too large or the kind was not announced.
            AcklineError: the stream or the client has ended.
        """
        body = data.encode() if isinstance(data, str) else data
        self.stream.check_event(body, kind)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._events >= MAX_HANDED or self._bytes >= MAX_HANDED_BYTES:
                self.portal.call(self._taken())
                self._events = self._bytes = 0
            self._events += 1
            self._bytes += len(body)
            self._handed.append((body, kind))
            unit, self._position = self._position, self._position + 1
            if not self._told:
                self._told = True
                self.portal.soon(self._take_soon)
        return unit

    def send_many(self, events: Iterable[bytes | str], kind: str = "") -> int:
        """Add events and return the number of the next unit; see `send()`."""
        for data in events:
            self.send(data, kind)
        return self.position

    def flush(self) -> int:
        """Wait until everything sent is acknowledged; return `log_position`.

        Raises:
            AcklineError: the stream or the client has ended before that.
        """

        async def flush() -> int:
            await self._taken()
            return await self.stream.flush()

        return self.portal.call(flush())

    def finish(self) -> Outcome:
        """Send END and return the outcome; nothing can be sent after it."""

        async def finish() -> Outcome:
            await self._taken()
            return await self.stream.finish()

        return self.portal.call(finish())

    @property
    def first_unit(self) -> int:
        """Where a publisher with this key continues."""
        return self.stream.first_unit

    @property
    def position(self) -> int:
        """The unit number of the next event."""
        return self._position

    @property
    def acknowledged(self) -> int:
        """The number of the first unit that is not stored by the server."""
        return self.stream.acknowledged

    @property
    def log_position(self) -> int:
        """The id in the log after the newest acknowledged event."""
        return self.stream.log_position

    # In the loop

    def _take_soon(self) -> None:
        # Before looking: what is handed over later is told again.
        self._told = False
        if self._taker is None or self._taker.done():
            self._taker = asyncio.get_running_loop().create_task(self._take())

    async def _take(self) -> None:
        handed, send = self._handed, self.stream.send
        try:
            while handed:
                await send(*handed.popleft())
        except AcklineError as error:
            self._failure = error
            handed.clear()

    async def _taken(self) -> None:
        """Wait until everything handed over is in the replay buffer."""
        self._take_soon()
        assert self._taker is not None
        await asyncio.wait([self._taker])
        if self._failure is not None:
            raise self._failure

    async def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._taken()
        except BaseException as raised:
            kind, error = type(raised), raised
            raise
        finally:
            if self._taker is not None:
                self._taker.cancel()
            await self.stream.__aexit__(kind, error, traceback)
