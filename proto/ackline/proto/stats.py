"""Plain counters of a connection; whoever shows them reads them (SPEC.md §22)."""

from __future__ import annotations

from collections import Counter

__all__ = ["Stats"]


class Stats:
    """What one connection, or many that share it, have done so far.

    Attributes:
        frames_sent, frames_received: by frame type.
        bytes_sent, bytes_received: frame bytes, headers included.
        payload_sent, payload_received: payload bytes of data frames, by frame type.
        stalls_stream, stalls_connection: times a sender had data and no window.
        held_seconds: that connections and windows waited for a `TokenBucket`.
        errors_sent, errors_received: ERROR frames by code.
    """

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "errors_received",
        "errors_sent",
        "frames_received",
        "frames_sent",
        "held_seconds",
        "payload_received",
        "payload_sent",
        "stalls_connection",
        "stalls_stream",
    )

    def __init__(self) -> None:
        self.frames_sent = [0] * 256
        self.frames_received = [0] * 256
        self.bytes_sent = 0
        self.bytes_received = 0
        self.payload_sent = [0] * 256
        self.payload_received = [0] * 256
        self.stalls_stream = 0
        self.stalls_connection = 0
        self.held_seconds = 0.0
        self.errors_sent: Counter[int] = Counter()
        self.errors_received: Counter[int] = Counter()
