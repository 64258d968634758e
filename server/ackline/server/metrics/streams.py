"""Metrics of live streams and runs: added up when somebody asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from ackline.proto.lifecycle import State
from ackline.proto.messages import GapReason, Use
from ackline.server.counters import add_gaps, add_units
from ackline.server.handler import Handler
from ackline.server.metrics.families import by_use, counter, gauge, use_name
from ackline.server.reasons import WORDS, run_reasons, stream_reasons

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from ackline.proto.receiver import Receiver
    from ackline.proto.sender import Sender
    from ackline.proto.stream import Stream
    from ackline.server.service import Service

__all__ = ["stream_metrics"]

SLICE = 200
"""Streams looked at before the loop gets its turn: about 2 ms."""


class _Tally:
    """What was added up.

    It starts with the totals of streams that are gone and looks at those that lived at
    that moment, whatever becomes of them meanwhile: nothing is counted twice or missed,
    so no counter ever falls.
    """

    def __init__(self, service: Service) -> None:
        counters = service.counters
        self.units = Counter(counters.units)
        self.duplicates = Counter(counters.duplicates)
        self.replayed = Counter(counters.replayed)
        self.gaps = Counter(counters.gaps)
        self.states = Counter[tuple[str, ...]]()
        self.waiting = Counter[tuple[str, ...]]()
        self.room = Counter[Use]()

    def add(self, stream: Stream, half: Sender | Receiver | None) -> None:
        """Add one stream; it may have been let go of, and have no half any more."""
        self.states[use_name(stream.use), stream.lifecycle.state.value] += 1
        add_units(stream.use, half, self.units, self.duplicates, self.replayed)
        add_gaps(half, self.gaps)
        self.room[stream.use] += _room(stream)
        if isinstance(stream.context, Handler):
            for reason in stream_reasons(stream.context):
                self.waiting[use_name(stream.use), reason.word] += 1


def _room(stream: Stream) -> int:
    """Return how many bytes the window of a connected stream still takes."""
    if stream.connection is None:
        return 0
    half = stream.receiver.grant if stream.receiver is not None else None
    window = half or (stream.sender.window if stream.sender is not None else None)
    return 0 if window is None else max(0, window.limit_bytes - window.bytes)


async def stream_metrics(service: Service) -> list[Metric]:
    """Return what streams and runs do, looking at them between turns of the loop."""
    tally = _Tally(service)
    streams = [
        (stream, stream.sender or stream.receiver)
        for session in service.sessions.all()
        for stream in session.streams.values()
    ]
    for number, (stream, half) in enumerate(streams, 1):
        tally.add(stream, half)
        if not number % SLICE:
            await asyncio.sleep(0)
    runs = Counter[tuple[str, ...]]()
    for number, run in enumerate(service.runs.all(), 1):
        runs[run.source.name, run.state] += 1
        for reason in run_reasons(run):
            tally.waiting["run", reason.word] += 1
        if not number % SLICE:
            await asyncio.sleep(0)
    return _metrics(service, tally, runs)


def _metrics(
    service: Service, tally: _Tally, runs: Counter[tuple[str, ...]]
) -> list[Metric]:
    uses, states = [use_name(use) for use in Use], [state.value for state in State]
    return [
        gauge(
            "streams",
            "Streams of sessions in memory.",
            {
                (use, state): tally.states[use, state]
                for use in uses
                for state in states
            },
            "use",
            "state",
        ),
        gauge(
            "streams_waiting",
            "Streams and runs that do not move, by why.",
            {
                (use, word): tally.waiting[use, word]
                for use in (*uses, "run")
                for word in WORDS
            },
            "use",
            "reason",
        ),
        gauge(
            "window_room_bytes",
            "What senders may still send.",
            {(use_name(use),): tally.room[use] for use in Use},
            "use",
        ),
        gauge(
            "runs",
            "Runs in memory.",
            {
                (name, state): runs[name, state]
                for name in service.runs.sources
                for state in states
            },
            "source",
            "state",
        ),
        by_use("units", "Units received or sent.", tally.units),
        by_use("duplicates", "Units received again and discarded.", tally.duplicates),
        by_use("replayed_units", "Units sent again after a resume.", tally.replayed),
        counter(
            "gaps",
            "Events left out.",
            {(r.name.lower(),): tally.gaps[r.name.lower()] for r in GapReason},
            "reason",
        ),
    ]
