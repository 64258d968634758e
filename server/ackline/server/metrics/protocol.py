"""What Prometheus sees: the only module that knows its library (SPEC.md §22).

Everything is read from plain counters at the moment somebody asks. That happens in the
event loop, so that nothing changes meanwhile; the text is made in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ackline.proto.errors import code_name
from ackline.proto.frames import FrameType
from ackline.proto.lifecycle import State
from ackline.proto.messages import GapReason, Use
from ackline.server.counters import add_gaps, add_units
from ackline.server.stores.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.core import Metric

    from ackline.server.counters import Histogram
    from ackline.server.service import Service

__all__ = ["collect", "exposition"]

log = logging.getLogger(__name__)

def collect(service: Service) -> list[Metric]:
    """Return all metrics as they are now."""
    return [
        *_connections(service),
        *_streams(service),
        *_frames(service),
        *_times(service),
        *_objects(service),
    ]


def _connections(service: Service) -> Iterable[Metric]:
    counters = service.counters
    sessions = service.sessions.all()
    resumed = counters.sessions_resumed
    attached = sum(session.connection is not None for session in sessions)
    yield _gauge("connections", "Attached now.", {(): len(service.clients)})
    yield _counter("connections", "Accepted.", {(): counters.connections})
    yield _gauge(
        "sessions",
        "Sessions in memory.",
        {("attached",): attached, ("detached",): len(sessions) - attached},
        "state",
    )
    yield _counter(
        "sessions_resumed",
        "RESUME frames answered.",
        {(name,): resumed[name] for name in ("resumed", *resumed)},
        "result",
    )
    yield _gauge(
        "receive_budget_bytes",
        "Memory granted to stream windows.",
        {("granted",): service.budget.used, ("limit",): service.budget.limit},
        "state",
    )


def _streams(service: Service) -> Iterable[Metric]:
    counters = service.counters
    states: Counter[tuple[str, ...]] = Counter()
    units, duplicates = Counter(counters.units), Counter(counters.duplicates)
    replayed, gaps = Counter(counters.replayed), Counter(counters.gaps)
    for session in service.sessions.all():
        for stream in session.streams.values():
            states[_name(stream.use), stream.lifecycle.state.value] += 1
            add_units(stream, units, duplicates, replayed)
            add_gaps(stream, gaps)
    yield _gauge(
        "streams",
        "Streams of sessions in memory.",
        {
            (_name(use), state.value): states[_name(use), state.value]
            for use in Use
            for state in State
        },
        "use",
        "state",
    )
    yield _counter(
        "streams_opened",
        "OPEN frames accepted.",
        {
            (_name(use), str(known).lower()): counters.streams_opened[use, known]
            for use in Use
            for known in (False, True)
        },
        "use",
        "existing",
    )
    yield _counter(
        "outcomes",
        "Streams ended.",
        {(_name(u), o.name.lower()): n for (u, o), n in counters.outcomes.items()},
        "use",
        "outcome",
    )
    yield _by_use("units", "Units received or sent.", units)
    yield _by_use("duplicates", "Units received again and discarded.", duplicates)
    yield _by_use("replayed_units", "Units sent again after a resume.", replayed)
    yield _counter(
        "gaps",
        "Events left out.",
        {(r.name.lower(),): gaps[r.name.lower()] for r in GapReason},
        "reason",
    )
    yield _counter(
        "position_lost",
        "Durable positions lower than promised.",
        {(): counters.position_lost},
    )


def _frames(service: Service) -> Iterable[Metric]:
    stats = service.stats
    frames: dict[tuple[str, ...], float] = {}
    for direction, numbers in (
        ("received", stats.frames_received),
        ("sent", stats.frames_sent),
    ):
        for kind in FrameType:
            if numbers[kind]:
                frames[direction, kind.name.lower()] = numbers[kind]
    yield _counter("frames", "Frames.", frames, "direction", "type")
    yield _counter(
        "bytes",
        "Frame bytes, headers included.",
        {("received",): stats.bytes_received, ("sent",): stats.bytes_sent},
        "direction",
    )
    yield _counter(
        "window_stalls",
        "Times a sender had data and no window.",
        {
            ("stream",): stats.stalls_stream,
            ("connection",): stats.stalls_connection,
        },
        "window",
    )
    yield _counter(
        "refusals",
        "ERROR frames sent.",
        {(code_name(code),): n for code, n in stats.errors_sent.items()},
        "code",
    )


def _times(service: Service) -> Iterable[Metric]:
    counters = service.counters
    yield _histogram(
        "ack_latency_seconds",
        "Unit complete to ACK queued.",
        {
            (_name(use),): histogram
            for use, histogram in counters.ack_latency.items()
            if use.client_sends
        },
        "use",
    )
    yield _histogram("fsync_seconds", "One fdatasync.", {(): counters.fsync})
    yield _histogram(
        "fsync_batch_units",
        "Waiters one fdatasync covered.",
        {(): counters.fsync_batch},
    )


def _objects(service: Service) -> Iterable[Metric]:
    deliveries = service.deliveries
    states: dict[tuple[str, ...], float] = {}
    calls: dict[tuple[str, ...], float] = {}
    for name, waiting in deliveries.waiting.items():
        states[name, "waiting"] = waiting
    for worker in deliveries.workers:
        name = worker.sink.name
        states.setdefault((name, "waiting"), 0)
        states[name, "called"] = worker.running
        calls[name, "taken"] = worker.taken
        calls[name, "failed"] = worker.failed
    expired = service.counters.objects_expired
    yield _counter(
        "objects_expired",
        "Deleted by retention.",
        {(reason,): expired[reason] for reason in ("age", "size")},
        "reason",
    )
    yield _gauge("sink_objects", "To be taken by sinks.", states, "sink", "state")
    yield _counter("sink_calls", "Calls of sinks.", calls, "sink", "result")


def _name(use: Use) -> str:
    return use.name.lower()


def _by_use(name: str, text: str, values: Mapping[Use, int]) -> Metric:
    return _counter(name, text, {(_name(use),): values[use] for use in Use}, "use")


def _gauge(
    name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    family = GaugeMetricFamily(f"ackline_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(
    name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    family = CounterMetricFamily(f"ackline_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, text: str, values: Mapping[tuple[str, ...], Histogram], *labels: str
) -> Metric:
    family = HistogramMetricFamily(f"ackline_{name}", text, labels=labels)
    for key, histogram in values.items():
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        cumulative = accumulate(histogram.counts)
        family.add_metric(
            key, list(zip(bounds, cumulative, strict=True)), histogram.sum
        )
    return family


class _Snapshot(Collector):
    """Metrics that were read before, as the library wants to be given them."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def exposition(service: Service) -> tuple[str, bytes]:
    """Return all metrics as text, after its media type."""
    try:
        await service.deliveries.count()
    except StoreError as error:
        log.warning("what waits for sinks cannot be counted: %s", error)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(collect(service)))
    return CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest, registry)
