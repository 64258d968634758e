"""Subscriptions: cursors on logs and runs (SPEC.md §9, §11, §16)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.messages import (
    Durability,
    OnTrimmed,
    OutcomeKind,
    Resumes,
    ResumeStream,
    Start,
    SubscribeDetail,
    SubscribeOpened,
    open_detail,
)
from ackline.proto.notices import StoredMoved
from ackline.proto.resource import ResourceKind
from ackline.proto.server_session import resume_stream
from ackline.server import outcomes
from ackline.server.handler import Answer, Handler
from ackline.server.logfeed import LogFeed
from ackline.server.refusals import Refusal, code_of
from ackline.server.run import Run
from ackline.server.runfeed import RunFeed

if TYPE_CHECKING:
    from ackline.proto.messages import Proof
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import RunRecord, StreamRecord
    from ackline.server.stores.errors import StoreError
    from ackline.server.stores.seams import Log

__all__ = ["LogSubscription", "RunSubscription", "Subscription"]

log = logging.getLogger(__name__)


class Subscription(Handler):
    """A cursor: what logs and runs have in common."""

    durability = Durability.MEMORY

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        detail = open_detail(stream.open)
        assert isinstance(detail, SubscribeDetail)
        self.detail = detail
        self._start = 0
        self._existing = False
        if detail.policy != "block":
            raise Refusal(
                Code.UNSUPPORTED,
                f"policy {detail.policy!r} is not offered: use 'block'",
            )

    @property
    def position(self) -> int:
        """The id after the last event sent."""
        sender = self.stream.sender
        return 0 if sender is None else sender.sent_position

    @property
    def stored_position(self) -> int:
        """The id after the last event the client keeps."""
        sender = self.stream.sender
        return self._start if sender is None else sender.acknowledged_units

    @property
    def sender(self) -> EventSender:
        """The sending half."""
        assert isinstance(self.stream.sender, EventSender)
        return self.stream.sender

    @property
    @abstractmethod
    def feed(self) -> LogFeed | RunFeed:
        """Where the events come from."""

    @property
    @abstractmethod
    def opened_detail(self) -> SubscribeOpened:
        """What OPENED says of the source."""

    def answer(self) -> Answer:
        """Begin where the client asked for, if its proof holds.

        Raises:
            Refusal: that position is not there, or the client holds other events.
        """
        stream, message = self.stream, self.stream.open
        if self.recorded is not None:
            return Answer(
                existing=True,
                durability=self.durability,
                detail=SubscribeOpened(resumes=Resumes.REPLAY, first=0),
                standing=self.end_as_recorded(self.recorded),
            )
        self._make_sender()
        resumed = resume_stream(
            stream,
            ResumeStream(
                stream_id=stream.id,
                generation=self.detail.generation,
                position=self._start,
                held=0,
                held_crc=0,
                proof=self.detail.proof,
                window_units=message.window_units,
                window_bytes=message.window_bytes,
            ),
            self.service.connection_of(stream),
        )
        if resumed.code or resumed.standing is None:
            raise Refusal(Code(resumed.code), resumed.text)
        return Answer(
            existing=self._existing,
            durability=self.durability,
            detail=self.opened_detail,
            standing=resumed.standing,
        )

    def noticed(self, notice: Notice) -> None:
        """See whether the client has everything."""
        if not isinstance(notice, StoredMoved):
            return
        end = self.sender.end
        if self.sender.end_acknowledged and end is not None:
            self.decide(outcomes.ended(end.intent, end.code, end.text, self.position))

    async def settle(self, wanted: ResumeStream) -> None:
        """Nothing comes from the client that would have to be stored."""

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """End this cursor."""
        self.decide(outcomes.ended(kind, code, text, self.position))

    def close(self) -> None:
        """Leave the feed."""
        if self.stream.sender is not None:
            self.sender.close()

    def _make_sender(self) -> None:
        stream = self.stream
        stream.sender = EventSender(
            stream, self.feed, position=self._start, priority=stream.priority
        )

    def _begin_at(self, first: int, following: int) -> int:
        """Return where to begin in events from `first` to before `following`."""
        value = self.detail.value
        match self.detail.start:
            case Start.FIRST:
                return first
            case Start.LAST:
                return max(first, following - 1)
            case Start.LAST_EVENTS:
                return max(first, following - value)
            case Start.NEXT:
                return following
            case Start.ID:
                return value
            case Start.TIME:
                raise Refusal(
                    Code.UNSUPPORTED, "the events of a run have no time: use an id"
                )

    def _proof_positions(self, proof: Proof | None, position: int) -> list[int]:
        positions = [position]
        if proof is not None:
            positions += [proof.base, proof.position]
        return positions

    def _failed(self, error: StoreError) -> None:
        self.spawn(
            self.end(OutcomeKind.FAILED, code_of(error), str(error), work=False), "fail"
        )

    def _gapped(self, count: int) -> None:
        self.service.counters.gaps["trimmed"] += count


class LogSubscription(Subscription):
    """A cursor on a log."""

    kinds = frozenset({"logs"})
    durability = Durability.SYNCED

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        self._log: Log | None = None
        self._feed: LogFeed | None = None

    @property
    def feed(self) -> LogFeed:
        """The log as this cursor sees it."""
        assert self._feed is not None
        return self._feed

    @property
    def opened_detail(self) -> SubscribeOpened:
        """A log is kept."""
        assert self._log is not None
        return SubscribeOpened(resumes=Resumes.REPLAY, first=self._log.first_id)

    async def prepare(self) -> None:
        """Open the log and find where to begin.

        Raises:
            Refusal: it is another log than the client knows.
            StoreError: there is no such log, or it cannot be read.
        """
        source = await self._open()
        if self.detail.start == Start.TIME:
            self._start = await source.find_by_time(self.detail.value)
        else:
            self._start = self._begin_at(source.first_id, source.next_id)
        self._existing = self.detail.generation != 0
        self.target = f"{source.record.log_id} {self._start}"
        await self.feed.prepare(self._proof_positions(self.detail.proof, self._start))

    async def rebuild(self, record: StreamRecord) -> None:
        """Open the log again.

        Raises:
            Refusal: it was deleted and made again.
            StoreError: it was deleted, or cannot be read.
        """
        log_id, _, start = record.target.partition(" ")
        source = await self._open()
        if source.record.log_id != log_id:
            raise Refusal(Code.GENERATION_CHANGED, "the log was deleted and made again")
        self.target, self._start = record.target, int(start)
        await self.feed.prepare([self._start])
        self._make_sender()

    async def settle(self, wanted: ResumeStream) -> None:
        """Have in memory what the client's proof is compared with.

        Raises:
            StoreError: the log cannot be read.
        """
        await self.feed.prepare(self._proof_positions(wanted.proof, wanted.position))

    def close(self) -> None:
        """Leave the log."""
        super().close()
        if self._log is not None:
            self._log.unwatch(self._changed)

    async def _open(self) -> Log:
        name = self.resource.name
        self._log = source = await self.service.logs.open(name, create=False)
        stream = self.stream
        stream.resource, stream.generation = f"logs/{name}", source.record.generation
        stream.epoch = 1
        self._feed = LogFeed(
            source,
            tasks=self.service.tasks,
            gaps=self.detail.on_trimmed == OnTrimmed.GAP,
            failed=self._failed,
            gapped=self._gapped,
        )
        source.watch(self._changed)
        return source

    def _changed(self) -> None:
        if self._log is not None and self._log.deleted:
            self.spawn(
                self.end(
                    OutcomeKind.FAILED,
                    Code.NOT_FOUND,
                    "the log was deleted",
                    work=False,
                ),
                "deleted",
            )


class RunSubscription(Subscription):
    """A cursor on a run, which it may have started."""

    kinds = frozenset({"sources", "runs"})

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        self.run: Run | None = None
        self._feed: RunFeed | None = None

    @property
    def feed(self) -> RunFeed:
        """The run as this cursor sees it."""
        assert self._feed is not None
        return self._feed

    @property
    def opened_detail(self) -> SubscribeOpened:
        """As the source declares."""
        assert self.run is not None
        return SubscribeOpened(
            resumes=self.run.source.resumes, first=self.run.buffer.first_id
        )

    async def prepare(self) -> None:
        """Start a run, or join one.

        Raises:
            Refusal: there is no such source or run.
            StoreError: the run cannot be recorded.
        """
        run, self._existing = await self._find()
        if not isinstance(run, Run):
            self._ended_before(run)
            return
        self._take(run)
        self._start = self._begin_at(run.buffer.first_id, run.buffer.next_id)

    async def rebuild(self, record: StreamRecord) -> None:
        """Tell how the run ended: it died with the process.

        Raises:
            Refusal: that is forgotten.
            StoreError: the records cannot be read.
        """
        found = await self.service.runs.record(record.target)
        if found is None or found.outcome is None:
            raise Refusal(Code.NOT_FOUND, f"runs/{record.target} is forgotten")
        self._ended_before(found)
        assert self.recorded is not None
        self.end_as_recorded(self.recorded)

    def attached(self) -> None:
        """Consume the run."""
        if self.run is not None:
            self.run.attach(self)

    def detached(self) -> None:
        """Consume it no more, for the time being."""
        if self.run is not None:
            self.run.detach(self)

    def noticed(self, notice: Notice) -> None:
        """Let the run forget what the client has."""
        super().noticed(notice)
        if isinstance(notice, StoredMoved) and self.run is not None:
            self.run.stored()

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """End this cursor, after the run if that is to be stopped too."""
        if work and self.run is not None and self.run.active:
            await self.run.stop(kind, code, text)
        await super().end(kind, code, text, work=work)

    def close(self) -> None:
        """Leave the run; it goes on under the rule for runs without consumers."""
        super().close()
        if self.run is not None:
            self.run.leave(self)

    async def _find(self) -> tuple[Run | RunRecord, bool]:
        runs, message = self.service.runs, self.stream.open
        if self.resource.kind is ResourceKind.SOURCES:
            return await runs.open(
                self.session.identity,
                self.resource.name,
                message.key,
                message.parameters,
            )
        found = runs.get(self.resource.name) or await runs.record(self.resource.name)
        if found is None:
            raise Refusal(Code.NOT_FOUND, f"there is no run {self.resource.name!r}")
        return found, True

    def _take(self, run: Run) -> None:
        self.run = run
        self._identify(run)
        self._feed = RunFeed(
            run.buffer,
            gaps=self.detail.on_trimmed == OnTrimmed.GAP,
            failed=self._failed,
            gapped=self._gapped,
        )

    def _ended_before(self, record: RunRecord) -> None:
        if record.outcome is None:
            raise Refusal(Code.NOT_FOUND, f"runs/{record.run_id} is not here")
        self._identify(record)
        self.recorded = outcomes.load(record.outcome)

    def _identify(self, run: Run | RunRecord) -> None:
        self.target = run.run_id
        stream = self.stream
        stream.resource, stream.generation = f"runs/{run.run_id}", run.generation
        stream.epoch = 1
