"""One run: a source at work, the buffer it writes into, and who reads that."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from traceback import clear_frames
from typing import TYPE_CHECKING, Protocol

from ackline.proto.errors import Code
from ackline.proto.feed import EventBuffer
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import End, Intent, OutcomeKind, Resumes, clipped
from ackline.server import outcomes
from ackline.server.emitter import Emitter, SourceError
from ackline.server.events import EVENT_COST, append_event, cost_of_room

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ackline.proto.messages import Outcome, Value
    from ackline.server.service import Service
    from ackline.server.sources import Source
    from ackline.server.stores.entities import RunRecord

__all__ = ["Cursor", "Run"]

log = logging.getLogger(__name__)

TURN = 96 * 2**10
TURN_SECONDS = 0.001
"""Bytes and `EVENT_COST`s, and time, that a generator which never waits may take before
others get a turn: 512 events of 64 bytes."""

CLOCK_EVERY = TURN // 32
"""Bytes and `EVENT_COST`s between two looks at the clock: 16 events of 64 bytes."""


class Cursor(Protocol):
    """Who reads a run.

    Attributes:
        away_since: when its connection went, for its run; None while it has one.
    """

    away_since: float | None

    @property
    def stored_position(self) -> int:
        """Everything before it is not needed any more."""
        ...


class Run:
    """A producer and its events.

    It begins with `start()` and ends by itself, by `stop()`, or when nobody consumed it
    for `run_grace` seconds. Its events stay as long as a cursor may ask for them.

    Attributes:
        run_id, generation, created: as recorded.
        buffer: its events.
        outcome: once it has ended and that is recorded.
    """

    __slots__ = (
        "_cursors",
        "_emitter",
        "_finishing",
        "_producer",
        "_room",
        "_service",
        "_timer",
        "_why",
        "buffer",
        "created",
        "generation",
        "identity",
        "outcome",
        "run_id",
        "source",
    )

    def __init__(
        self,
        service: Service,
        source: Source,
        record: RunRecord,
    ) -> None:
        options = service.options
        self.run_id = record.run_id
        self.generation = record.generation
        self.created = record.created
        self.source = source
        self.identity = record.identity
        self.buffer = EventBuffer(
            generation=record.generation,
            max_events=options.run_buffer_events,
            max_bytes=options.run_buffer_bytes,
            keep=source.resumes is Resumes.REPLAY,
            define=True,
        )
        self.outcome: Outcome | None = None
        self._service = service
        self._emitter: Emitter | None = None
        self._producer: asyncio.Future[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._why: tuple[OutcomeKind, int, str] | None = None
        # A tuple: most runs have one cursor, for which a dict takes 232 bytes.
        self._cursors: tuple[Cursor, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.outcome is None

    @property
    def state(self) -> str:
        """The name of its state, as of a stream (SPEC.md §14)."""
        if self.outcome is not None:
            return self.outcome.outcome.name
        return "STREAMING" if self.buffer.next_id else "CREATED"

    @property
    def consumers(self) -> int:
        """Cursors on a connection now."""
        return sum(cursor.away_since is None for cursor in self._cursors)

    @property
    def waiting_for_room(self) -> bool:
        """Whether it can produce no more until its consumers go on."""
        if self._emitter is not None:
            return self.active and self._emitter.full
        return self._room is not None

    # Producing

    def start(self, parameters: dict[str, Value]) -> None:
        """Begin to produce."""
        if self.source.pushes:
            self._producer = self._push(parameters)
        else:
            self._producer = asyncio.get_running_loop().create_task(
                self._produce(self.source.generate(parameters)), name=self.run_id
            )
        self._producer.add_done_callback(self._produced)
        log.info("runs/%s of %s started", self.run_id, self.source.name)
        self._watch_consumers()

    async def stop(self, kind: OutcomeKind, code: int, text: str) -> Outcome:
        """Cancel the generator, wait for it, and return the outcome that stands."""
        producer = self._producer
        if producer is None:
            assert self.outcome is not None
            return self.outcome
        if self._why is None and not producer.done():
            self._why = (kind, code, text)
            producer.cancel()
        await asyncio.wait([producer])
        if self._finishing is None:
            await asyncio.sleep(0)  # `_produced` is about to be called
        assert self._finishing is not None
        await asyncio.wait([self._finishing])
        assert self.outcome is not None
        return self.outcome

    def _produced(self, producer: asyncio.Future[None]) -> None:
        # No task waits for this: together with the producer's own, that was a fourth of
        # the memory of an idle run.
        self._finishing = self._service.tasks.spawn(
            self._finish(producer), f"runs/{self.run_id}"
        )

    async def _finish(self, producer: asyncio.Future[None]) -> None:
        """Record the outcome: only what comes before can be cancelled."""
        kind, code, text = OutcomeKind.COMPLETED, int(Code.OK), ""
        error = None if producer.cancelled() else producer.exception()
        if self._why is not None:
            kind, code, text = self._why
        elif producer.cancelled():
            kind, code, text = OutcomeKind.FAILED, Code.PRODUCER_LOST, "it was stopped"
        elif error is not None:
            kind, code = OutcomeKind.FAILED, Code.SOURCE_FAILED
            named = (
                "" if isinstance(error, SourceError) else f"{type(error).__name__}: "
            )
            text = f"{named}{error}"
        if error is not None:
            log.warning("runs/%s of %s", self.run_id, self.source.name, exc_info=error)
            # They hold the emitter, or this run, and so the error: a cycle.
            clear_frames(error.__traceback__)
        await self._ended(kind, code, text)

    def _push(self, parameters: dict[str, Value]) -> asyncio.Future[None]:
        """Hand out the emitter; return what is done when the run has ended."""
        end = asyncio.get_running_loop().create_future()
        self._emitter = Emitter(self.run_id, self.buffer, end)
        try:
            self.source.push(self._emitter, parameters)
        except Exception as error:  # noqa: BLE001 - the run fails of it
            if not end.done():
                end.set_exception(error)
        return end

    async def _produce(self, generator: AsyncGenerator[object]) -> None:
        buffer, append = self.buffer, self.buffer.tail.append
        # What is left until the next look at the clock, and of the turn after that.
        left, turn, due = 0, self._turn(), perf_counter() + TURN_SECONDS
        try:
            # 55 ns for each event of 64 bytes, beside 50 for the generator; with calls
            # of `append()` and `full` for each, it was 240.
            async for item in generator:
                if self._why is not None:  # it went on after it was cancelled
                    break
                if type(item) is bytes and (size := len(item)) <= MAX_EVENT:
                    left -= size + EVENT_COST
                    append(item)
                    if buffer.idle:
                        buffer.wake()
                else:
                    left -= append_event(buffer, item)
                if left > 0:
                    continue
                turn += left
                if turn <= 0 or perf_counter() >= due:
                    await asyncio.sleep(0)
                    if buffer.full:
                        await self._wait_for_room()
                    turn, due = self._turn(), perf_counter() + TURN_SECONDS
                left = min(turn, CLOCK_EVERY)
                turn -= left
        finally:
            await generator.aclose()

    def _turn(self) -> int:
        """Return what may be produced in one turn, in bytes and `EVENT_COST`s."""
        return min(TURN, cost_of_room(self.buffer))

    async def _wait_for_room(self) -> None:
        try:
            while self.buffer.full:
                self._room = asyncio.get_running_loop().create_future()
                self.buffer.on_room(self._has_room)
                await self._room
        finally:
            self._room = None

    def _has_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _ended(self, kind: OutcomeKind, code: int, text: str) -> None:
        outcome = outcomes.ended(kind, code, text, self.buffer.next_id)
        self.outcome = outcome = await self._service.runs.finished(self, outcome)
        log.info(
            "runs/%s of %s %s after %d events%s",
            self.run_id,
            self.source.name,
            outcome.outcome.name.lower(),
            self.buffer.next_id,
            f": {outcome.text}" if outcome.text else "",
        )
        self.buffer.finish(
            End(Intent(int(outcome.outcome)), outcome.code, clipped(outcome.text))
        )
        # How it ended has this run in its traceback: a cycle.
        self._producer = self._emitter = None
        self._watch_consumers()

    # Consumers

    def attach(self, cursor: Cursor) -> None:
        """Take note that a cursor is on a connection."""
        cursor.away_since = None
        if cursor not in self._cursors:
            self._cursors = (*self._cursors, cursor)
        # It may begin before the others: nothing from there on is let go.
        self.buffer.floor = min(self.buffer.floor, cursor.stored_position)
        self._watch_consumers()

    def detach(self, cursor: Cursor) -> None:
        """Take note that a cursor's connection is gone."""
        if cursor in self._cursors:
            cursor.away_since = self._service.now()
            self._watch_consumers()

    def leave(self, cursor: Cursor) -> None:
        """Take note that a cursor does not come back."""
        if cursor in self._cursors:
            self._cursors = tuple(each for each in self._cursors if each is not cursor)
            self.stored()
            self._watch_consumers()

    def stored(self) -> None:
        """Let go of what no blocking cursor needs; a waiting producer goes on.

        A cursor whose client is away longer than `run_grace` blocks no longer.
        """
        late = self._service.now() - self._service.options.run_grace
        positions = [
            cursor.stored_position
            for cursor in self._cursors
            if cursor.away_since is None or cursor.away_since > late
        ]
        if positions:
            self.buffer.set_floor(min(positions))

    def _watch_consumers(self) -> None:
        """Start or stop the time that the run has without a consumer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._cursors and self.consumers == len(self._cursors):
            return
        grace = self._service.options.run_grace
        if self.source.resumes is Resumes.NONE and self._cursors and not self.consumers:
            grace = 0.0
        self._timer = asyncio.get_running_loop().call_later(grace, self._unattended)

    def _unattended(self) -> None:
        self._timer = None
        if self.consumers:
            self.stored()
        elif self.active:
            self._service.tasks.spawn(self._abandon(), f"runs/{self.run_id}")
        elif not self._cursors:
            self._service.runs.discard(self)

    async def _abandon(self) -> None:
        grace = self._service.options.run_grace
        text = f"nobody consumed it for {grace:g} s"
        if self.source.resumes is Resumes.NONE:
            text = "its consumer went, and it cannot be resumed"
        await self.stop(OutcomeKind.CANCELLED, Code.NO_CONSUMER, text)
