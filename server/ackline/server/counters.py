"""What the server counts besides what the core counts: plain integers (SPEC.md §22).

Nothing here knows Prometheus; `metrics` reads these when somebody asks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from ackline.proto.event_sender import EventSender
from ackline.proto.messages import Use
from ackline.proto.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ackline.proto.messages import OutcomeKind
    from ackline.proto.sender import Sender
    from ackline.proto.stream import Stream

__all__ = [
    "BATCHES",
    "SECONDS",
    "Counters",
    "Exemplar",
    "Histogram",
    "add_gaps",
    "add_units",
]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds for times: from a fast NVMe sync to a stalled disk."""

BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Bounds for how many waiters one sync served."""


class Exemplar(NamedTuple):
    """A value whose trace can be looked up.

    Attributes:
        at: unix seconds.
    """

    value: float
    trace_id: str
    at: float


class Histogram:
    """Counts of values by upper bound.

    Attributes:
        bounds: upper bounds, ascending; one more bucket takes what is above.
        counts: values in each bucket, not cumulative.
        sum: of all values.
        newest: of them.
        exemplars: the newest value of a bucket, by its number, that had a trace.
    """

    __slots__ = ("bounds", "counts", "exemplars", "newest", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = self.newest = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str = "") -> None:
        """Count one value, of a trace perhaps."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        self.newest = value
        if trace_id:
            self.exemplars[bucket] = Exemplar(value, trace_id, time.time())


class Counters:
    """Totals since the server started. Streams that live add their own when read."""

    def __init__(self) -> None:
        self.connections = 0
        self.logins_refused: Counter[str] = Counter()
        self.sessions_resumed: Counter[str] = Counter()
        self.streams_opened: Counter[tuple[Use, bool]] = Counter()
        self.outcomes: Counter[tuple[Use, OutcomeKind]] = Counter()
        self.units: Counter[Use] = Counter()
        self.duplicates: Counter[Use] = Counter()
        self.replayed: Counter[Use] = Counter()
        self.gaps: Counter[str] = Counter()
        self.position_lost = 0
        self.objects_expired: Counter[str] = Counter()
        self.ack_latency = {use: Histogram(SECONDS) for use in Use}
        self.loop_lag = Histogram(SECONDS)
        self.fsync = Histogram(SECONDS)
        self.fsync_batch = Histogram(BATCHES)

    def synced(self, seconds: float, waiters: int) -> None:
        """Count one fdatasync; may be called from the loop only."""
        self.fsync.observe(seconds)
        self.fsync_batch.observe(waiters)

    def fold(self, stream: Stream) -> None:
        """Add what a stream did to the totals; it lives no longer."""
        half = stream.sender or stream.receiver
        add_units(stream.use, half, self.units, self.duplicates, self.replayed)
        add_gaps(half, self.gaps)


def add_units(
    use: Use,
    half: Sender | Receiver | None,
    units: Counter[Use],
    duplicates: Counter[Use],
    replayed: Counter[Use],
) -> None:
    """Add what a stream's half did so far to three totals."""
    if isinstance(half, Receiver):
        units[use] += half.received_units
        duplicates[use] += half.duplicates
    elif half is not None:
        units[use] += half.sent_units
        replayed[use] += half.replayed_units


def add_gaps(half: Sender | Receiver | None, gaps: Counter[str]) -> None:
    """Add what a subscription left out so far to totals by reason."""
    if isinstance(half, EventSender):
        gaps.update(structs.asdict(half.left_out))
