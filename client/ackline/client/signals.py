"""A flag that coroutines wait for."""

from __future__ import annotations

import asyncio

__all__ = ["Signal"]


class Signal:
    """As `asyncio.Event`, for something that is waited for once an event.

    Waiting on `future()` costs a future, and no coroutine and search for it beside:
    half of what a lone event took to wake its consumer.
    """

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        """Tell whether it was set since `clear()`."""
        return self._set

    def set(self) -> None:
        """Set it, and wake all who wait."""
        self._set = True
        if self._waiters:
            waiters, self._waiters = self._waiters, ()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def clear(self) -> None:
        """Have the next `wait()` wait."""
        self._set = False

    def future(self) -> asyncio.Future[None]:
        """Return what is done when it is set the next time."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Those who were cancelled while they waited are left out.
        others = [other for other in self._waiters if not other.done()]
        self._waiters = (*others, waiter)
        return waiter

    async def wait(self) -> None:
        """Wait until it is set."""
        if not self._set:
            await self.future()
