"""Who writes next: deficit round robin within strict priorities (SPEC.md §21)."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ackline.proto.sender import Sender

__all__ = ["LOWEST_PRIORITY", "Scheduler"]

LOWEST_PRIORITY: Final = 7
"""Of 0, which goes first, and so on."""


class Scheduler:
    """The streams of one connection that have something to send.

    `activate()` a stream when it may have become able to send; `next()` asks it, and
    forgets it when it has nothing. A stream that waits for connection credit calls
    `starve()`; when there is credit again, those who wait are asked in turn, and only
    until one of them finds too little: with two thousand of them, asking all for every
    CREDIT took most of the time.
    """

    __slots__ = ("_credit", "_fed", "_lines", "_lone", "_queues", "_used")

    def __init__(self) -> None:
        # By priority, and only those that hold somebody: with all eight of both, an
        # idle connection spent 7 KiB of its 22 on empty queues.
        self._queues: list[deque[Sender] | None] = [None] * (LOWEST_PRIORITY + 1)
        self._used = 0
        # The only one there is, in no queue: of most connections one stream at a time
        # has something, and a queue for each event is a twentieth of what that costs.
        self._lone: Sender | None = None
        self._lines: dict[int, OrderedDict[Sender, None]] = {}
        self._fed: Sender | None = None
        self._credit = True

    def activate(self, sender: Sender) -> None:
        """Queue a stream, if it is not queued already."""
        if not sender.scheduled:
            sender.scheduled = True
            sender.deficit = 0
            if self._lone is None and not self._used and not self._lines:
                self._lone = sender
            else:
                self._queue_lone()
                self._queue(sender)

    def _queue_lone(self) -> None:
        lone, self._lone = self._lone, None
        if lone is not None:
            self._queue(lone)

    def _queue(self, sender: Sender) -> None:
        queue = self._queues[sender.priority]
        if queue is None:
            queue = self._queues[sender.priority] = deque()
            self._used += 1
        queue.append(sender)

    def starve(self, sender: Sender) -> bool:
        """Have a stream wait for credit; return whether it did not wait before."""
        self._credit = False
        line = self._lines.setdefault(sender.priority, OrderedDict())
        if sender in line:
            return False
        line[sender] = None
        if sender is self._fed:  # it was first, and stays first
            line.move_to_end(sender, last=False)
            return False
        return True

    def starves(self, sender: Sender) -> bool:
        """Tell whether a stream waits for credit, and there is none."""
        return not self._credit and sender in self._lines.get(sender.priority, ())

    def refill(self) -> None:
        """Take note that there is credit again."""
        self._credit = True

    @property
    def waiting(self) -> bool:
        """Whether somebody may have something to send."""
        return self._lone is not None or self._used > 0 or bool(self._lines)

    def next(self, quantum: int) -> list[bytes | memoryview] | None:
        """Return the parts of the frame that is to be written next, or None.

        Args:
            quantum: bytes: what a stream may send before the next one has its turn;
                also the largest payload.
        """
        if self._lone is not None:
            parts = self._ask(self._lone, quantum)
            if parts is not None:
                return parts
        if not self._used and not self._lines:
            return None
        for priority in range(LOWEST_PRIORITY + 1):
            while queue := self._queues[priority] or self._feed(priority):
                parts = self._ask(queue[0], quantum)
                if parts is not None:
                    return parts
        return None

    def _feed(self, priority: int) -> deque[Sender] | None:
        """Queue the first who waits for credit, if there is some; return the queue."""
        line = self._lines.get(priority) if self._credit and self._lines else None
        if line is None:
            return None
        fed, _none = line.popitem(last=False)
        if not line:
            del self._lines[priority]
        self._fed = fed
        fed.scheduled = True
        fed.deficit = 0
        self._queue(fed)
        return self._queues[priority]

    def _ask(self, sender: Sender, quantum: int) -> list[bytes | memoryview] | None:
        """Ask the lone one, or the first of a queue."""
        if sender.deficit <= 0:
            sender.deficit += quantum
        parts = sender.next_frame(quantum)
        # Most streams have one event at a time: to be asked for a second one in vain
        # would double what a frame costs.
        if parts is None or sender.exhausted():
            self._drop(sender)
            return parts
        for part in parts:
            sender.deficit -= len(part)
        if sender.deficit <= 0 and sender is not self._lone:
            queue = self._queues[sender.priority]
            assert queue is not None
            queue.rotate(-1)
        return parts

    def _drop(self, sender: Sender) -> None:
        """Take the one that was asked out."""
        sender.scheduled = False
        if sender is self._lone:
            self._lone = None
            return
        queue = self._queues[sender.priority]  # where it may have got meanwhile
        assert queue is not None
        queue.popleft()
        if not queue:
            self._queues[sender.priority] = None
            self._used -= 1

    def clear(self) -> None:
        """Forget all streams."""
        self._queue_lone()
        for queue in self._queues:
            for sender in queue or ():
                sender.scheduled = False
        self._queues = [None] * (LOWEST_PRIORITY + 1)
        self._used = 0
        self._lines = {}
