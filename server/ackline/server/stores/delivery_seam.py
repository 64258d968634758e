"""The seam of deliveries: one of `seams`, which says what holds for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ackline.server.stores.entities import Delivery

__all__ = ["DeliveryStore"]


class DeliveryStore(Protocol):
    """Which committed object is still to be taken by which sink.

    A commit adds deliveries; deleting an object deletes its own.
    """

    async def due(self, sink: str, limit: int) -> list[Delivery]:
        """Return what a sink is to be called with next, by the time of that."""
        ...

    async def of_object(self, object_id: str) -> list[Delivery]:
        """Return the deliveries of an object that are not done, by sink."""
        ...

    async def counts(self) -> dict[str, int]:
        """Return how many objects wait for each sink that any waits for."""
        ...

    async def begin(self, delivery: Delivery, next_try: float) -> None:
        """Count a call before it is made, and when to try again without an end."""
        ...

    async def fail(self, delivery: Delivery, error: str, next_try: float) -> None:
        """Record why a call failed, and when to try again."""
        ...

    async def finish(self, delivery: Delivery) -> None:
        """Record that the sink took the object."""
        ...
