"""Many subscriptions in one loop."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

from ackline.client.signals import Signal
from ackline.proto.batches import Event, Gap
from ackline.proto.messages import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator

    from ackline.client.subscriptions import Subscription
    from ackline.proto.stream import Stream

__all__ = ["Item", "Merged", "merged"]

Item: TypeAlias = Event | Gap | Outcome
Turn: TypeAlias = "tuple[Subscription, Iterator[Event | Gap] | Outcome]"


def merged(subscriptions: Iterable[Subscription]) -> Merged:
    """Consume many subscriptions, of one client or several, in one loop.

        async with client.subscribe("runs/1") as one, client.subscribe("runs/2") as two:
            async for stream, event in merged([one, two]):
                ...

    A task for each subscription has to be woken for each of its events, which costs
    more than the event; here one is woken for all that came at once. Events of one
    subscription come in order, and the last item of each is its `Outcome`, a bad one
    too: nothing is raised for it, because the others go on.

    Raises:
        AcklineError: while iterating: a subscription was refused or cannot go on
            without an outcome, or the client has stopped.
    """
    return Merged(subscriptions)


class Merged:
    """The subscriptions that `merged()` was given, and those added since.

    `break` and a further `async for` continue with the next item.
    """

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self._line: deque[Stream] = deque()
        self._signal = Signal()
        self._open: set[Subscription] = set()
        self._generator = self._iterate()
        for subscription in subscriptions:
            self.add(subscription)

    def add(self, subscription: Subscription) -> None:
        """Consume one more; it must have been entered."""
        self._open.add(subscription)
        subscription.queue_in(self._line, self._signal.set)

    def remove(self, subscription: Subscription) -> None:
        """Consume one less; it can be iterated by itself again."""
        self._open.discard(subscription)
        subscription.leave_line(self._line)

    async def turns(self) -> list[Turn]:
        """Wait; return the next events of each that has some, and outcomes.

        For who takes them to another thread. They count as delivered as the iterators
        give them out, and as stored with the next call. Nothing is returned once all
        have ended.
        """
        line = self._line
        found: list[Turn] = []
        while self._open and not found:
            if not line:
                self._signal.clear()
                await self._signal.future()
            for _ in range(len(line)):
                stream = line.popleft()
                subscription: Subscription = stream.context
                if subscription in self._open and subscription.turn():
                    line.append(stream)  # for what comes after these
                    found.append((subscription, subscription.events))
                elif (outcome := self._over(subscription)) is not None:
                    found.append((subscription, outcome))
        return found

    def __aiter__(self) -> AsyncIterator[tuple[Subscription, Item]]:
        return self._generator

    async def _iterate(self) -> AsyncGenerator[tuple[Subscription, Item], None]:
        line, open_ = self._line, self._open
        with ExitStack() as stack:
            stack.callback(self._leave_all)
            while await self._more():
                while line:
                    subscription: Subscription = line.popleft().context
                    while subscription in open_ and subscription.turn():
                        for event in subscription.events:
                            yield subscription, event
                            if subscription not in open_:
                                break
                        else:
                            # Most have one event at a time: to ask for more in vain,
                            # and for the end, is 1.5 us an event.
                            if subscription.emptied():
                                break
                    else:
                        outcome = self._over(subscription)
                        if outcome is not None:
                            yield subscription, outcome

    async def _more(self) -> bool:
        """Wait until there is one in the line; return False once all have ended."""
        if self._open and not self._line:
            self._signal.clear()
            await self._signal.future()
        return bool(self._open)

    def _leave_all(self) -> None:
        for subscription in list(self._open):
            self.remove(subscription)

    def _over(self, subscription: Subscription) -> Outcome | None:
        """Return the outcome of one that has nothing more, and leave it."""
        if subscription not in self._open or not subscription.over():
            return None
        self.remove(subscription)
        return subscription.outcome
