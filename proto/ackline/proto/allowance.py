"""How much work one client may ask a server for before others have their turn.

Bytes are bounded by windows; what is left is work: a client that opens and cancels
streams, asks for lists or acknowledges as fast as it can costs a server its processor,
a few bytes each. Work is counted in units of about 10 us of it. In one turn of the
event loop a connection gets `TURN` of them, and where the server has more to do than it
can and more than one client (`Pressure`), `RATE` a second, a fifth of a processor
(SPEC.md §6).
"""

from __future__ import annotations

from typing import Final

from ackline.proto.frames import FrameType

__all__ = ["COSTS", "TURN", "Allowance", "Pressure"]

TURN: Final = 256
"""Units in one turn: 2.5 ms, so that a connection with a thousand small frames in one
read does not keep the others waiting for all of them."""

RATE: Final = 20_000.0
"""Units a second under pressure."""

BURST: Final = 4_000
"""Units at once under pressure: a client that opens 100 streams does not notice. As
many are remembered of what was done without pressure: a flood that makes it and rests
in turn would else have most of the processor."""

ALONE = 1.0
"""Seconds after which a client counts as alone, when no other has sent anything."""

_MEASURED: Final[dict[int, int]] = {
    FrameType.RESUME: 64,
    FrameType.OPEN: 32,
    FrameType.CANCEL: 8,
    FrameType.RELEASE: 8,
    FrameType.BLOCKED: 2,
    FrameType.LIST: 64,
    FrameType.STATUS: 32,
    FrameType.DELETE: 64,
    FrameType.SEAL: 64,
    FrameType.CONFIGURE: 64,
    FrameType.PAUSE: 2,
    FrameType.END: 2,
    FrameType.PING: 2,
}

COSTS: Final[list[int]] = [_MEASURED.get(kind, 1) for kind in range(256)]
"""Units by frame type. Of data frames they count for the turn only: windows bound those
in all."""


class Pressure:
    """Whether a server has more to do than it can; shared by all its connections.

    Attributes:
        high: whether it has.
    """

    __slots__ = ("_last", "_shared_at", "high")

    def __init__(self) -> None:
        self.high = False
        self._last: Allowance | None = None
        self._shared_at = 0.0

    def felt_by(self, client: Allowance, now: float) -> bool:
        """Note that a client has sent something; tell whether it is to rest.

        One that is alone takes nothing from anybody.
        """
        if self._last is not client:
            self._last, self._shared_at = client, now
        return self.high and now - self._shared_at < ALONE


class Allowance:
    """The work that one client may still ask for.

    Args:
        pressure: of the server.
        now: seconds, monotonic.
    """

    __slots__ = ("_at", "_left", "_pressure")

    def __init__(self, pressure: Pressure, now: float) -> None:
        self._pressure = pressure
        self._left = float(BURST)
        self._at = now

    def spend(self, units: int, now: float) -> float:
        """Count work; return the seconds to rest after it, mostly 0."""
        left = min(self._left + (now - self._at) * RATE, BURST) - units
        self._at = now
        if self._pressure.felt_by(self, now):
            self._left = left
            return -left / RATE if left < 0 else 0.0
        self._left = max(left, -BURST)
        return 0.0
