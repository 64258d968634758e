"""Subscriptions to runs, which may start them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.messages import (
    OnTrimmed,
    OutcomeKind,
    SubscribeOpened,
)
from ackline.proto.notices import StoredMoved
from ackline.proto.resource import ResourceKind
from ackline.server import outcomes
from ackline.server.refusals import Refusal
from ackline.server.run import Run
from ackline.server.runfeed import RunFeed
from ackline.server.subscriptions import Subscription

if TYPE_CHECKING:
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import RunRecord, StreamRecord

__all__ = ["RunSubscription"]


class RunSubscription(Subscription):
    """A cursor on a run, which it may have started.

    Attributes:
        run: once it is known.
        away_since: when its connection went, for the run; None while it has one.
    """

    __slots__ = ("_feed", "away_since", "run")

    kinds = frozenset({"sources", "runs"})

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        self.run: Run | None = None
        self._feed: RunFeed | None = None
        self.away_since: float | None = None

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
        """End this cursor, after the run if that is to be stopped too.

        Then with the run's own outcome: it may have ended by itself before.
        """
        if work and self.run is not None:
            stands = self.run.outcome
            if stands is None:
                stands = await self.run.stop(kind, code, text)
            kind, code, text = stands.outcome, stands.code, stands.text
        await super().end(kind, code, text, work=work)

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
        found = runs.get(self.resource.name) or await runs.record(self.resource.name)
        if found is None:
            raise Refusal(Code.NOT_FOUND, f"there is no run {self.resource.name!r}")
        return found, True

    def _take(self, run: Run) -> None:
        self.run = run
        self._identify(run)
        self._feed = RunFeed(
            run.buffer, self, gaps=self.detail.on_trimmed == OnTrimmed.GAP
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
