"""Whether the peer is alive, and how fast it takes what we write (SPEC.md §17, §21)."""

from __future__ import annotations

from enum import Enum
from math import inf

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.limits import LOST_AFTER_HEARTBEATS, MAX_PINGS_PER_SECOND

__all__ = ["DrainRate", "Heartbeat", "Pulse"]

MIN_FRAGMENT = 16 * 2**10
MAX_FRAGMENT = 2**20
FRAGMENT_SECONDS = 0.005
"""SPEC.md §21: about 5 ms of link time."""

LEAST_RATE = 1024
"""Bytes a second at which a frame has to come, after `patience`."""

SHARED_FRAGMENT = 256 * 2**10
SHARED_SECONDS = 1.0
"""The largest fragment while events go over the same link, and how long after one it
still is: some four fragments are below the scheduler or in the peer's hands, and an
event waits for them."""

FREE_FRAGMENTS = 8
"""More than what a socket holds: up to one and a half fragments that are not sent, one
that waits, and what a congestion window lets go at once after a pause."""


class Pulse(Enum):
    """What a look at the clock says."""

    ALIVE = "alive"
    PING = "ping"
    SILENT = "silent"
    STUCK = "stuck"


class Heartbeat:
    """The signs of life of one peer.

    Args:
        interval: seconds of silence before a PING.
        now: seconds, monotonic.

    Attributes:
        heard: when bytes last came.
        begun_at: when the frame that is not complete began to come.
        blocked_at: since when the peer takes no output, or None.
    """

    __slots__ = (
        "_asked",
        "_pings",
        "_pings_from",
        "begun_at",
        "blocked_at",
        "heard",
        "interval",
        "patience",
    )

    def __init__(self, interval: float, now: float) -> None:
        self.interval = interval
        self.patience = LOST_AFTER_HEARTBEATS * interval
        self.heard = self.begun_at = now
        self.blocked_at: float | None = None
        self._asked = now
        self._pings = 0
        self._pings_from = now

    def due(self) -> float:
        """Return when to look again."""
        ping = max(self.heard, self._asked) + self.interval
        return min(ping, self.heard + self.patience)

    def look(self, now: float) -> Pulse:
        """Say what is to be done; PING counts as done."""
        # In the terms of `due()`: rounded otherwise, it would be due again at once.
        if now >= self.heard + self.patience:
            return Pulse.SILENT
        if self.blocked_at is not None and now - self.blocked_at >= self.patience:
            return Pulse.STUCK
        if now >= max(self.heard, self._asked) + self.interval:
            self._asked = now
            return Pulse.PING
        return Pulse.ALIVE

    def trickles(self, size: int, now: float) -> bool:
        """Tell whether a frame of `size` bytes is on its way for too long; 0: none is.

        Any byte is a sign of life, so one at a time would keep a connection for ever.
        """
        if not size:
            return False
        return now - self.begun_at > self.patience + size / LEAST_RATE

    def pinged(self, now: float) -> None:
        """Count a PING of the peer.

        Raises:
            ProtocolViolation: limit_exceeded: they come too fast.
        """
        if now - self._pings_from >= 1.0:
            self._pings, self._pings_from = 0, now
        self._pings += 1
        if self._pings > MAX_PINGS_PER_SECOND:
            raise ProtocolViolation(
                Code.LIMIT_EXCEEDED, f"more than {MAX_PINGS_PER_SECOND} PINGs a second"
            )


class DrainRate:
    """The fragment size that fits the link, and who shares it.

    A connection begins with the smallest: a link that dies often still moves whole
    fragments, and a fast one is at full size after 9 MB.

    What the socket takes at once says little: after a pause it takes as much as it may
    hold, whatever the link. Only many fragments of it in the time of one mean that the
    link is faster.

    Attributes:
        fragment: bytes to write at once.
    """

    __slots__ = ("_at_once", "_most", "_shared", "_since", "fragment")

    def __init__(self) -> None:
        self.fragment = MIN_FRAGMENT
        self._most = MAX_FRAGMENT
        self._shared = -inf
        self._at_once = 0
        self._since = 0.0

    def shared(self, now: float) -> None:
        """Take note that events are sent: they wait for the fragments before them."""
        self._shared = now
        self._most = SHARED_FRAGMENT
        if self.fragment > SHARED_FRAGMENT:
            self.fragment = SHARED_FRAGMENT

    def taken(self, size: int, seconds: float, now: float) -> None:
        """Take note that the socket was full, and took `size` bytes in `seconds`."""
        fitting = int(size / max(seconds, 1e-6) * FRAGMENT_SECONDS)
        wanted = min((3 * self.fragment + fitting) // 4, 2 * self.fragment)
        self._grow(wanted, now)
        self._at_once = 0

    def free(self, size: int, now: float) -> None:
        """Take note that the socket took `size` bytes at once."""
        if now - self._since > FRAGMENT_SECONDS:
            self._since, self._at_once = now, 0
        self._at_once += size
        if self._at_once >= FREE_FRAGMENTS * self.fragment:
            self._since, self._at_once = now, 0
            self._grow(self.fragment * 2, now)

    def is_shared(self, now: float) -> bool:
        """Tell whether events went over the link lately."""
        return now - self._shared <= SHARED_SECONDS

    def _grow(self, wanted: int, now: float) -> None:
        if not self.is_shared(now):
            self._most = MAX_FRAGMENT
        self.fragment = max(MIN_FRAGMENT, min(wanted, self._most))
