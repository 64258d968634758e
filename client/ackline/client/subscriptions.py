"""A subscription, from the caller's side."""

from __future__ import annotations

import secrets
from datetime import datetime
from operator import length_hint
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from msgspec import Struct

from ackline.client.handles import Handle, raise_for
from ackline.proto.batches import Gap
from ackline.proto.errors import AcklineError, Code, Refused, UsageError
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.messages import (
    Durability,
    OnTrimmed,
    Open,
    Resumes,
    Scope,
    Start,
    SubscribeDetail,
    SubscribeOpened,
    Use,
    opened_detail,
    raw,
)
from ackline.proto.notices import BatchReceived, StoredMoved
from ackline.proto.windows import FIRST_WINDOW_BYTES, MAX_WINDOW_BYTES

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
    from types import TracebackType

    from ackline.client.supervisor import Supervisor
    from ackline.proto.batches import Event
    from ackline.proto.entries import LeftOut
    from ackline.proto.messages import Opened, Outcome
    from ackline.proto.notices import Notice
    from ackline.proto.policies import Policy
    from ackline.proto.resource import Resource
    from ackline.proto.stream import Stream
    from ackline.proto.values import Value
    from ackline.proto.windows import Budget

__all__ = ["StartAt", "Subscription", "SubscriptionParameters", "parse_start"]

StartAt: TypeAlias = (
    Literal["first", "last", "next"] | tuple[Literal["last"], int] | int | datetime
)

RESUMPTIONS: Mapping[Resumes, Literal["replay", "recompute", "none"]] = {
    Resumes.REPLAY: "replay",
    Resumes.RECOMPUTE: "recompute",
    Resumes.NONE: "none",
}

PLAIN_STARTS = {"first": Start.FIRST, "last": Start.LAST, "next": Start.NEXT}


def parse_start(start: StartAt) -> tuple[Start, int]:
    """Return the start of a subscription as OPEN states it.

    Raises:
        UsageError: it is none.
    """
    match start:
        case bool():
            pass
        case int() if start >= 0:
            return Start.ID, start
        case str() if start in PLAIN_STARTS:
            return PLAIN_STARTS[start], 0
        case ("last", int(count)) if count > 0:
            return Start.LAST_EVENTS, count
        case datetime():
            return Start.TIME, max(0, int(start.timestamp() * 1000))
        case _:
            pass
    raise UsageError(
        f"a subscription cannot start at {start!r}; use 'first', 'last', 'next',"
        " ('last', N), an event id or a datetime"
    )


WINDOW_EVENTS = {"latest": 2, "sample": 8, "merge": 32}
"""Events and gaps on their way by default: each may be out of date when it is taken,
and that many in a round trip are enough for what the policy is about."""


class SubscriptionParameters(Struct, frozen=True, kw_only=True):
    """What was asked for; see `Client.subscribe`."""

    resource: Resource
    parameters: Mapping[str, Value]
    key: str | None
    start: StartAt
    generation: int
    policy: Policy
    on_trimmed: OnTrimmed
    auto_ack: bool
    window_bytes: int = MAX_WINDOW_BYTES
    window_events: int | None = None
    deadline: float = 0.0
    on_exit: Literal["release", "cancel"] = "release"
    resumable: bool = False


class Subscription(Handle):
    """Events in order, each once, over lost connections.

    An async iterator and an async context manager, from `Client.subscribe`:

        async with client.subscribe("logs/app") as events:
            async for event in events:
                ...

    Iterating ends at a clean end and raises StreamFailed or StreamCancelled otherwise,
    after everything up to there was delivered. `break` and a further `async for`
    continue with the next event.

    With `auto_ack` an event counts as stored when the next batch is asked for; without,
    `ack()` says what the application keeps, and the end is acknowledged only when
    everything before it is.

    Attributes:
        events: those that `turn()` tells of, each once.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        parameters: SubscriptionParameters,
        *,
        budget: Budget,
    ) -> None:
        super().__init__(supervisor)
        self._parameters = parameters
        self._auto_ack = parameters.auto_ack
        self._start, self._start_value = parse_start(parameters.start)
        self._budget = budget
        self._batch: list[Event | Gap] = []
        self.events: Iterator[Event | Gap] = iter(())
        self._acked = 0
        self._ended = False
        self._line: tuple[deque[Stream], Callable[[], None]] | None = None
        from_source = str(parameters.resource).startswith("sources/")
        # A key of our own: an OPEN that is repeated must not start the work twice.
        own_key = secrets.token_hex(16) if from_source else ""
        self._key = own_key if parameters.key is None else parameters.key
        # Its own, beside `receive_memory`: with 64 MiB for all, the 257th would get no
        # event until another one ends.
        self._first_window = 0
        self._half: EventReceiver | None = None

    async def __aenter__(self) -> Self:
        try:
            self.start()
            opened = await self.wait_opened()
            if self._parameters.resumable and self.resumption == "none":
                await self._refuse(opened)
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
        await self.close()

    async def __aiter__(self) -> AsyncGenerator[Event | Gap, None]:
        # The list's iterator knows how many it has given out, so that the loop below
        # costs nothing but the yield: 1,000 events are one report.
        while (events := await self.advance()) is not None:
            for event in events:
                yield event

    async def batches(self) -> AsyncGenerator[list[Event | Gap], None]:
        """Yield events in lists, as they arrived: for those who write them in bulk."""
        while (events := await self.advance()) is not None:
            yield list(events)

    async def advance(self) -> Iterator[Event | Gap] | None:
        """Return the next events as they arrived, or None at the end.

        What the iterator has given out counts as delivered; what it has not is what the
        next call returns.

        Raises:
            StreamFailed, StreamCancelled: that is how it ended.
            AcklineError: the client has ended.
        """
        if self._line is not None:
            raise UsageError("a subscription that is merged is consumed there")
        changed = self.changed
        while not self.turn():
            if self.over():
                assert self.outcome is not None
                raise_for(self.outcome)
                return None
            # `wait()` in line: lone events come here once each.
            if not changed.is_set():
                await changed.future()
            changed.clear()
        return self.events

    def ack(self, event_id: int) -> None:
        """State that the application keeps everything up to this event.

        Only without `auto_ack`. It may be called late, and need not be for each event.
        """
        if self._auto_ack:
            raise UsageError("subscribe with auto_ack=False to acknowledge yourself")
        if event_id >= self._receiver.position:
            raise UsageError(f"event {event_id} was not received yet")
        self._acked = max(self._acked, event_id + 1)
        self._receiver.stored_to(self._acked)
        self.changed.set()
        self._queue()

    async def close(self) -> None:
        """Leave. What was not delivered stays where it is; nothing is cancelled.

        With `on_exit="cancel"` a run is cancelled, if it has not ended, and waited for.
        """
        try:
            if self.stream is None:
                return
            self._report()
            if (
                self._parameters.on_exit == "cancel"
                and self.outcome is None
                and self.failure is None
            ):
                await self.cancel(work=True)
        except AcklineError:
            if self.failure is None:
                raise
        finally:
            self.leave()

    async def cancel(self, *, work: bool = False, text: str = "") -> Outcome:
        """End this subscription, and with `work` the run behind it.

        Returns the outcome once the server's user code has stopped, or the one the
        stream had already. Iterating raises StreamCancelled from then on.
        """
        return await self.stop(Scope.WORK if work else Scope.STREAM, text)

    # For `merged()`

    def queue_in(self, line: deque[Stream], begins: Callable[[], None]) -> None:
        """Wait in a line when there is something to take, until `leave_line()`.

        Args:
            line: of streams to look at.
            begins: called for the first one in the line.
        """
        self._line = line, begins
        self._receiver.queue_in(line, begins)
        self._queue()

    def leave_line(self, line: deque[Stream]) -> None:
        """End `queue_in()`, if it is that line."""
        if self._line is not None and self._line[0] is line:
            self._line = None
            self._receiver.queue_in(None)

    def turn(self) -> bool:
        """Tell whether there are events, after taking the next if none were left.

        What was delivered is reported then.
        """
        if length_hint(self.events):  # left in the middle, and gone on with
            return True
        receiver = self._half or self._receiver
        events = receiver.next_events(stored=self._auto_ack)
        if receiver.position != self._mark:  # `_moved()` in line
            self._mark = receiver.position
            self.supervisor.progress += 1
        if events is None:
            return False
        self._batch, self.events = events, iter(events)
        return True

    def emptied(self) -> bool:
        """Report what `turn()` told of as used; tell whether nothing follows it yet."""
        half = self._half
        return half is not None and half.used(stored=self._auto_ack)

    def over(self) -> bool:
        """Acknowledge the end once all before it is kept; return whether it is over.

        Raises:
            AcklineError: it is, and has no outcome.
        """
        if self.outcome is None:
            self.check()
            receiver = self._receiver
            if (
                not self._ended
                and receiver.end_number is not None
                and receiver.complete
            ):
                self._ended = True
                receiver.end_stored()
        return self.outcome is not None

    @property
    def waiting(self) -> bool:
        """Whether events have arrived that were not delivered yet."""
        return bool(self._receiver.batches)

    @property
    def position(self) -> int:
        """The id after the last event that was delivered."""
        left = length_hint(self.events)
        return self._batch[-left].id if left else self._receiver.delivered_to

    @property
    def policy(self) -> Policy:
        """What is left out when this side is slow."""
        return self._parameters.policy

    @property
    def received(self) -> int:
        """How many events came so far, gaps not counted."""
        return self._receiver.received_units - self.left_out.total

    @property
    def left_out(self) -> LeftOut:
        """How many events are gaps so far, by reason; the end is checked with it."""
        return self._receiver.left_out

    @property
    def generation(self) -> int:
        """Of the log or run; a log made again has another."""
        assert self.stream is not None
        return self.stream.generation

    @property
    def resumption(self) -> Literal["replay", "recompute", "none"]:
        """How the source resumes: `none` ends with its last consumer's connection."""
        assert self.opened is not None
        detail = opened_detail(Use.SUBSCRIBE, self.opened)
        assert isinstance(detail, SubscribeOpened)
        return RESUMPTIONS[detail.resumes]

    @property
    def durable(self) -> bool:
        """Whether the events are on the server's disk, and not only in its memory."""
        assert self.opened is not None
        return self.opened.durability >= Durability.SYNCED

    @property
    def run_id(self) -> str:
        """The run behind this subscription; "" for a log."""
        kind, _, name = self.resource.partition("/")
        return name if kind == "runs" else ""

    # Handle

    @property
    def dies_with_server(self) -> bool:
        """Whether it reads a run that nobody can compute again."""
        return (
            self.opened is not None
            and self.outcome is None
            and bool(self.run_id)
            and self.resumption != "recompute"
        )

    def message(self) -> Open:
        """Return OPEN; the core adds the window."""
        parameters = self._parameters
        detail = SubscribeDetail(
            start=self._start,
            value=self._start_value,
            policy=parameters.policy.name,
            policy_value=parameters.policy.value,
            linger=parameters.policy.linger,
            on_trimmed=parameters.on_trimmed,
            generation=parameters.generation,
        )
        return Open(
            use=Use.SUBSCRIBE,
            resource=str(parameters.resource),
            key=self._key,
            window_units=0,
            window_bytes=0,
            detail=raw(detail),
            parameters=dict(parameters.parameters),
            deadline=parameters.deadline,
        )

    def prepare(self, stream: Stream) -> None:
        """Make the receiving half."""
        if not self._first_window:
            self._first_window = FIRST_WINDOW_BYTES
            self._budget.widen(FIRST_WINDOW_BYTES)
        self._half = stream.receiver = EventReceiver(
            stream,
            budget=self._budget,
            durability=Durability.MEMORY,
            definitions=True,
            max_window=self._parameters.window_bytes,
            max_units=_window_events(self._parameters),
            lazy=True,
        )
        if self._line is not None:
            self._half.queue_in(*self._line)

    def leave(self) -> None:
        """Ask for this stream no more."""
        super().leave()
        self._budget.widen(-self._first_window)
        self._first_window = 0

    def reached(self) -> int:
        """Return the id after the last event received."""
        return self._receiver.position

    def accepted(self, stream: Stream, opened: Opened) -> None:
        """Take note of where it starts."""

    def take(self, notice: Notice) -> None:
        """Wake who waits: batches are taken where they are delivered.

        But not for what was stored, which is this side's own doing.
        """
        if isinstance(notice, BatchReceived):
            self.changed.set()
        elif isinstance(notice, StoredMoved):
            self._moved()
        else:
            super().take(notice)
            self._queue()

    def fail(self, failure: AcklineError) -> None:
        """End everything that waits."""
        super().fail(failure)
        self._queue()

    def happened(self, notice: Notice) -> None:
        """The end has come: the consumer is woken for it."""

    # Private

    async def _refuse(self, opened: Opened) -> None:
        """Take back what was opened, and say why."""
        await self.cancel(work=not opened.existing)
        raise Refused(
            Code.UNSUPPORTED,
            "a run of this source ends when the connection is lost: subscribe without"
            " asking for a resumable one, or have the source keep its events",
            retry=False,
            resource=str(self._parameters.resource),
        )

    @property
    def _receiver(self) -> EventReceiver:
        if self._half is None:
            raise UsageError("enter the subscription first: async with … as events")
        return self._half

    def _queue(self) -> None:
        if self._line is not None and self.stream is not None:
            line, begins = self._line
            line.append(self.stream)
            begins()

    def _report(self) -> None:
        """Tell the core how far the consumer is: for the last time."""
        receiver, stored = self._half, self._auto_ack
        if receiver is None:
            return
        if length_hint(self.events):  # left in the middle
            receiver.consumed_to(self.position, 0, stored=stored)
        else:
            receiver.consume_delivered(stored=stored)
        self._moved()


def _window_events(parameters: SubscriptionParameters) -> int | None:
    chosen, policy = parameters.window_events, parameters.policy
    if chosen is not None and chosen < 2:
        raise UsageError("window_events is at least 2: an event and the gap before it")
    if chosen is not None or policy.blocks:
        return chosen
    # As many on their way as wait: who is fast misses nothing.
    return WINDOW_EVENTS.get(policy.name, policy.newest + 1)
