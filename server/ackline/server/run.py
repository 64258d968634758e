"""One run: a source at work, the buffer it writes into, and who reads that."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from traceback import clear_frames
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.feed import EventBuffer
from ackline.proto.kinds import KindTable
from ackline.proto.messages import End, Intent, OutcomeKind, Resumes, clipped
from ackline.server import outcomes
from ackline.server.about import about_run
from ackline.server.attendance import Attended
from ackline.server.emitter import Emitter, SourceError
from ackline.server.generators import produce, while_attended
from ackline.server.refusals import code_of
from ackline.server.stores.errors import StoreError

if TYPE_CHECKING:
    from ackline.proto.messages import Outcome, Value
    from ackline.server.about import About
    from ackline.server.attendance import Cursor
    from ackline.server.options import Options
    from ackline.server.runlog import RunLog
    from ackline.server.service import Service
    from ackline.server.sources import Source
    from ackline.server.stores.entities import RunRecord

__all__ = ["Run"]

log = logging.getLogger(__name__)

FIRST_SECONDS = 10.0
"""Least time for who began a run to be its first consumer, however short its grace."""


class Run(Attended):
    """A producer and its events.

    It begins with `start()` and ends by itself, by `stop()`, or when nobody consumed it
    for the grace time of its source. One that is computed again may `wait()` for a
    consumer to say from where, and goes on in the next process after `suspend()`.

    Args:
        service: what everything shares.
        source: what produces.
        record: of this run.
        run_log: where the events go, if the run is durable.

    Attributes:
        run_id, generation, created: as recorded.
        buffer: its events; of a durable run those that are not in its log yet, and
            those that a consumer has not got from there.
        run_log: of a durable run.
        outcome: once it has ended and that is recorded.
        why: how it is being stopped from outside, or None.
    """

    __slots__ = (
        "_emitter",
        "_finishing",
        "_gate",
        "_parameters",
        "_pauses",
        "_producer",
        "_service",
        "_writing",
        "buffer",
        "created",
        "generation",
        "identity",
        "outcome",
        "run_id",
        "run_log",
        "source",
        "why",
    )

    def __init__(
        self,
        service: Service,
        source: Source,
        record: RunRecord,
        run_log: RunLog | None = None,
    ) -> None:
        options = service.options
        self._pauses, grace = source.without_consumer(options)
        # Until the first consumer is there: see `attended()`.
        super().__init__(
            grace=max(grace, options.run_grace, FIRST_SECONDS), hold=math.inf
        )
        self.run_id = record.run_id
        self.generation = record.generation
        self.created = record.created
        self.source = source
        self.identity = record.identity
        self.run_log = run_log
        self.buffer = _buffer(options, source, record, run_log)
        self.outcome: Outcome | None = None
        self._service = service
        self._emitter: Emitter | None = None
        # Kept only where they may be needed again.
        self._parameters: dict[str, Value] | None = None
        self._producer: asyncio.Future[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self.why: tuple[OutcomeKind, int, str] | None = None
        self._gate: asyncio.Future[None] | None = None

    @property
    def label(self) -> About:
        """Its stable name, for logs."""
        return about_run(self.run_id, self.source.name, self.identity)

    def note(self, text: str) -> None:
        """Add to its history; see `Histories.note`."""
        self._service.histories.note(
            f"runs/{self.run_id}", text, lasting=self.run_log is not None
        )

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.outcome is None

    @property
    def state(self) -> str:
        """The name of its state, as of a stream (SPEC.md §14)."""
        if self.outcome is not None:
            return self.outcome.outcome.name
        if self._paused or self._producer is None:
            return "PAUSED"
        return "STREAMING" if self.buffer.next_id else "CREATED"

    @property
    def waiting_for_room(self) -> bool:
        """Whether it can produce no more until its consumers go on."""
        if self._emitter is not None:
            return self.active and self._emitter.full
        return self.active and self._producer is not None and self.buffer.full

    @property
    def slowest(self) -> Cursor | None:
        """The consumer that it waits for, if it does."""
        return self.slowest_of(self.buffer.first_id)

    @property
    def first_id(self) -> int:
        """The oldest event that is kept."""
        if self.run_log is None:
            return self.buffer.first_id
        return self.run_log.log.first_id

    @property
    def next_id(self) -> int:
        """The id after the newest event that consumers may see."""
        return self.buffer.next_id if self.run_log is None else self.run_log.synced

    @property
    def size(self) -> int:
        """Bytes that its events take, in memory or in its log."""
        if self.run_log is None:
            return self.buffer.retained_bytes
        return self.run_log.log.size

    # Producing

    def start(self, parameters: dict[str, Value]) -> None:
        """Begin to produce."""
        if self.run_log is not None:
            self._writing = asyncio.get_running_loop().create_task(
                self.run_log.write(self.buffer, self.stored), name=f"{self.run_id}: log"
            )
            self._writing.add_done_callback(self._written)
        self.wait(parameters)
        self._begin(parameters)
        log.info("%s started", self.label)
        self.note(f"started for {self.identity}")

    def wait(self, parameters: dict[str, Value]) -> None:
        """Wait for `compute_from()`, if nobody needs the run's source to begin now."""
        if self.source.recomputes:
            self._parameters = parameters
        self.watch_consumers()

    async def compute_from(self, position: int) -> None:
        """Have the events from `position` on, computed again if they are not kept.

        Consumers that are further on wait until the run is there again; also of one
        that is complete, for who comes back only then. It does nothing where the source
        cannot do this, or its log has all there is.
        """
        if not self.source.recomputes or self.run_log is not None:
            return
        async with self._turning():
            parameters, producer = self._parameters, self._producer
            if producer is not None and producer.done():
                await self._finished()
                producer = None
            if parameters is None or self.why is not None:
                return
            known = self.outcome is not None or producer is not None
            if known and position >= self.buffer.first_id:
                return
            if producer is not None:
                await self._cancel(producer)
            if self.outcome is not None:
                if self.outcome.outcome is not OutcomeKind.COMPLETED:
                    return
                # The outcome stays on record, and is the one that this ends with again.
                self.outcome = self._finishing = self.buffer.end = None
                self.attended(there=True)
            self.buffer.restart(position)
            self._begin(parameters)
            log.info("%s is computed from %d on", self.label, position)

    async def stop(self, kind: OutcomeKind, code: int, text: str) -> Outcome:
        """Cancel the generator, wait for it, and return the outcome that stands."""
        async with self._turning():
            if self.outcome is not None:
                return self.outcome
            producer = self._producer
            if producer is None:
                self.why = (kind, code, text)
            else:
                if not producer.done():
                    self.why = self.why or (kind, code, text)
                    producer.cancel()
                await asyncio.wait([producer])
            await self._finished()
            assert self.outcome is not None
            return self.outcome

    async def _finished(self) -> None:
        """Wait for the outcome; the producer has ended."""
        self._end(self._producer)
        assert self._finishing is not None
        await asyncio.wait([self._finishing])

    async def suspend(self) -> None:
        """Stop without an outcome: another process goes on from what is kept."""
        async with self._turning():
            producer = self._producer
            if producer is not None and not producer.done():
                await self._cancel(producer)
            elif producer is not None:
                self._end(producer)
            if self._finishing is not None:
                await asyncio.wait([self._finishing])
            else:
                await self._all_written()

    def give_up(self) -> None:
        """Wait no longer for a producer that does not stop: the process ends."""
        if self._producer is not None:
            self._producer.remove_done_callback(self._produced)
        if self._writing is not None:
            self._writing.cancel()

    def _turning(self) -> asyncio.Lock:
        """Return what whoever stops or restarts the producer holds."""
        return self._service.lock(f"producer of {self.run_id}")

    def _begin(self, parameters: dict[str, Value]) -> None:
        """Start the producer where the buffer ends."""
        start = self.buffer.next_id
        if self.source.pushes:
            self._producer = self._push(parameters, start)
        else:
            generator = self.source.generate(parameters, start)
            if self._pauses:
                generator = while_attended(self, generator)
            self._producer = asyncio.get_running_loop().create_task(
                produce(self, generator), name=self.run_id
            )
        self._producer.add_done_callback(self._produced)

    async def _cancel(self, producer: asyncio.Future[None]) -> None:
        """Stop the producer; its end is not the run's."""
        producer.remove_done_callback(self._produced)
        producer.cancel()
        await asyncio.wait([producer])
        if not producer.cancelled() and producer.exception() is not None:
            log.warning("%s", self.label, exc_info=producer.exception())
        self._producer = self._emitter = None

    def _produced(self, producer: asyncio.Future[None]) -> None:
        # No task waits for this: together with the producer's own, that was a fourth of
        # the memory of an idle run.
        self._service.tasks.soon(partial(self._end, producer))

    def _end(self, producer: asyncio.Future[None] | None) -> None:
        """Begin to record the outcome, if that has not begun."""
        if self._finishing is None and producer is self._producer:
            self._finishing = self._service.tasks.spawn(
                self._finish(producer), f"runs/{self.run_id}"
            )

    def _written(self, writing: asyncio.Task[None]) -> None:
        """See whether the log can take no more."""
        error = None if writing.cancelled() else writing.exception()
        if error is not None and self.active:
            self._service.tasks.spawn(
                self._fail(*_failure(error)), f"runs/{self.run_id}"
            )

    async def _fail(self, code: int, text: str) -> None:
        await self.stop(OutcomeKind.FAILED, code, text)

    async def _finish(self, producer: asyncio.Future[None] | None) -> None:
        """Record the outcome: only what comes before can be cancelled."""
        kind, code, text = OutcomeKind.COMPLETED, int(Code.OK), ""
        cancelled = producer is None or producer.cancelled()
        error = None if producer is None or cancelled else producer.exception()
        if self.why is not None:
            kind, code, text = self.why
        elif cancelled:
            kind, code, text = OutcomeKind.FAILED, Code.PRODUCER_LOST, "it was stopped"
        elif error is not None:
            kind, code = OutcomeKind.FAILED, Code.SOURCE_FAILED
            text = str(error)
            if not isinstance(error, SourceError):
                text = f"{type(error).__name__}: {error}"
        if error is not None:
            # A SourceError says all there is: an exit status, a file that is none.
            told = None if isinstance(error, SourceError) else error
            log.warning("%s: %s", self.label, error, exc_info=told)
            # They hold the emitter, or this run, and so the error: a cycle.
            clear_frames(error.__traceback__)
        lost = await self._all_written()
        if lost is not None:
            kind, (code, text) = OutcomeKind.FAILED, _failure(lost)
        await self._ended(kind, code, text)

    async def _all_written(self) -> BaseException | None:
        """Wait until all is in the log; return why that will never be, or None."""
        writing = self._writing
        if writing is None or self.run_log is None:
            return None
        self.run_log.close()
        await asyncio.wait([writing])
        self.run_log.release()
        return None if writing.cancelled() else writing.exception()

    def _push(self, parameters: dict[str, Value], start: int) -> asyncio.Future[None]:
        """Hand out the emitter; return what is done when the run has ended."""
        end = asyncio.get_running_loop().create_future()
        self._emitter = Emitter(self.run_id, self.buffer, end)
        if self._paused:
            self._emitter.hold(held=True)
        try:
            self.source.push(self._emitter, parameters, start)
        except Exception as error:  # noqa: BLE001 - the run fails of it
            if not end.done():
                end.set_exception(error)
        return end

    @property
    def _paused(self) -> bool:
        return self._pauses and self._alone_since is not None

    async def attendance(self) -> None:
        """Wait while it is paused."""
        while self._paused:
            self._gate = asyncio.get_running_loop().create_future()
            await self._gate

    async def _ended(self, kind: OutcomeKind, code: int, text: str) -> None:
        outcome = outcomes.ended(kind, code, text, self.next_id)
        self.outcome = outcome = await self._service.runs.finished(self, outcome)
        told = f"{outcome.outcome.name.lower()} after {outcome.position} events"
        if outcome.text:
            told += f": {outcome.text}"
        log.info("%s %s", self.label, told)
        self.note(told)
        self.buffer.finish(
            End(Intent(int(outcome.outcome)), outcome.code, clipped(outcome.text))
        )
        # How it ended has this run in its traceback: a cycle.
        self._producer = self._emitter = self._writing = None
        self._grace, self._alone_since = self._service.options.run_retention, None
        self._service.runs.ended(self)
        self.watch_consumers()

    # Consumers

    def stored(self) -> None:
        """Let go of what no blocking cursor needs; a waiting producer goes on."""
        buffer = self.buffer
        floor = self.needed_from(buffer.first_id, buffer.floor)
        if self.run_log is not None:
            floor = min(floor, self.run_log.synced)
        if floor < buffer.floor:
            buffer.floor = floor
        else:
            buffer.set_floor(floor)

    def attended(self, *, there: bool) -> None:
        """Pause or go on, if the source wants that."""
        if there and self.active:
            options = self._service.options
            _pauses, self._grace = self.source.without_consumer(options)
            never = self._grace == math.inf
            self._hold = options.run_grace if never else self._grace
        if self._pauses and self._emitter is not None:
            self._emitter.hold(held=not there)
        if self._gate is not None and not self._gate.done():
            self._gate.set_result(None)

    def deserted(self) -> None:
        """Cancel it; let go of it if it has ended."""
        if self.active:
            self._service.tasks.spawn(self._abandon(), f"runs/{self.run_id}")
        elif not self.cursors:
            self._service.runs.discard(self)

    async def _abandon(self) -> None:
        text = f"nobody consumed it for {self._grace:g} s"
        if self.source.resumes is Resumes.NONE:
            text = "its consumer went, and it cannot be resumed"
        elif not self._grace:
            text = "its last consumer went"
        await self.stop(OutcomeKind.CANCELLED, Code.NO_CONSUMER, text)


def _buffer(
    options: Options, source: Source, record: RunRecord, run_log: RunLog | None
) -> EventBuffer:
    if run_log is None:
        return EventBuffer(
            generation=record.generation,
            max_events=options.run_buffer_events,
            max_bytes=options.run_buffer_bytes,
            keep=source.resumes is not Resumes.NONE,
            kinds=source.kinds(),
            define=True,
        )
    stored = run_log.log
    names = stored.record.kinds
    return EventBuffer(
        generation=record.generation,
        max_events=options.run_buffer_events,
        max_bytes=options.run_buffer_bytes,
        start=stored.next_id,
        sums=stored.sums,
        kinds=KindTable(names) if names else source.kinds(),
    )


def _failure(error: BaseException) -> tuple[int, str]:
    """Return the code and text of why a log takes no more."""
    if isinstance(error, StoreError):
        return code_of(error), str(error)
    return Code.INTERNAL_ERROR, "a defect of the server; see its log"
