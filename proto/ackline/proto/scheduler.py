"""Who writes next: deficit round robin within strict priorities (SPEC.md §21)."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

__all__ = ["Scheduler", "Writer"]


class Writer(Protocol):
    """A stream as the scheduler sees it."""

    priority: int
    deficit: int
    scheduled: bool

    def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
        """Return the parts of the next data frame, at most about `limit` payload bytes.

        None if there is nothing to send, no window to send it, or the stream ended.
        """

    def exhausted(self) -> bool:
        """Tell whether it has nothing more until it is activated again.

        Where that is not known at once, it says no, and is asked for a frame.
        """
        ...


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
        # By priority, and only those that hold somebody: with all eight of both, an
        # idle connection spent 7 KiB of its 22 on empty queues.
        self._queues: dict[int, deque[Writer]] = {}
        self._lines: dict[int, OrderedDict[Writer, None]] = {}
        self._fed: Writer | None = None
        self._credit = True

    def activate(self, writer: Writer) -> None:
        """Queue a stream, if it is not queued already."""
        if not writer.scheduled:
            writer.scheduled = True
            writer.deficit = 0
            queue = self._queues.get(writer.priority)
            if queue is None:
                queue = self._queues[writer.priority] = deque()
            queue.append(writer)

    def starve(self, writer: Writer) -> bool:
        """Have a stream wait for credit; return whether it did not wait before."""
        self._credit = False
        line = self._lines.setdefault(writer.priority, OrderedDict())
        if writer in line:
            return False
        line[writer] = None
        if writer is self._fed:  # it was first, and stays first
            line.move_to_end(writer, last=False)
            return False
        return True

    def starves(self, writer: Writer) -> bool:
        """Tell whether a stream waits for credit, and there is none."""
        return not self._credit and writer in self._lines.get(writer.priority, ())

    def refill(self) -> None:
        """Take note that there is credit again."""
        self._credit = True

    @property
    def waiting(self) -> bool:
        """Whether somebody may have something to send."""
        return bool(self._queues or self._lines)

    def next(self, quantum: int) -> list[bytes | memoryview] | None:
        """Return the parts of the frame that is to be written next, or None.

        Args:
            quantum: bytes: what a stream may send before the next one has its turn;
                also the largest payload.
        """
        if not self._queues and not self._lines:
            return None
        for priority in self._priorities():
            while queue := self._queues.get(priority) or self._feed(priority):
                parts = self._ask(queue, quantum)
                if parts is not None:
                    return parts
        return None

    def _priorities(self) -> list[int]:
        """Return who may be asked, the first one first."""
        if self._lines and self._credit:
            return sorted({*self._queues, *self._lines})
        return sorted(self._queues) if len(self._queues) > 1 else list(self._queues)

    def _feed(self, priority: int) -> deque[Writer] | None:
        """Queue the first who waits for credit, if there is some; return the queue."""
        line = self._lines.get(priority)
        if line is None or not self._credit:
            return None
        self._fed, _none = line.popitem(last=False)
        if not line:
            del self._lines[priority]
        self.activate(self._fed)
        return self._queues[priority]

    def _ask(
        self, queue: deque[Writer], quantum: int
    ) -> list[bytes | memoryview] | None:
        writer = queue[0]
        if writer.deficit <= 0:
            writer.deficit += quantum
        parts = writer.next_frame(quantum)
        # Most streams have one event at a time: to be asked for a second one in vain
        # would double what a frame costs.
        if parts is None or writer.exhausted():
            queue.popleft()
            writer.scheduled = False
            if not queue:
                del self._queues[writer.priority]
            return parts
        for part in parts:
            writer.deficit -= len(part)
        if writer.deficit <= 0:
            queue.rotate(-1)
        return parts

    def clear(self) -> None:
        """Forget all streams."""
        for queue in self._queues.values():
            for writer in queue:
                writer.scheduled = False
        self._queues = {}
        self._lines = {}
