"""What the server does for one stream: what all four uses have in common.

A handler lives as long as its stream: from OPEN until the stream is released or its
session ends, through any number of connections. In this order it is

1. prepared: `prepare()` looks up or makes what the stream is about, and may refuse;
2. answered: `answer()` sets up the stream's half and says what OPENED states;
3. told what happens, by `notify()`;
4. settled at every resume: `settle()` returns when all that was accepted is stored;
5. ended: `end()` stops the work, `decide()` records the outcome;
6. let go: `release()`.

After a restart of the server `rebuild()` takes the place of the first two.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ackline.proto.errors import Code, ProtocolViolation, code_name
from ackline.proto.limits import MAX_KEY
from ackline.proto.messages import OutcomeKind, Scope
from ackline.proto.notices import (
    BatchReceived,
    CancelReceived,
    ChunkReceived,
    PeerPaused,
    ReleaseReceived,
    StoredMoved,
    StreamBroken,
)
from ackline.proto.resource import parse_resource
from ackline.proto.scheduler import LOWEST_PRIORITY
from ackline.server import outcomes
from ackline.server.about import About
from ackline.server.refusals import Refusal, refusal_of
from ackline.server.tracing import StreamTrace, trace_id_of

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from ackline.proto.messages import (
        Durability,
        OpenedDetail,
        Outcome,
        ResumeStream,
        Standing,
    )
    from ackline.proto.notices import Notice
    from ackline.proto.receiver import Receiver
    from ackline.proto.resource import Resource
    from ackline.proto.sender import Sender
    from ackline.proto.stream import Stream
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import StreamRecord

__all__ = ["Answer", "Handler"]

log = logging.getLogger(__name__)

STOPPING_SECONDS = 1.0
"""After this a client that cancelled is told that user code is still stopping (§14)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What OPENED says of a stream, besides what the stream itself knows."""

    existing: bool
    durability: Durability
    detail: OpenedDetail
    standing: Standing


class Handler(ABC):
    """The server's side of one stream.

    Args:
        service: what all handlers share.
        session: whose stream it is.
        stream: opened by a client, or rebuilt from its record.

    Attributes:
        target: what the session's record of the stream names: enough to rebuild it.
        recorded: the outcome of what the stream is about, where it had ended before.
        released: whether nobody will ask for the stream again.
        abandoned: whether that was the client's wish.
        trace_id: of the caller's trace in OPEN, 32 hexadecimal digits, or empty.
        trace: its spans, if somebody sees them.
        turn: what its OPEN waits for, if its identity has sent too much (`rates`).
    """

    __slots__ = (
        "_answered",
        "_closed",
        "_deadline",
        "_ending",
        "_half",
        "_when_answered",
        "abandoned",
        "recorded",
        "released",
        "service",
        "session",
        "stream",
        "target",
        "trace",
        "trace_id",
        "turn",
    )

    kinds: ClassVar[frozenset[str]]

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        self.service = service
        self.session = session
        self.stream = stream
        self.target = ""
        self.recorded: Outcome | None = None
        self.released = False
        self.abandoned = False
        self.trace_id = trace_id_of(stream.open.trace)
        self.trace: StreamTrace | None = None
        self.turn: asyncio.Event | None = None
        self._deadline: asyncio.TimerHandle | None = None
        # Whether OPENED was sent; None before it is known.
        self._answered: bool | None = None
        self._when_answered: asyncio.Future[None] | None = None
        self._ending = False
        self._closed = False
        self._half: Sender | Receiver | None = None
        self._check()
        stream.context = self
        stream.notify = self.notify

    @property
    def resource(self) -> Resource:
        """What OPEN names."""
        return parse_resource(self.stream.open.resource)

    @property
    def half(self) -> Sender | Receiver | None:
        """The stream's sending or receiving half, once there is one."""
        return self._half or self.stream.sender or self.stream.receiver

    @property
    def label(self) -> About:
        """The stable name of the stream, for logs."""
        session, stream = self.session, self.stream
        return About(
            f"{session.session_id}/{stream.id} {stream.resource}",
            session=session.session_id,
            stream=stream.id,
            use=stream.use.name.lower(),
            resource=stream.resource,
            identity=session.identity,
            trace_id=self.trace_id,
        )

    @property
    def name(self) -> str:
        """What the stream is about, for people."""
        return self.stream.resource

    def permitted(self, who: Identity) -> bool:
        """Tell whether the stream may be there still, when it is resumed."""
        return who.may(self.stream.use.name.lower(), self.name)

    async def may_end_work(self) -> bool:
        """Tell whether its client may cancel the work behind it."""
        return True

    @property
    def total(self) -> int | None:
        """How many units there will be, if that is known."""
        return None

    @property
    @abstractmethod
    def position(self) -> int:
        """Where the stream is: what an outcome decided now would state."""

    @abstractmethod
    async def prepare(self) -> None:
        """Look up or make what the stream is about.

        Raises:
            Refusal: the stream cannot be opened.
            StoreError: the store failed.
        """

    @abstractmethod
    def answer(self) -> Answer:
        """Set up the stream's half and return what OPENED states.

        Raises:
            Refusal: the client and the server disagree about what is there.
        """

    @abstractmethod
    async def rebuild(self, record: StreamRecord) -> None:
        """Do both after a restart, from the session's record of the stream.

        Raises:
            Refusal: what it was about is gone.
            StoreError: the store failed.
        """

    @abstractmethod
    async def settle(self, wanted: ResumeStream) -> None:
        """Return when everything accepted is stored or dropped.

        Raises:
            StoreError: what the client says it has cannot be looked up.
        """

    @abstractmethod
    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """Stop, and decide the outcome; the first one that is recorded wins.

        Args:
            kind: failed or cancelled.
            code: of SPEC.md §20.
            text: for the client's caller.
            work: whether to stop the work behind the stream too.
        """

    def attached(self) -> None:  # noqa: B027 - most uses have nothing to do
        """Take note that the stream is on a connection, perhaps again."""

    def detached(self) -> None:  # noqa: B027 - most uses have nothing to do
        """Take note that the connection is gone."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the stream holds; called once, whatever ended it."""

    # Called by whoever opens and resumes streams

    def opened(self) -> None:
        """Take note that OPENED is on its way: deadlines count from here."""
        self._answer(True)
        if self.trace is not None:
            self.trace.opened(self.stream.resource)
            if self.stream.outcome is not None:
                self.trace.ended(self.stream.outcome)
        seconds = self.stream.open.deadline
        if seconds and self.stream.outcome is None:
            self._deadline = asyncio.get_running_loop().call_later(
                seconds, self._expired
            )

    def refused(self) -> None:
        """Take note that the stream was not opened."""
        self.abandoned = True
        self._answer(False)
        self._close_once()
        self.part()

    def end_as_recorded(self, outcome: Outcome) -> Standing:
        """End the stream with what was recorded earlier; return its standing."""
        stream = self.stream
        stream.outcome = outcome
        stream.lifecycle.end(outcome.outcome)
        if stream.receiver is not None:
            stream.receiver.close()
        return outcomes.outcome_standing(stream, outcome)

    def moved(self) -> None:
        """Lose the stream to another one that was opened with the same key."""
        connection = self.stream.connection
        if connection is not None:
            connection.refuse(
                self.stream, Code.MOVED, "it was opened again with the same key"
            )
        log.info("%s moved to another stream", self.label)
        self.note("moved: it was opened again with the same key")
        self.service.sessions.forget(self.session, self.stream, moved=True)

    def release(self, *, abandoned: bool) -> None:
        """Let the stream go: nobody will ask for it again.

        Args:
            abandoned: whether it was the client's wish. What nobody can find again,
                for want of a key, is of no use then.
        """
        if not self.released:
            self.released, self.abandoned = True, abandoned
            self.stream.released = True
            self.service.counters.fold(self.stream)
            self._close_once()
            self.part()

    def part(self) -> None:
        """Leave no cycle behind, when nobody will ask for the stream again.

        What lived long is frozen, and then found in no usual collection of garbage.
        """
        stream = self.stream
        stream.context, stream.notify = None, _ignore
        self._half = stream.sender or stream.receiver
        stream.sender = stream.receiver = None

    def _close_once(self) -> None:
        self._stop_deadline()
        if not self._closed:
            self._closed = True
            if self.trace is not None:
                self.trace.close()
            self.close()

    # What the core says

    def notify(self, notice: Notice) -> None:
        """Take a notice about the stream."""
        if self.trace is not None and isinstance(notice, _UNITS):
            self.trace.moving()
        match notice:
            case StoredMoved():  # an ACK of a subscription: nearly all notices
                self.noticed(notice)
            case CancelReceived():
                if self.turn is not None:
                    self.turn.set()
                self.spawn(self._cancelled(notice), "cancel")
            case ReleaseReceived():
                self.service.sessions.forget(self.session, self.stream)
            case PeerPaused(paused=paused, text=text):
                what = "paused" if paused else "goes on"
                self.note(f"{what} (by its client){f': {text}' if text else ''}")
            case StreamBroken():
                self.spawn(
                    self.end(OutcomeKind.FAILED, notice.code, notice.text, work=False),
                    "fail",
                )
            case _:
                self.noticed(notice)

    @abstractmethod
    def noticed(self, notice: Notice) -> None:
        """Take a notice that concerns only this use."""

    def decide(self, outcome: Outcome) -> None:
        """Record the outcome of the stream and send it, unless it has one."""
        if not self.stream.decide(outcome):
            return
        self._stop_deadline()
        self.service.counters.outcomes[self.stream.use, outcome.outcome] += 1
        self.service.lately.add(self, outcome)
        if self.trace is not None:
            self.trace.ended(outcome)
        told = f"{outcome.outcome.name.lower()} at {outcome.position}"
        if outcome.code:
            told += f": {code_name(outcome.code)}: {outcome.text}"
        log.info("%s %s", self.label, told)
        self.note(told, over=outcome.outcome is OutcomeKind.COMPLETED)
        self.service.sessions.ended(self.session, self.stream, outcome)
        self._close_once()

    def note(self, text: str, *, over: bool = False) -> None:
        """Add to the histories of what the stream is about, and of its session.

        Args:
            text: what happened.
            over: see `Histories.note`.
        """
        histories, stream = self.service.histories, self.stream
        session_id = self.session.session_id
        about = stream.resource
        histories.note(
            about,
            f"{session_id}/{stream.id} {text}",
            lasting=self.lasting,
            over=over,
        )
        histories.note(f"sessions/{session_id}", f"stream {stream.id} {about} {text}")

    @property
    def lasting(self) -> bool:
        """Whether what the stream is about is found again after a restart."""
        return False

    def fail_soon(self, code: int, text: str) -> None:
        """Fail the stream: at once, or when OPENED, which comes first, is sent."""
        self.spawn(self._fail_once_open(code, text), "fail")

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], what: str
    ) -> asyncio.Task[None]:
        """Start a task that belongs to the stream."""
        return self.service.tasks.spawn(coroutine, what, self)

    def _answer(self, opened: bool) -> None:
        if self._answered is None:
            self._answered = opened
            if self._when_answered is not None:
                self._when_answered.set_result(None)

    async def _is_open(self) -> bool:
        """Wait until it is known whether the stream is opened, and return that."""
        if self._answered is None:
            # Made only now: hardly any stream is asked before it is answered.
            if self._when_answered is None:
                self._when_answered = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._when_answered)
        return bool(self._answered)

    async def _fail_once_open(self, code: int, text: str) -> None:
        if await self._is_open():
            await self.end(OutcomeKind.FAILED, code, text, work=False)

    async def _cancelled(self, notice: CancelReceived) -> None:
        if not await self._is_open():
            return
        message = notice.message
        stopping = asyncio.get_running_loop().call_later(
            STOPPING_SECONDS, self._still_stopping
        )
        try:
            await self.end(
                OutcomeKind.CANCELLED,
                Code.CANCELLED_BY_CLIENT,
                message.text or "the client cancelled",
                work=message.scope == Scope.WORK and await self.may_end_work(),
            )
        finally:
            stopping.cancel()

    def _still_stopping(self) -> None:
        connection = self.stream.connection
        if connection is not None and self.stream.outcome is None:
            self.service.still_stopping(
                connection,
                self.stream,
                outcomes.ended(
                    OutcomeKind.STILL_STOPPING, 0, "still stopping", self.position
                ),
            )

    def _expired(self) -> None:
        self.spawn(
            self.end(
                OutcomeKind.FAILED,
                Code.DEADLINE_EXCEEDED,
                "the deadline of the stream has passed",
                work=False,
            ),
            "deadline",
        )

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _check(self) -> None:
        """Refuse what cannot be opened, whatever there is."""
        message = self.stream.open
        try:
            resource = self.resource
        except ProtocolViolation as violation:
            raise refusal_of(violation) from None
        if resource.kind.value not in self.kinds:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"{message.use.name.lower()} is for"
                f" {', '.join(f'{kind}/' for kind in sorted(self.kinds))},"
                f" not {resource.kind.value}/",
            )
        if len(message.key.encode()) > MAX_KEY:
            raise Refusal(
                Code.INVALID_ARGUMENT, f"the key is longer than {MAX_KEY} bytes"
            )
        if message.priority is not None and message.priority > LOWEST_PRIORITY:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"priority {message.priority} is not 0 (first) to {LOWEST_PRIORITY}",
            )


def _ignore(_notice: Notice) -> None:
    """Take what is still said to a stream that was let go."""


_UNITS = (StoredMoved, ChunkReceived, BatchReceived)
"""Notices of units."""
