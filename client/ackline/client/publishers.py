"""A publisher, from the caller's side."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Self

from ackline.client.handles import Handle, checked_key, raise_for
from ackline.client.progress import Progress
from ackline.proto.errors import Code, UsageError
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.kinds import KindTable
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import End, Intent, Open, PublishDetail, Use, raw
from ackline.proto.notices import SenderHeld, StoredMoved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from ackline.client.progress import OnProgress
    from ackline.client.supervisor import Supervisor
    from ackline.proto.messages import Opened, Outcome
    from ackline.proto.notices import Notice
    from ackline.proto.proofs import ProofSum
    from ackline.proto.resource import Resource
    from ackline.proto.stream import Stream

    Prefix = Callable[[int], Awaitable[ProofSum]]

__all__ = ["Publisher"]

BATCH_OVERHEAD = 8
"""Bytes of an EVENTS payload with one event, without its body."""


class Publisher(Handle):
    """Writes events to a log; an async context manager, from `Client.publish`.

    Entering waits for the server: then `first_unit` is where a publisher with this key
    continues. Leaving sends END and waits until everything is stored; leaving by an
    exception only leaves: what was sent is in the log, and a publisher with a key can
    continue.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        resource: Resource,
        *,
        key: str | None,
        kinds: Iterable[str],
        linger: float,
        deadline: float,
        prefix: Prefix | None,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(supervisor)
        self._log = resource
        # With a key of our own the publisher outlives the session at the server.
        self._key = secrets.token_hex(16) if key is None else checked_key(key)
        self._kinds = KindTable(kinds)
        self._linger = linger
        self._deadline = deadline
        self._prefix = prefix
        self._on_progress = on_progress
        self._buffer: EventBuffer | None = None
        self._largest = MAX_EVENT
        self._lingering = False
        self._finished = False
        self.first_unit = 0

    async def __aenter__(self) -> Self:
        try:
            self.start()
            opened = await self.wait_opened()
            if self.outcome is not None:
                raise_for(self.outcome)
            if self._prefix is not None and self.first_unit:
                await self._prove(self._prefix, opened)
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                raise_for(await self.finish())
        finally:
            self._close()

    async def send(self, data: bytes | str, kind: str = "") -> int:
        """Add one event and return its unit number.

        Returns as soon as the event is in the replay buffer, and waits while that is
        full. `flush()` tells that it is stored.

        Args:
            data: its body; a str is sent as UTF-8.
            kind: one of `kinds`, or "" for none.

        Raises:
            UsageError: the event is too large or the kind was not announced.
            AcklineError: the stream or the client has ended.
        """
        buffer = self._ready
        if buffer.full:
            await self._room(buffer)
        body = data.encode() if isinstance(data, str) else data
        if self._finished or len(body) > self._largest:
            raise self._unsendable(body)
        unit = buffer.next_id
        buffer.append(body, self._number(kind) if kind else 0)
        return unit

    def check_event(self, body: bytes, kind: str = "") -> None:
        """Raise what `send()` would raise for this event itself.

        For a sender that hands events over later. Any thread may call it.

        Raises:
            UsageError: the event is too large, or the kind was not announced.
        """
        if self._finished or len(body) > self._largest:
            raise self._unsendable(body)
        if kind:
            self._number(kind)

    async def send_many(
        self,
        events: Iterable[bytes | str] | AsyncIterable[bytes | str],
        kind: str = "",
    ) -> int:
        """Add events and return the number of the next unit; see `send()`."""
        if isinstance(events, AsyncIterable):
            async for data in events:
                await self.send(data, kind)
        else:
            for data in events:
                await self.send(data, kind)
        return self.position

    async def flush(self) -> int:
        """Wait until everything sent is acknowledged; return `log_position`.

        Raises:
            AcklineError: the stream or the client has ended before that.
        """
        wanted = self.position
        self._hurry()
        while self.acknowledged < wanted:
            self._check_live()
            await self.wait()
            self._show()
        return self.log_position

    async def finish(self) -> Outcome:
        """Send END and return the outcome; nothing can be sent after it."""
        buffer = self._ready
        if not self._finished:
            self._finished = True
            buffer.finish(End(Intent.COMPLETED, 0, "", size=buffer.next_id))
            self._hurry()
        while self.outcome is None:
            self.check()
            await self.wait()
            self._show()
        return self.outcome

    @property
    def position(self) -> int:
        """The unit number of the next event."""
        return self._ready.next_id

    @property
    def acknowledged(self) -> int:
        """The number of the first unit that is not stored by the server."""
        sender = self._sender
        return self.first_unit if sender is None else sender.acknowledged_units

    @property
    def log_position(self) -> int:
        """The id in the log after the newest acknowledged event."""
        sender = self._sender
        return 0 if sender is None else sender.log_position

    # Handle

    def message(self) -> Open:
        """Return OPEN."""
        return Open(
            use=Use.PUBLISH,
            resource=str(self._log),
            key=self._key,
            window_units=0,
            window_bytes=0,
            detail=raw(PublishDetail(kinds=self._kinds.listed())),
            deadline=self._deadline,
        )

    def prepare(self, stream: Stream) -> None:
        """Wait for OPENED: only then it is known where the numbering goes on."""

    def reached(self) -> int:
        """Return the units acknowledged."""
        return self.acknowledged

    def accepted(self, stream: Stream, opened: Opened) -> None:
        """Go on at the position the server has accepted."""
        limits = self.supervisor.server_limits
        if limits is not None:
            self._largest = min(MAX_EVENT, limits.max_payload - BATCH_OVERHEAD)
        if stream.sender is not None:
            return
        options = self.supervisor.options
        self.first_unit = opened.standing.position
        self._buffer = EventBuffer(
            generation=opened.standing.generation,
            max_events=options.replay_events,
            max_bytes=options.replay_bytes,
            start=self.first_unit,
            kinds=self._kinds,
        )
        sender = EventSender(
            stream, self._buffer, position=self.first_unit, priority=stream.priority
        )
        stream.sender = sender
        if self._linger > 0:
            self._buffer.unwatch(sender.wake)
            self._buffer.watch(self._wake_later)

    def happened(self, notice: Notice) -> None:
        """Let go of what is stored."""
        if isinstance(notice, StoredMoved) and self._buffer is not None:
            self._buffer.set_floor(notice.position)
        elif isinstance(notice, SenderHeld):
            # Whoever publishes what comes now and then may not be waiting for anything.
            asyncio.get_running_loop().call_soon(self._show)

    # Private

    @property
    def _ready(self) -> EventBuffer:
        if self._buffer is None:
            raise UsageError("enter the publisher first: async with client.publish(…)")
        return self._buffer

    @property
    def _sender(self) -> EventSender | None:
        sender = self.stream.sender if self.stream is not None else None
        assert sender is None or isinstance(sender, EventSender)
        return sender

    def _number(self, kind: str) -> int:
        number = self._kinds.number_of(kind)
        if number is None:
            known = ", ".join(self._kinds.listed()) or "none"
            raise UsageError(
                f"the kind {kind!r} was not announced; kinds of this publisher: {known}"
            )
        return number

    def _unsendable(self, body: bytes) -> UsageError:
        if self._finished:
            return UsageError("finish() was called: nothing can be sent after it")
        return UsageError(
            f"an event of {len(body)} bytes; at most {self._largest} are sent as one:"
            " upload it, or cut it"
        )

    def _check_live(self) -> None:
        self.check()
        if self.outcome is not None:
            raise_for(self.outcome)
            raise UsageError("the publisher has ended")

    async def _room(self, buffer: EventBuffer) -> None:
        """Wait until the replay buffer has room."""
        self._hurry()
        while buffer.full:
            self._check_live()
            buffer.on_room(self.changed.set)
            await self.wait()
            self._show()

    async def _prove(self, prefix: Prefix, opened: Opened) -> None:
        """Compare what the server has of this publisher with what was to be sent.

        Raises:
            StreamFailed: proof_mismatch: it is not the same.
        """
        sums = await prefix(self.first_unit)
        proof = opened.standing.proof
        if (
            proof is not None
            and proof.base == 0
            and proof.position == self.first_unit
            and proof != sums.proof(0, self.first_unit)
        ):
            raise self.local_failure(
                Code.PROOF_MISMATCH,
                f"the log has other events before unit {self.first_unit} than were to"
                " be published",
            )
        self._ready.know(sums)

    def _show(self) -> None:
        if self._on_progress is not None:
            buffer = self._ready
            self._on_progress(
                Progress(
                    done=self.acknowledged,
                    total=buffer.next_id if self._finished else None,
                    began=self.first_unit,
                    resumes=self.resumes,
                    held=self.held,
                )
            )

    def _wake_later(self) -> None:
        """Give more events the time to join the batch."""
        if not self._lingering:
            self._lingering = True
            asyncio.get_running_loop().call_later(self._linger, self._hurry)

    def _hurry(self) -> None:
        self._lingering = False
        sender = self._sender
        if sender is not None:
            sender.wake()

    def _close(self) -> None:
        sender = self._sender
        if sender is not None:
            sender.close()
        self.leave()
