"""Many subscriptions in one loop."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from ackline.client.signals import Signal
from ackline.proto.batches import Event, Gap
from ackline.proto.messages import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from ackline.client.subscriptions import Subscription

__all__ = ["Merged", "merged"]

Item: TypeAlias = Event | Gap | Outcome


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
        self._ready: deque[Subscription] = deque()
        self._signal = Signal()
        self._open: set[Subscription] = set()
        self._generator = self._iterate()
        for subscription in subscriptions:
            self.add(subscription)

    def add(self, subscription: Subscription) -> None:
        """Consume one more; it must have been entered."""
        self._open.add(subscription)
        subscription.tell(self._changed)
        self._changed(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Consume one less; it can be iterated by itself again."""
        self._open.discard(subscription)
        if subscription.told == self._changed:
            subscription.tell(None)

    def __aiter__(self) -> AsyncIterator[tuple[Subscription, Item]]:
        return self._generator

    def _changed(self, subscription: Subscription) -> None:
        self._ready.append(subscription)
        if len(self._ready) == 1:
            self._signal.set()

    async def _iterate(self) -> AsyncGenerator[tuple[Subscription, Item], None]:
        ready, signal = self._ready, self._signal
        try:
            while self._open:
                while ready:
                    subscription = ready.popleft()
                    while subscription in self._open and subscription.turn():
                        for event in subscription.events:
                            yield subscription, event
                    if subscription in self._open and subscription.over():
                        outcome = subscription.outcome
                        assert outcome is not None
                        self.remove(subscription)
                        yield subscription, outcome
                if self._open:
                    signal.clear()
                    await signal.future()
        finally:
            for subscription in list(self._open):
                self.remove(subscription)
