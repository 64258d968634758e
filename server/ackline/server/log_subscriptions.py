"""Subscriptions to logs."""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.messages import (
    Durability,
    Resumes,
    ResumeStream,
    Start,
    SubscribeOpened,
)
from ackline.server.logfeed import LogFeed
from ackline.server.refusals import Refusal
from ackline.server.stores.errors import NotFound
from ackline.server.subscriptions import Subscription

if TYPE_CHECKING:
    from ackline.proto.stream import Stream
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import StreamRecord
    from ackline.server.stores.errors import StoreError
    from ackline.server.stores.seams import Log

__all__ = ["LogSubscription"]


class LogSubscription(Subscription):
    """A cursor on a log."""

    __slots__ = ("_feed", "_log")

    kinds = frozenset({"logs"})

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
    def durability(self) -> Durability:
        """Nobody reads of a log what is not synced."""
        return Durability.SYNCED

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

    def feed_failed(self, error: StoreError) -> None:
        """Fail: the log cannot be read, or is gone."""
        if isinstance(error, NotFound):
            self.fail_soon(Code.NOT_FOUND, "the log was deleted")
        else:
            super().feed_failed(error)

    def part(self) -> None:
        """Leave no cycle behind."""
        super().part()
        self._feed = None

    async def _open(self) -> Log:
        name = self.resource.name
        self._log = source = await self.service.logs.open(name, create=False)
        stream = self.stream
        # Thousands of subscriptions to one log share the string.
        stream.resource = intern(f"logs/{name}")
        stream.generation = source.record.generation
        stream.epoch = 1
        self._feed = LogFeed(source, self, gaps=self.tells_gaps, defines=self.blocks)
        return source
