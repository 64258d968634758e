"""Windows in units and bytes, and the memory they are granted from (SPEC.md §12).

A `Window` is the sender's view, a `Grant` the receiver's; both count from 0 at every
attachment. A `Budget` is the receiver's memory, shared by all its streams.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ackline.proto.errors import Code, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BYTES_PER_UNIT",
    "FIRST_WINDOW_BYTES",
    "MAX_WINDOW_BYTES",
    "PUBLISHER_WINDOW_BYTES",
    "STUCK",
    "Budget",
    "Grant",
    "Window",
]

FIRST_WINDOW_BYTES = 256 * 2**10
"""Bytes granted to a new subscription, and the least: the largest event fits."""

PUBLISHER_WINDOW_BYTES = 16 * 2**10
"""The same of a publisher, which asks for more where an event does not fit: thousands
are idle for most of the time, and what was granted is never taken back."""

KEPT_FREE = 3
"""One part in so many of all memory is not for windows that grow: publishers that were
fast once and idle since would else leave nothing for the first windows of others."""

MAX_WINDOW_BYTES = 8 * 2**20
"""Largest window of one stream: some 40 ms of the fastest stream measured here."""

BYTES_PER_UNIT = 16
"""Units granted per byte of window: a batch entry of few bytes costs more memory as an
object than on the wire."""

STUCK = 2.0
"""Seconds without memory given back after which turns do not count any more."""


class Window:
    """What a sender may still send, on a stream or on a connection."""

    __slots__ = ("bytes", "limit_bytes", "limit_units", "stalls", "units")

    def __init__(self, limit_units: int = 0, limit_bytes: int = 0) -> None:
        self.stalls = 0
        self.restart(limit_units, limit_bytes)

    def restart(self, limit_units: int, limit_bytes: int) -> None:
        """Begin a new attachment with these limits."""
        self.units = 0
        self.bytes = 0
        self.limit_units = limit_units
        self.limit_bytes = limit_bytes

    def raise_to(self, limit_units: int, limit_bytes: int) -> bool:
        """Take the peer's limits; return whether there is more room than before.

        A limit below the present one is an old statement that crossed a newer one in
        the peer, or a peer that breaks the rule that limits only grow; both are
        without effect.
        """
        more = limit_units > self.limit_units or limit_bytes > self.limit_bytes
        self.limit_units = max(self.limit_units, limit_units)
        self.limit_bytes = max(self.limit_bytes, limit_bytes)
        return more

    def fits(self, units: int, size: int) -> bool:
        """Tell whether that many units and bytes may be sent now."""
        return (
            self.units + units <= self.limit_units
            and self.bytes + size <= self.limit_bytes
        )

    def reserve(self, units: int, size: int) -> None:
        """Count units and bytes as sent."""
        self.units += units
        self.bytes += size

    def release(self, size: int) -> None:
        """Take back bytes that were reserved and will not be sent."""
        self.bytes -= size


class Grant:
    """What a receiver has allowed, and what has come of it."""

    __slots__ = ("bytes", "limit_bytes", "limit_units", "units")

    def __init__(self, limit_units: int = 0, limit_bytes: int = 0) -> None:
        self.restart(limit_units, limit_bytes)

    def restart(self, limit_units: int, limit_bytes: int) -> None:
        """Begin a new attachment with these limits."""
        self.units = 0
        self.bytes = 0
        self.limit_units = limit_units
        self.limit_bytes = limit_bytes

    def check(self, size: int) -> None:
        """Check what is about to arrive, before there is memory for it.

        Raises:
            ProtocolViolation: flow_control: more than was allowed.
        """
        if self.bytes + size > self.limit_bytes:
            raise ProtocolViolation(
                Code.FLOW_CONTROL,
                f"{size} bytes are to come, the window has"
                f" {self.limit_bytes - self.bytes} left",
            )

    def take(self, units: int, size: int) -> None:
        """Count what has arrived.

        Raises:
            ProtocolViolation: flow_control: more than was allowed.
        """
        self.units += units
        self.bytes += size
        if self.units > self.limit_units or self.bytes > self.limit_bytes:
            raise ProtocolViolation(
                Code.FLOW_CONTROL,
                f"{self.units} units and {self.bytes} bytes came, the window allowed"
                f" {self.limit_units} and {self.limit_bytes}",
            )


class Budget:
    """Bytes of memory that receivers may promise to their senders.

    Those who wait are served in turn. That alone could lock all of them up: senders
    keep the rests of windows that their next units do not fit, and the first in turn
    may need what all the rests together leave too little of. So where nothing moves,
    `stir()` passes those that do not fit. That ends every lock-up: whoever was served
    last may have back what it has used up since, because the rests of the others have
    only become smaller.

    Args:
        limit: bytes; at least the largest chunk, and the largest event with the first
            window of a publisher, or that can never be granted.
    """

    __slots__ = ("_looked_at", "_moved", "_serving", "_waiting", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: dict[Callable[[], None], int] = {}
        self._serving = False
        self._moved = False
        self._looked_at = -inf

    @property
    def kept_free(self) -> int:
        """Bytes that windows of events do not grow into."""
        return max(self.limit // KEPT_FREE, FIRST_WINDOW_BYTES)

    @property
    def waiting(self) -> int:
        """Receivers in the queue."""
        return len(self._waiting)

    def take(self, size: int, *, spare: bool = False, beside: int = 0) -> bool:
        """Take `size` bytes, if they are there.

        Args:
            size: bytes.
            spare: take them only if nobody waits: for everything but what `ready`
                takes, so that nobody passes those that have nothing yet.
            beside: bytes that have to be there as well, and stay: what else is needed
                to use what is taken. Beginnings of windows for which there is no rest
                would lock each other up.
        """
        if self.used + size + beside > self.limit or (spare and self._waiting):
            return False
        self.used += size
        return True

    def widen(self, size: int) -> None:
        """Have so much more to give out, or less if it is negative."""
        self.limit += size
        self._serve()

    def wait(self, size: int, ready: Callable[[], None]) -> None:
        """Have `ready` called, in turn, when `size` bytes are there to be taken."""
        self._waiting[ready] = size

    def waits(self, ready: Callable[[], None]) -> bool:
        """Tell whether `ready` waits to be called."""
        return ready in self._waiting

    def forget(self, ready: Callable[[], None]) -> None:
        """End `wait`: a stream that ends must neither be kept nor hold up others."""
        if self._waiting.pop(ready, None) is not None:
            self._serve()

    def give(self, size: int) -> None:
        """Return bytes and serve those who wait."""
        self.used -= size
        self._moved = self._moved or size > 0
        self._serve()

    def stir(self, now: float) -> bool:
        """Serve the first who fits, if nothing was given back for `STUCK` seconds.

        Returns:
            Whether to call this again, after `STUCK` seconds: somebody waits.
        """
        if now - self._looked_at >= STUCK:
            self._looked_at = now
            if not self._moved:
                self._pass()
            self._moved = False
        return bool(self._waiting)

    def _pass(self) -> None:
        for ready, size in self._waiting.items():
            if self.used + size <= self.limit:
                del self._waiting[ready]
                ready()
                return

    def _serve(self) -> None:
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiting:
                ready, size = next(iter(self._waiting.items()))
                if self.used + size > self.limit:
                    break
                del self._waiting[ready]
                ready()
        finally:
            self._serving = False
