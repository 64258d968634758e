"""The events and bytes a second that one identity may move (SPEC.md §12)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from ackline.proto.heartbeat import MAX_FRAGMENT, MIN_FRAGMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.stats import Stats

__all__ = ["TokenBucket"]

BURST: Final = 1.0
"""Seconds of a rate that may be moved at once after a pause, and that a window of
events holds: a round trip is shorter."""

SLICE: Final = 0.1
"""Seconds of a rate that are sent at once, so that streams which share it take turns
often."""

MOST_EVENTS: Final = 2**24
"""More than any window or batch has."""


class TokenBucket:
    """What all connections of one identity may send and receive together.

    What has moved is spent, into debt if need be: so a unit that is larger than the
    burst moves as well. While there is debt, windows are not raised and nothing is
    sent; whoever would do so waits in line, first come, first served.

    It counts in time: a rate of 100 events a second is a debt of 10 ms an event.

    Args:
        stats: where it is counted how long was waited.
        on_wait: called with the bucket when somebody begins to wait: call `serve()`
            when nothing is `owed()` any more.

    Attributes:
        fragment: payload bytes that a frame has at most.
        batch: events that a frame has at most.
        window: events that a receiver grants at most.
    """

    __slots__ = (
        "_bytes",
        "_bytes_paid",
        "_called",
        "_events",
        "_events_paid",
        "_line",
        "_now",
        "_on_wait",
        "_stats",
        "batch",
        "fragment",
        "window",
    )

    def __init__(self, stats: Stats, on_wait: Callable[[TokenBucket], None]) -> None:
        self._stats = stats
        self._on_wait = on_wait
        self._line: dict[Callable[[], None], float] = {}
        self._called = False
        self._now = -inf
        # When everything that was spent is paid for.
        self._events_paid = self._bytes_paid = -inf
        self.limit(inf, inf)

    def limit(self, events: float, size: float) -> None:
        """Have it pay for so many events and bytes a second; infinite for all."""
        self._events, self._bytes = events, size
        self.fragment = int(min(max(size * SLICE, MIN_FRAGMENT), MAX_FRAGMENT))
        self.batch = int(min(max(events * SLICE, 1.0), MOST_EVENTS))
        self.window = int(min(max(events * BURST, 1.0), MOST_EVENTS))

    def spend(self, events: int, size: int, now: float) -> None:
        """Count events and bytes that moved, or will."""
        self._now = max(self._now, now)
        least = self._now - BURST
        self._events_paid = max(self._events_paid, least) + events / self._events
        self._bytes_paid = max(self._bytes_paid, least) + size / self._bytes

    def refund(self, events: int, size: int) -> None:
        """Take back what was spent on events and bytes that never moved."""
        self._events_paid -= events / self._events
        self._bytes_paid -= size / self._bytes

    def owed(self, now: float) -> float:
        """Return the seconds until the debt is paid; 0 if there is none.

        Clocks of connections that only write are late; the latest of all counts.
        """
        now = max(self._now, now)
        return max(self._events_paid, self._bytes_paid, now) - now

    @property
    def waiting(self) -> int:
        """How many wait in line."""
        return len(self._line)

    def wait(self, ready: Callable[[], None], now: float) -> None:
        """Have `ready` called, in turn, when there is no debt."""
        self._now = max(self._now, now)
        self._line.setdefault(ready, self._now)
        self._call()

    def waits(self, ready: Callable[[], None]) -> bool:
        """Tell whether `ready` waits to be called."""
        return ready in self._line

    def forget(self, ready: Callable[[], None]) -> None:
        """End `wait`."""
        self._line.pop(ready, None)

    def serve(self, now: float) -> None:
        """Call those who wait, until one of them makes new debt."""
        self._called = False
        self._now = max(self._now, now)
        for ready in [*self._line]:
            if self.owed(now):
                break
            if ready in self._line:  # not forgotten by one before it
                self._stats.held_seconds += self._now - self._line.pop(ready)
                ready()
        self._call()

    def _call(self) -> None:
        if self._line and not self._called:
            self._called = True
            self._on_wait(self)
