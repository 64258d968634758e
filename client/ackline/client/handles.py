"""One stream as its caller has it: what the four uses have in common."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ackline.client.backoff import REFUSED_FOR_NOW, Backoff
from ackline.client.signals import Signal
from ackline.client.tracing import current_trace
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import (
    AcklineError,
    ChecksumConflict,
    Code,
    Refused,
    StreamCancelled,
    StreamFailed,
    UsageError,
    code_name,
)
from ackline.proto.limits import MAX_KEY
from ackline.proto.messages import Cancel, Outcome, OutcomeKind, Scope
from ackline.proto.notices import (
    OutcomeReceived,
    SenderHeld,
    StoredMoved,
    StreamBroken,
    StreamError,
    StreamOpened,
    StreamRefused,
)

if TYPE_CHECKING:
    from ackline.client.supervisor import Supervisor
    from ackline.proto.messages import Error, Open, Opened
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream

__all__ = ["Handle", "checked_key", "failed", "raise_for"]

CANCEL_PATIENCE = 5.0
"""Seconds a stream that failed here waits for the server to say it has stopped."""


DEADLINE_LOOK = 0.5
"""Seconds between two looks for a stream whose deadline has passed."""


class Handle(ABC):
    """A stream over all its connections.

    The core's notices come in through `take()`, between two steps of the event loop;
    the caller's coroutine looks at what changed after `changed.wait()`.

    Attributes:
        stream: of the core; another one if the first was refused for now.
        opened: the newest OPENED.
        outcome: once the server decided it.
        failure: why the stream can go on no more, if it has no outcome.
        resumes: connections it was brought back on, after the first.
        held: name of what the server is short of, while it takes nothing; or "".
        changed: set by everything that happens.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.stream: Stream | None = None
        self.opened: Opened | None = None
        self.outcome: Outcome | None = None
        self.failure: AcklineError | None = None
        self.resumes = 0
        self.held = ""
        self.changed = Signal()
        self._trace = current_trace()
        self._backoff: Backoff | None = None
        self._mark: object = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def resource(self) -> str:
        """The stable resource that OPENED named; before it, the one asked for."""
        assert self.stream is not None
        return self.stream.resource

    # For the caller's coroutine

    def start(self) -> None:
        """Open the stream, now or when there is a connection.

        Raises:
            AcklineError: the client has stopped; or what is asked for cannot be.
        """
        self.supervisor.check()
        message, trace = self.message(), self._trace
        if trace:
            message = replace(message, trace=trace)
        stream = self.supervisor.session.new_stream(message, notify=self.take)
        stream.context = self
        self.stream = stream
        self.supervisor.handles.add(self)
        self.prepare(stream)
        self.supervisor.open(stream)

    def check(self) -> None:
        """Raise what ended the stream other than an outcome."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    async def wait_opened(self) -> Opened:
        """Wait for OPENED.

        Raises:
            Refused: the server does not want the stream.
            AcklineError: the client has stopped.
        """
        while self.opened is None:
            self.check()
            await self.wait()
        return self.opened

    async def wait_outcome(self) -> Outcome:
        """Wait for the outcome; whether it is a good one is the caller's to say."""
        while self.outcome is None:
            self.check()
            await self.wait()
        return self.outcome

    async def wait(self) -> None:
        """Wait until something has changed since the last call."""
        await self.changed.wait()
        self.changed.clear()

    async def stop(self, scope: Scope = Scope.STREAM, text: str = "") -> Outcome:
        """End the stream, and wait for the outcome.

        If it has one already, that is it. The wait is as long as the server's user code
        takes to stop. Cancelling this coroutine does not take the CANCEL back.

        Args:
            scope: `Scope.WORK` also ends the run behind the stream.
            text: why, for the record.
        """
        stream, connection = self.stream, self.supervisor.connection
        assert stream is not None
        if self.outcome is None:
            if connection is not None and stream.connection is connection:
                connection.cancel(stream, scope=scope, text=text)
            else:  # the next connection sends it
                stream.cancelling = True
                stream.cancel = Cancel(scope=scope, text=text)
        return await self.wait_outcome()

    def pause(self, text: str = "") -> None:
        """Have the sender begin no new unit, over reconnects too."""
        assert self.stream is not None
        self.stream.pause(paused=True, text=text)

    def unpause(self) -> None:
        """End `pause()`."""
        assert self.stream is not None
        self.stream.pause(paused=False)

    def leave(self) -> None:
        """Ask for this stream no more. That cancels nothing (SPEC.md §14)."""
        self.supervisor.handles.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self.stream is not None:
            self.supervisor.release(self.stream)

    async def give_up(self) -> None:
        """Cancel a stream that failed on this side, so that the server lets it go."""
        failure, self.failure = self.failure, None
        try:
            async with asyncio.timeout(CANCEL_PATIENCE):
                await self.stop(text=str(failure)[:200])
        except (TimeoutError, AcklineError):
            pass  # the first failure is the one to tell
        self.failure = failure

    # For the supervisor and the core

    def take(self, notice: Notice) -> None:
        """Take a notice of the core."""
        match notice:
            case StreamOpened(stream, opened):
                self.opened = opened
                self._backoff = None
                self._overdue_in(stream.open.deadline)
                self.accepted(stream, opened)
            case StreamRefused(_, error):
                self._refused(error)
            case StreamError(_, error):
                self.failure = self.failure or self._error(error)
            case StreamBroken(_, code, text):
                self.failure = self.failure or self.local_failure(code, text)
            case OutcomeReceived(_, outcome):
                self.outcome = outcome
            case StoredMoved():
                self._moved()
                self.happened(notice)
            case SenderHeld(_, code):
                self.held = code_name(code) if code else ""
                self.happened(notice)
            case _:
                self.happened(notice)
        self.changed.set()

    def reattached(self) -> None:
        """Take note that a new connection carries the stream."""
        if self.opened is not None:
            self.resumes += 1
        self.changed.set()

    def fail(self, failure: AcklineError) -> None:
        """End everything that waits."""
        self.failure = self.failure or failure
        self.changed.set()

    def local_failure(self, code: int, text: str) -> StreamFailed:
        """Return the exception for what this side found out."""
        return failed(code, text, self.reached())

    @property
    def busy(self) -> bool:
        """Whether something received is on its way to the disk."""
        return False

    @property
    def dies_with_server(self) -> bool:
        """Whether it cannot go on once the server's process has ended."""
        return False

    def mark(self) -> object:
        """Return how far the stream is, to be compared."""
        assert self.stream is not None
        sender = self.stream.sender
        if isinstance(sender, ChunkSender):
            return (sender.stored, sender.held)
        return self.reached()

    def suspect(self, *, by_peer: bool) -> bool:
        """Tell whether a unit of this stream may have broken the connection."""
        stream = self.stream
        if stream is None or self.outcome is not None:
            return False
        return by_peer == stream.use.client_sends

    @abstractmethod
    def message(self) -> Open:
        """Return the OPEN of this stream."""

    @abstractmethod
    def prepare(self, stream: Stream) -> None:
        """Set the half of a new stream, where it can be known before OPENED."""

    @abstractmethod
    def reached(self) -> int:
        """Return the next unit that is not acknowledged or received."""

    @abstractmethod
    def accepted(self, stream: Stream, opened: Opened) -> None:
        """Take OPENED, the first or a later one, before the core goes on by it."""

    @abstractmethod
    def happened(self, notice: Notice) -> None:
        """Take a notice about units."""

    # Private

    def _moved(self) -> None:
        """Count progress, also what RESUMED says the connection before has moved."""
        mark = self.mark()
        if mark != self._mark:
            self._mark = mark
            self.supervisor.progress += 1

    def _overdue_in(self, seconds: float) -> None:
        if seconds and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        """Fail here if there is no connection to be told by; else that comes soon."""
        assert self.stream is not None
        self._timer = None
        if self.outcome is not None or self.failure is not None:
            return
        if self.stream.connection is not None:
            self._overdue_in(DEADLINE_LOOK)
            return
        text = "its deadline has passed, and the server cannot be asked what became"
        self.fail(failed(Code.DEADLINE_EXCEEDED, f"{text} of it", self.reached()))

    def _refused(self, error: Error) -> None:
        if error.code not in REFUSED_FOR_NOW:
            self.failure = self.failure or self._error(error)
            return
        options = self.supervisor.options
        if self._backoff is None:
            self._backoff = Backoff(options.backoff_first, options.backoff_last)
        wait = self._backoff.delay(at_least=error.retry_after)
        asyncio.get_running_loop().call_later(wait, self._again)

    def _again(self) -> None:
        if self in self.supervisor.handles and self.failure is None:
            try:
                self.start()
            except AcklineError as error:
                self.fail(error)

    def _error(self, error: Error) -> Refused:
        kind = ChecksumConflict if error.code == Code.CHECKSUM_CONFLICT else Refused
        assert self.stream is not None
        return kind(
            error.code,
            error.text,
            retry=error.retry,
            retry_after=error.retry_after,
            resource=self.resource,
            stream=self.stream.id,
        )


def failed(code: int, text: str, position: int) -> StreamFailed:
    """Return the exception for a failure that this side found."""
    return StreamFailed(Outcome(OutcomeKind.FAILED, code, text, position, time.time()))


def raise_for(outcome: Outcome) -> None:
    """Raise unless a stream completed.

    Raises:
        StreamFailed, StreamCancelled: it did not.
    """
    if outcome.outcome == OutcomeKind.FAILED:
        raise StreamFailed(outcome)
    if outcome.outcome == OutcomeKind.CANCELLED:
        raise StreamCancelled(outcome)


def checked_key(key: str) -> str:
    """Return an idempotency key.

    Raises:
        UsageError: it is empty or longer than 255 bytes.
    """
    if not 1 <= len(key.encode()) <= MAX_KEY:
        raise UsageError(f"a key has 1 to {MAX_KEY} bytes, not {len(key.encode())}")
    return key
