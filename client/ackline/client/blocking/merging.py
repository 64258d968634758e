"""Many subscriptions in one loop, for programs without asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.merging import Merged as AsyncMerged
from ackline.proto.errors import UsageError
from ackline.proto.messages import Outcome

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ackline.client.blocking.portal import Portal
    from ackline.client.blocking.subscriptions import Subscription
    from ackline.client.merging import Item
    from ackline.client.subscriptions import Subscription as AsyncSubscription

__all__ = ["Merged", "merged"]


def merged(subscriptions: Iterable[Subscription]) -> Merged:
    """Consume many subscriptions of one client in one loop.

        with client.subscribe("runs/1") as one, client.subscribe("runs/2") as two:
            for stream, event in merged([one, two]):
                ...

    As `ackline.client.merged`: events of one subscription come in order, and the last
    item of each is its `Outcome`, a bad one too.

    Raises:
        UsageError: there is none, or they are of several clients.
        AcklineError: while iterating: a subscription was refused or cannot go on
            without an outcome, or the client has stopped.
    """
    return Merged(list(subscriptions))


class Merged:
    """The subscriptions that `merged()` was given, and those added since.

    One thread at a time iterates. `break` and a further `for` continue with the next
    item.
    """

    def __init__(self, subscriptions: list[Subscription]) -> None:
        if not subscriptions:
            raise UsageError("there is no subscription to merge")
        self._portal: Portal = subscriptions[0].portal
        self._known: dict[AsyncSubscription, Subscription] = {}
        self._merged = AsyncMerged(())
        self._generator = self._iterate()
        for subscription in subscriptions:
            self.add(subscription)

    def add(self, subscription: Subscription) -> None:
        """Consume one more; it must have been entered.

        Raises:
            UsageError: it is another client's.
        """
        if subscription.portal is not self._portal:
            raise UsageError("only subscriptions of one client can be merged")
        self._known[subscription.stream] = subscription
        self._portal.do(lambda: self._merged.add(subscription.stream))

    def remove(self, subscription: Subscription) -> None:
        """Consume one less; it can be iterated by itself again."""
        self._known.pop(subscription.stream, None)
        self._portal.do(lambda: self._merged.remove(subscription.stream))

    def __iter__(self) -> Iterator[tuple[Subscription, Item]]:
        return self._generator

    def _iterate(self) -> Generator[tuple[Subscription, Item], None, None]:
        known = self._known
        # One way to the loop's thread and back for all that came meanwhile.
        while turns := self._portal.call(self._merged.turns()):
            for stream, events in turns:
                if stream not in known:
                    continue
                subscription = known[stream]
                if isinstance(events, Outcome):
                    del known[stream]
                    yield subscription, events
                    continue
                for event in events:
                    yield subscription, event
                    if stream not in known:
                        break
