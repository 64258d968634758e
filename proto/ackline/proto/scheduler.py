"""Who writes next: deficit round robin within strict priorities (SPEC.md §21)."""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeVar

__all__ = ["PRIORITIES", "Scheduler", "Writer"]

PRIORITIES = 8
"""Classes 0 (first) to 7."""

Frame = TypeVar("Frame")


class Writer(Protocol):
    """A stream as the scheduler sees it."""

    priority: int
    deficit: int
    scheduled: bool

    def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
        """Return the parts of the next data frame, at most about `limit` payload bytes.

        None if there is nothing to send, no window to send it, or the stream ended.
        """


class Scheduler:
    """The streams of one connection that have something to send.

    `activate()` a stream when it may have become able to send; `next()` asks it, and
    forgets it when it has nothing.
    """

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: tuple[deque[Writer], ...] = tuple(
            deque() for _ in range(PRIORITIES)
        )

    def activate(self, writer: Writer) -> None:
        """Queue a stream, if it is not queued already."""
        if not writer.scheduled:
            writer.scheduled = True
            writer.deficit = 0
            self._queues[writer.priority].append(writer)

    def next(self, quantum: int) -> list[bytes | memoryview] | None:
        """Return the parts of the frame that is to be written next, or None.

        Args:
            quantum: bytes: what a stream may send before the next one has its turn;
                also the largest payload.
        """
        for queue in self._queues:
            while queue:
                writer = queue[0]
                if writer.deficit <= 0:
                    writer.deficit += quantum
                parts = writer.next_frame(quantum)
                if parts is None:
                    queue.popleft()
                    writer.scheduled = False
                    continue
                writer.deficit -= sum(map(len, parts))
                if writer.deficit <= 0:
                    queue.rotate(-1)
                return parts
        return None

    def clear(self) -> None:
        """Forget all streams."""
        for queue in self._queues:
            for writer in queue:
                writer.scheduled = False
            queue.clear()
