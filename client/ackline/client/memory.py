"""The memory for chunks that are read and not yet sent, shared by all uploads."""

from __future__ import annotations

import asyncio

from ackline.proto.buffers import BufferPool
from ackline.proto.errors import UsageError
from ackline.proto.windows import Budget

__all__ = ["LoadMemory"]


class LoadMemory:
    """Hands out buffers, in turn, and never more than `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._pool = BufferPool()
        self._budget = Budget(limit)

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return self._budget.used

    async def take(self, size: int) -> memoryview:
        """Return a writable buffer of `size` bytes, as soon as there is room.

        Raises:
            UsageError: that many bytes never have room.
        """
        budget = self._budget
        if size > budget.limit:
            raise UsageError(
                f"a chunk of {size} bytes is larger than load_memory ({budget.limit})"
            )
        while not budget.take(size, spare=True):
            turn = asyncio.get_running_loop().create_future()

            def ready(turn: asyncio.Future[bool] = turn) -> None:
                if not turn.done():
                    turn.set_result(budget.take(size))

            budget.wait(size, ready)
            try:
                if await turn:
                    break
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.result():
                    budget.give(size)
                raise
        return self._pool.take(size)

    def take_part(self, size: int, *, of: int) -> memoryview | None:
        """Return a writable buffer of `size` bytes if there is room for it now.

        And ever will be for the whole that it is a part of: the rest may need that.
        """
        budget = self._budget
        if of > budget.limit or not budget.take(size, spare=True):
            return None
        return self._pool.take_part(size)

    def give(self, view: memoryview) -> None:
        """Take a buffer back."""
        size = len(view)
        self._pool.give(view)
        self._budget.give(size)
