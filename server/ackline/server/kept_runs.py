"""Ended runs whose events are in memory for late readers: how many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ackline.server.run import Run

__all__ = ["KeptRuns"]

RUN_SIZE = 4 * 2**10
"""Bytes that an ended run takes beside its events: its buffer, record and cursors."""


class KeptRuns:
    """Ended runs whose events are still in memory, up to a size.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._sizes: dict[Run, int] = {}

    def add(self, run: Run) -> list[Run]:
        """Add a run that has ended; return those that have to make room.

        First those that nobody reads, then those whose readers are away, the longest
        ended of each before the others.
        """
        self._put(run)
        if self._size <= self._limit:
            return []
        for each in list(self._sizes):  # what readers took is gone meanwhile
            self._put(each)
        removed: list[Run] = []
        for each in sorted(self._sizes, key=lambda it: (it.consumers, it.cursors)):
            if self._size <= self._limit:
                break
            self.discard(each)
            removed.append(each)
        return removed

    def discard(self, run: Run) -> None:
        """Forget a run."""
        self._size -= self._sizes.pop(run, 0)

    def _put(self, run: Run) -> None:
        size = RUN_SIZE + run.buffer.retained_bytes
        self._size += size - self._sizes.get(run, 0)
        self._sizes[run] = size
