"""How long to wait before connecting, or asking, again (SPEC.md §17)."""

from __future__ import annotations

import random

from ackline.proto.errors import Code

__all__ = ["REFUSED_FOR_NOW", "Backoff", "spread"]

REFUSED_FOR_NOW = frozenset({Code.OVERLOADED, Code.DRAINING})
"""Refusals that the caller never sees: it is asked again a little later."""


class Backoff:
    """Doubles from `first` to `last` seconds, each times a random 0.5 to 1.

    The randomness keeps a thousand clients of a server that was restarted from coming
    back in the same millisecond.
    """

    __slots__ = ("_first", "_last", "_next", "attempts")

    def __init__(self, first: float, last: float) -> None:
        self._first = first
        self._last = last
        self._next = first
        self.attempts = 0

    def reset(self) -> None:
        """Start again: a connection was of use."""
        self._next = self._first
        self.attempts = 0

    def delay(self, *, at_least: float = 0.0) -> float:
        """Return the seconds to wait now, and wait longer the next time."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        self._next = min(self._next * 2, self._last)
        self.attempts += 1
        return max(delay, spread(at_least))


def spread(seconds: float) -> float:
    """Return 1 to 1.5 times what the server asked for.

    It asks all its clients for the same, and when it drains all at once.
    """
    return seconds * random.uniform(1.0, 1.5)  # noqa: S311 - not a secret
