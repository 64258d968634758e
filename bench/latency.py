"""Latencies, from the time an event was due to when its consumer has it."""

from __future__ import annotations

import struct
import time

from msgspec import Struct

__all__ = ["Latencies", "Summary", "due_body", "due_of"]

_DUE = struct.Struct("<d")


class Summary(Struct, frozen=True, kw_only=True):
    """Percentiles in milliseconds."""

    p50: float
    p99: float
    p999: float
    max: float


class Latencies:
    """Collects, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._since = 0.0

    def restart(self) -> None:
        """Forget all, and leave out what was due before: its wait is not the run's."""
        self.seconds.clear()
        self._since = time.monotonic()

    def take(self, body: bytes | memoryview) -> None:
        """Take note that the event with this body is here now."""
        due: float = _DUE.unpack_from(body)[0]
        if due >= self._since:
            self.seconds.append(time.monotonic() - due)

    def arrived(self, due: float) -> None:
        """Take note that the event that was due then is here now."""
        if due >= self._since:
            self.seconds.append(time.monotonic() - due)

    def summary(self) -> Summary:
        """Return the percentiles, by the nearest rank."""
        ordered = sorted(self.seconds)

        def rank(part: float) -> float:
            return ordered[min(int(part * len(ordered)), len(ordered) - 1)] * 1e3

        return Summary(p50=rank(0.5), p99=rank(0.99), p999=rank(0.999), max=rank(1))


def due_body(due: float, size: int) -> bytes:
    """Return an event of `size` bytes that was due at `due` of `time.monotonic()`."""
    return _DUE.pack(due).ljust(size, b".")


def due_of(body: bytes | memoryview) -> float:
    """Return when an event was due."""
    due: float = _DUE.unpack_from(body)[0]
    return due
