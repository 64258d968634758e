"""What a source that pushes is given: events come from outside, with no task for it."""

from __future__ import annotations

from asyncio import get_running_loop
from typing import TYPE_CHECKING

from ackline.proto.limits import MAX_EVENT
from ackline.server.events import EVENT_COST, append_event, cost_of_room

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

    from ackline.proto.feed import EventBuffer
    from ackline.server.events import Item

__all__ = ["BufferFull", "Emitter", "SourceError"]


class BufferFull(Exception):  # noqa: N818 - as `asyncio.QueueFull`
    """The slowest consumer is as far behind as it may be; the event was not taken."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"runs/{run_id} has no room: await ready(), or complete() or fail() it"
        )


class SourceError(Exception):
    """What a run failed of that says so by `Emitter.fail()`."""


class Emitter:
    """The producing end of one run, for code that runs elsewhere.

    A source that is a plain function gets it as its first argument when the run starts,
    and keeps it where events come from:

        @server.source("room")
        def room(emitter: Emitter, name: str) -> None:
            rooms[name].add(emitter)
            emitter.on_end(lambda: rooms[name].discard(emitter))

        def say(name: str, text: str) -> None:
            for emitter in rooms[name]:
                emitter.emit(text)

    All of it is for the event loop's thread. What is emitted after the end is dropped
    without a word: the run may have been cancelled a moment before.

    Attributes:
        run_id: `runs/ID` for clients.
    """

    __slots__ = ("_append", "_buffer", "_end", "_held", "_left", "_waiting", "run_id")

    def __init__(self, run_id: str, buffer: EventBuffer, end: Future[None]) -> None:
        self.run_id = run_id
        self._buffer = buffer
        self._append = buffer.tail.append
        self._end = end
        # What may be added before the buffer is asked again, as in `cost_of_room()`.
        self._left = 0
        self._held = False
        self._waiting: list[Future[None]] = []
        end.add_done_callback(self._go_on)

    @property
    def ended(self) -> bool:
        """Whether the run takes no more events."""
        return self._end.done()

    @property
    def full(self) -> bool:
        """Whether `emit()` has no room now."""
        return self._left <= 0 and self._room() <= 0

    def emit(self, event: Item) -> None:
        """Add an event; it leaves within this turn of the event loop or the next.

        Raises:
            BufferFull: there is no room; await `ready()`.
            TypeError: it is nothing that can be an event.
            ValueError: it is too large, or its kind cannot be one.
        """
        if self._end.done():
            return
        left = self._left
        if left <= 0 and (left := self._room()) <= 0:
            raise BufferFull(self.run_id)
        if type(event) is bytes and (size := len(event)) <= MAX_EVENT:
            self._left = left - size - EVENT_COST
            self._append(event)
            if self._buffer.idle:
                self._buffer.wake()
        else:
            self._left = left - append_event(self._buffer, event)

    async def ready(self) -> None:
        """Wait until there is room for an event, or the run has ended."""
        while not self._end.done() and self.full:
            waiting: Future[None] = get_running_loop().create_future()
            self._waiting.append(waiting)
            self._buffer.on_room(self._go_on)
            await waiting

    def complete(self) -> None:
        """End: nothing more comes. Consumers get everything up to here first."""
        if not self._end.done():
            self._end.set_result(None)

    def fail(self, text: str) -> None:
        """End as failed: consumers are told `text` after everything up to here."""
        if not self._end.done():
            self._end.set_exception(SourceError(text))

    def on_end(self, callback: Callable[[], object]) -> None:
        """Have `callback` called soon after the run has ended, whatever ended it."""
        self._end.add_done_callback(lambda _: callback())

    def hold(self, *, held: bool) -> None:
        """Have no room, or as much as there is again: for the run."""
        self._held, self._left = held, 0
        if not held:
            self._go_on()

    def _room(self) -> int:
        self._left = 0 if self._held else cost_of_room(self._buffer)
        return self._left

    def _go_on(self, _end: Future[None] | None = None) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)
