"""The newest batches of all logs in memory.

Subscribers that keep up read from here without a system call, and every one of them
gets the same bytes object: a batch is framed once for a thousand subscribers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ackline.server.stores.entities import StoredBatch

__all__ = ["Tail", "TailCache"]

#: What a batch costs besides its payload: the objects and the places in lists.
_OVERHEAD = 300


class TailCache:
    """One budget of memory for the tails of all logs; the oldest batch goes first.

    Attributes:
        size: Bytes in use.
    """

    def __init__(self, budget: int) -> None:
        self.size = 0
        self._budget = budget
        # Whose batch is the oldest, the next oldest, … The list identifies the tail's
        # content: it is another one after clear().
        self._order: deque[tuple[Tail, list[StoredBatch]]] = deque()
        # How many of these are of content that was cleared.
        self._stale = 0

    def tail(self) -> Tail:
        """Return an empty tail for a log."""
        return Tail(self)

    def admit(self, tail: Tail, content: list[StoredBatch], size: int) -> None:
        """Count a batch that a tail added; let tails drop old ones to make room."""
        self.size += size
        self._order.append((tail, content))
        while self.size > self._budget:
            oldest, of_content = self._order.popleft()
            if oldest.holds(of_content):
                self.size -= oldest.drop_oldest()
            else:
                self._stale -= 1

    def forget(self, size: int, batches: int) -> None:
        """Take note that a tail dropped all it had; its places go when they are many.

        Logs come and go, one with each durable run, and the budget may never be used.
        """
        self.size -= size
        self._stale += batches
        if self._stale * 2 > len(self._order):
            self._order = deque(
                (tail, content) for tail, content in self._order if tail.holds(content)
            )
            self._stale = 0


class Tail:
    """The newest batches of one log, without a hole."""

    __slots__ = ("_batches", "_cache", "_dropped", "_size")

    def __init__(self, cache: TailCache) -> None:
        self._cache = cache
        self._batches: list[StoredBatch] = []
        # How many at the front of the list are gone; cut off now and then.
        self._dropped = 0
        self._size = 0

    def add(self, batch: StoredBatch) -> None:
        """Add the batch that follows the newest one."""
        self._batches.append(batch)
        size = len(batch.payload) + _OVERHEAD
        self._size += size
        self._cache.admit(self, self._batches, size)

    def find(self, position: int, max_bytes: int) -> list[StoredBatch] | None:
        """Return the batch that contains a position and those after it.

        Args:
            position: Id of an event.
            max_bytes: Payload bytes to return; the first batch comes whatever its size.

        Returns:
            None if the position is not in memory.
        """
        batches = self._batches
        at = len(batches) - 1
        # Nearly every reader is at the newest batch; the search is for the others.
        if at >= self._dropped and position < batches[at].first_id:
            at = bisect_right(batches, position, self._dropped, key=_first_id) - 1
        if at < self._dropped or position >= batches[at].next_id:
            return None
        end = at
        while end < len(batches) and max_bytes > 0:
            max_bytes -= len(batches[end].payload)
            end += 1
        return batches[at:end]

    def clear(self) -> None:
        """Forget everything."""
        size, batches = self._size, len(self._batches) - self._dropped
        self._batches.clear()  # the cache may hold on to the list
        self._batches = []
        self._dropped = 0
        self._size = 0
        self._cache.forget(size, batches)

    def holds(self, content: list[StoredBatch]) -> bool:
        """Tell whether this is what it has, not what it had before it was cleared."""
        return content is self._batches

    def drop_oldest(self) -> int:
        """Drop the oldest batch; return its size."""
        content = self._batches
        size = len(content[self._dropped].payload) + _OVERHEAD
        self._size -= size
        self._dropped += 1
        if self._dropped * 8 > len(content):  # seldom, for what it moves
            del content[: self._dropped]
            self._dropped = 0
        return size


def _first_id(batch: StoredBatch) -> int:
    return batch.first_id
