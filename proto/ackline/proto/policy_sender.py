"""An event sender under a policy or with a linger (SPEC.md §16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.conflation import ConflatedFeed
from ackline.proto.event_sender import EventSender

if TYPE_CHECKING:
    from ackline.proto.conflation import SharedFeed
    from ackline.proto.policies import Policy
    from ackline.proto.stream import Stream

__all__ = ["PolicySender"]


class PolicySender(EventSender):
    """Sends what the policy chooses: at once, each `interval`, or after a `linger`.

    Once the feed has ended nothing is waited for any more.

    Args:
        stream: whose half this is.
        feed: where the events are.
        position: the first id to send.
        policy: as OPEN asks for it.

    Attributes:
        policy: as given.
    """

    __slots__ = ("_conflated", "_due", "policy")

    def __init__(
        self, stream: Stream, feed: SharedFeed, *, position: int, policy: Policy
    ) -> None:
        self._conflated = None if policy.blocks else ConflatedFeed(feed, policy)
        super().__init__(
            stream,
            self._conflated or feed,
            position=position,
            priority=stream.priority,
        )
        self.policy = policy
        # When to send next; None while there is nothing to send.
        self._due: float | None = None

    def _next(self, limit: int) -> list[bytes | memoryview] | None:
        connection = self.stream.connection
        assert connection is not None
        position, now = self.position, connection.now
        if position < self.feed.next_id and self.feed.end is None:
            if self._due is None:
                self._due = now + self.policy.linger
            if now < self._due:
                connection.wake_at(self, self._due)
                return None
        frame = super()._next(limit)
        if frame is not None and self._conflated is not None:
            self._conflated.sent()
        if self.position > position and self.policy.interval:
            self._due = now + self.policy.interval
        elif self.position >= self.feed.next_id and not self.policy.interval:
            self._due = None
        return frame
