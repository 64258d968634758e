"""Who writes next: deficit round robin within strict priorities (SPEC.md §21)."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

__all__ = ["PRIORITIES", "Scheduler", "Writer"]

PRIORITIES = 8
"""Classes 0 (first) to 7."""


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
    forgets it when it has nothing. A stream that waits for connection credit calls
    `starve()`; when there is credit again, those who wait are asked in turn, and only
    until one of them finds too little: with two thousand of them, asking all for every
    CREDIT took most of the time.
    """

    __slots__ = ("_credit", "_fed", "_lines", "_queues")

    def __init__(self) -> None:
        self._queues: tuple[deque[Writer], ...] = tuple(
            deque() for _ in range(PRIORITIES)
        )
        self._lines: tuple[OrderedDict[Writer, None], ...] = tuple(
            OrderedDict() for _ in range(PRIORITIES)
        )
        self._fed: Writer | None = None
        self._credit = True

    def activate(self, writer: Writer) -> None:
        """Queue a stream, if it is not queued already."""
        if not writer.scheduled:
            writer.scheduled = True
            writer.deficit = 0
            self._queues[writer.priority].append(writer)

    def starve(self, writer: Writer) -> bool:
        """Have a stream wait for credit; return whether it did not wait before."""
        self._credit = False
        line = self._lines[writer.priority]
        if writer in line:
            return False
        line[writer] = None
        if writer is self._fed:  # it was first, and stays first
            line.move_to_end(writer, last=False)
            return False
        return True

    def refill(self) -> None:
        """Take note that there is credit again."""
        self._credit = True

    def next(self, quantum: int) -> list[bytes | memoryview] | None:
        """Return the parts of the frame that is to be written next, or None.

        Args:
            quantum: bytes: what a stream may send before the next one has its turn;
                also the largest payload.
        """
        for queue, line in zip(self._queues, self._lines, strict=True):
            while queue or (self._credit and line):
                if not queue:
                    self._fed, _none = line.popitem(last=False)
                    self.activate(self._fed)
                parts = self._ask(queue, quantum)
                if parts is not None:
                    return parts
        return None

    def _ask(
        self, queue: deque[Writer], quantum: int
    ) -> list[bytes | memoryview] | None:
        writer = queue[0]
        if writer.deficit <= 0:
            writer.deficit += quantum
        parts = writer.next_frame(quantum)
        if parts is None:
            queue.popleft()
            writer.scheduled = False
            return None
        writer.deficit -= sum(map(len, parts))
        if writer.deficit <= 0:
            queue.rotate(-1)
        return parts

    def clear(self) -> None:
        """Forget all streams."""
        for queue in self._queues:
            for writer in queue:
                writer.scheduled = False
            queue.clear()
        for line in self._lines:
            line.clear()
