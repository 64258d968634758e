"""Subscriptions to runs, which may start them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import (
    Durability,
    End,
    Intent,
    OutcomeKind,
    Resumes,
    Start,
    SubscribeOpened,
)
from ackline.proto.notices import StoredMoved
from ackline.proto.resource import ResourceKind
from ackline.proto.runfeed import RunFeed
from ackline.server import outcomes
from ackline.server.logfeed import LogFeed
from ackline.server.permissions import check_run
from ackline.server.refusals import Refusal
from ackline.server.run import Run
from ackline.server.stores.errors import PositionTrimmed
from ackline.server.subscriptions import Subscription

if TYPE_CHECKING:
    from ackline.proto.messages import Outcome, ResumeStream
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import RunRecord, StreamRecord

__all__ = ["RunSubscription"]


class RunSubscription(Subscription):
    """A cursor on a run, which it may have started.

    It reads the run's buffer, or the log of a durable one, which outlives the run.

    Attributes:
        run: while it is in memory.
        away_since: when its connection went, for the run; None while it has one.
    """

    __slots__ = ("_feed", "away_since", "run")

    kinds = frozenset({"sources", "runs"})

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        self.run: Run | None = None
        self._feed: RunFeed | LogFeed | None = None
        self.away_since: float | None = None

    @property
    def name(self) -> str:
        """The run's source, as long as the run is in memory."""
        return super().name if self.run is None else f"sources/{self.run.source.name}"

    def permitted(self, who: Identity) -> bool:
        """Tell so of the source or the run; what has ended may be read to its end."""
        may = super().permitted(who) or who.may("subscribe", self.stream.resource)
        return may or self.run is None

    async def may_end_work(self) -> bool:
        """Tell whether it is the client's own run, or it may cancel those of others."""
        who = self.session.known
        if self.run is None or who.may("cancel", f"runs/{self.run.run_id}"):
            return True
        record = await self.service.runs.record(self.run.run_id)
        return record is not None and record.identity == who.name

    @property
    def feed(self) -> RunFeed | LogFeed:
        """The run as this cursor sees it."""
        assert self._feed is not None
        return self._feed

    @property
    def durability(self) -> Durability:
        """In memory, or synced in the run's log."""
        synced = isinstance(self._feed, LogFeed)
        return Durability.SYNCED if synced else Durability.MEMORY

    @property
    def opened_detail(self) -> SubscribeOpened:
        """As the source declares; and whom it waits for, is told how soon."""
        run, first = self.run, self._first_id
        if run is None:
            return SubscribeOpened(resumes=Resumes.REPLAY, first=first)
        options = self.service.options
        return SubscribeOpened(
            resumes=run.source.resumes,
            first=first,
            ahead_units=options.run_buffer_events * self.blocks,
            ahead_bytes=options.run_buffer_bytes * self.blocks,
        )

    @property
    def _first_id(self) -> int:
        """The oldest event that is kept, also where older ones are told as a gap."""
        if isinstance(self._feed, LogFeed):
            return self._feed.oldest_id
        return self.feed.next_id if self.run is None else self.run.first_id

    async def prepare(self) -> None:
        """Start a run, or join one.

        Raises:
            Refusal: there is no such source or run.
            StoreError: the run cannot be recorded, or its log not be read.
        """
        found, self._existing = await self._find()
        await self._take(found)
        if self.recorded is not None:
            return
        start = self._start = self._begin_at(self._first_id, self.feed.next_id)
        self.target = f"{self.target} {start}"
        if self.run is not None:
            # Not only when OPENED is sent: what it begins with would be gone by then,
            # if nobody else holds the producer back.
            self.run.attach(self)
        await self._have(start, self._proof_positions(self.detail.proof, start))

    async def rebuild(self, record: StreamRecord) -> None:
        """Join the run again, or its log, or tell how it ended.

        Raises:
            Refusal: that is forgotten.
            StoreError: the records cannot be read.
        """
        run_id, _, start = record.target.partition(" ")
        runs = self.service.runs
        found = runs.get(run_id) or await runs.record(run_id)
        if found is None:
            raise Refusal(Code.NOT_FOUND, f"runs/{run_id} is forgotten")
        await self._take(found, resuming=True)
        self.target, self._start = record.target, int(start)
        if self.recorded is not None:
            self.end_as_recorded(self.recorded)
            return
        if isinstance(self._feed, LogFeed):
            await self._feed.prepare([self._start])
        self._make_sender()

    def attached(self) -> None:
        """Consume the run."""
        if self.run is not None:
            self.run.attach(self)

    def detached(self) -> None:
        """Consume it no more, for the time being."""
        if self.run is not None:
            self.run.detach(self)

    async def settle(self, wanted: ResumeStream) -> None:
        """Have the events and sums that the client's position needs.

        Raises:
            StoreError: the log cannot be read.
        """
        await self._have(
            wanted.position, self._proof_positions(wanted.proof, wanted.position)
        )

    def noticed(self, notice: Notice) -> None:
        """Let the run forget what the client has."""
        super().noticed(notice)
        if isinstance(notice, StoredMoved) and self.run is not None:
            self.run.stored()

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """End this cursor, after the run if that is to be stopped too.

        Then with the run's own outcome: it may have ended by itself before.
        """
        if work and self.run is not None:
            stands = self.run.outcome
            if stands is None:
                stands = await self.run.stop(kind, code, text)
            kind, code, text = stands.outcome, stands.code, stands.text
        await super().end(kind, code, text, work=work)

    def trimmed(self, position: int, first_id: int) -> None:
        """Fail: what was to be sent next is gone."""
        name = "of the run"
        self.feed_failed(PositionTrimmed(name, position=position, first_id=first_id))

    def close(self) -> None:
        """Leave the run; it goes on under the rule for runs without consumers."""
        super().close()
        if self.run is not None:
            self.run.leave(self)

    def part(self) -> None:
        """Leave no cycle behind."""
        super().part()
        self._feed = None

    async def _find(self) -> tuple[Run | RunRecord, bool]:
        runs, message = self.service.runs, self.stream.open
        if self.resource.kind is ResourceKind.SOURCES:
            return await runs.open(
                self.session.identity,
                self.resource.name,
                message.key,
                message.parameters,
            )
        record = await runs.record(self.resource.name)
        if record is None:
            raise Refusal(Code.NOT_FOUND, f"there is no {self.resource}")
        check_run(self.session.known, record)
        return runs.get(record.run_id) or record, True

    async def _take(self, run: Run | RunRecord, *, resuming: bool = False) -> None:
        """Read a run, the log of one that has ended, or only how it ended."""
        self.target = run.run_id
        stream = self.stream
        stream.resource, stream.generation = f"runs/{run.run_id}", run.generation
        stream.epoch = 1
        gaps, defines = self.tells_gaps, self.blocks
        if isinstance(run, Run):
            self.run = run
            if run.run_log is None:
                self._feed = RunFeed(run.buffer, self, gaps=gaps)
            else:
                self._feed = LogFeed(run.run_log.log, self, gaps=gaps, defines=defines)
        elif run.outcome is None:
            raise Refusal(Code.NOT_FOUND, f"runs/{run.run_id} is not here")
        elif run.durable:
            source = await self.service.runs.log_of(run)
            self._feed = LogFeed(source, self, gaps=gaps, defines=defines)
        else:
            self._take_outcome(run, outcomes.load(run.outcome), resuming=resuming)

    def _take_outcome(
        self, run: RunRecord, outcome: Outcome, *, resuming: bool
    ) -> None:
        """Tell how a run ended whose events are in memory no more.

        Who has read a part of it is sent the end after that part, which is not there:
        the outcome alone would look as if nothing were missing.
        """
        in_part = resuming or self.detail.start is Start.ID
        if outcome.outcome is not OutcomeKind.COMPLETED or not in_part:
            self.recorded = outcome
            return
        spent = EventBuffer(
            generation=run.generation, max_events=1, max_bytes=1, start=outcome.position
        )
        spent.finish(End(Intent.COMPLETED, outcome.code, outcome.text))
        self._feed = RunFeed(spent, self, gaps=self.tells_gaps)

    async def _have(self, position: int, proven: list[int]) -> None:
        """Have in memory what is sent and compared from `position` on."""
        if isinstance(self._feed, LogFeed):
            await self._feed.prepare(proven)
        elif self.run is not None and self.run.source.recomputes:
            if not self.blocks:  # what is gone is a gap, and nobody has to wait for it
                position = max(position, self.run.first_id)
            await self.run.compute_from(position)
            if self._feed is not None:
                self._feed.reached = position
