"""Metrics of connections, frames, sessions, outcomes and sinks (SPEC.md §22)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code, code_name
from ackline.proto.frames import FrameType
from ackline.proto.messages import OutcomeKind, Use
from ackline.server.metrics.families import by_use, counter, gauge, histogram, use_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from ackline.server.service import Service

__all__ = ["protocol_metrics"]

_DECIDED = (OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.CANCELLED)

_REFUSALS = (Code.UNAUTHENTICATED, Code.HANDSHAKE_TIMEOUT, Code.TOO_MANY_CONNECTIONS)
"""Those of logins that are exported before the first one too: Prometheus sees no
increase in what begins with 1."""

_LOST = (Code.UNKNOWN_SESSION, Code.TOKEN_INVALID, Code.TOKEN_SUPERSEDED)
"""Those of resumes, likewise."""


def protocol_metrics(service: Service) -> Iterable[Metric]:
    """Return what takes no look at each stream."""
    yield from _connections(service)
    yield from _streams(service)
    yield from _frames(service)
    yield from _objects(service)


def _connections(service: Service) -> Iterable[Metric]:
    counters = service.counters
    sessions = service.sessions.all()
    resumed, refused = counters.sessions_resumed, counters.logins_refused
    attached = sum(session.connection is not None for session in sessions)
    yield gauge("connections", "Attached now.", {(): len(service.clients)})
    yield counter("connections_accepted", "Accepted.", {(): counters.connections})
    yield counter(
        "logins_refused",
        "Connections that ended before their HELLO was accepted.",
        {
            (name,): refused[name]
            for name in ("tls", *(code_name(code) for code in _REFUSALS), *refused)
        },
        "code",
    )
    yield gauge(
        "sessions",
        "Sessions in memory.",
        {("attached",): attached, ("detached",): len(sessions) - attached},
        "state",
    )
    yield counter(
        "sessions_resumed",
        "RESUME frames answered.",
        {
            (name,): resumed[name]
            for name in ("resumed", *(code_name(code) for code in _LOST), *resumed)
        },
        "result",
    )


def _streams(service: Service) -> Iterable[Metric]:
    counters = service.counters
    yield counter(
        "streams_opened",
        "OPEN frames accepted.",
        {
            (use_name(use), str(known).lower()): counters.streams_opened[use, known]
            for use in Use
            for known in (False, True)
        },
        "use",
        "existing",
    )
    yield counter(
        "outcomes",
        "Streams ended.",
        {
            (use_name(use), kind.name.lower()): counters.outcomes[use, kind]
            for use in Use
            for kind in _DECIDED
        },
        "use",
        "outcome",
    )
    yield counter(
        "position_lost",
        "Durable positions lower than promised.",
        {(): counters.position_lost},
    )
    yield histogram(
        "ack_latency_seconds",
        "Unit complete to ACK queued.",
        {
            (use_name(use),): each
            for use, each in counters.ack_latency.items()
            if use.client_sends
        },
        "use",
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
    yield counter("frames", "Frames.", frames, "direction", "type")
    yield counter(
        "bytes",
        "Frame bytes, headers included.",
        {("received",): stats.bytes_received, ("sent",): stats.bytes_sent},
        "direction",
    )
    yield by_use(
        "payload_bytes",
        "Payload bytes of data frames.",
        {
            Use.UPLOAD: stats.payload_received[FrameType.CHUNK],
            Use.FETCH: stats.payload_sent[FrameType.CHUNK],
            Use.PUBLISH: stats.payload_received[FrameType.EVENTS],
            Use.SUBSCRIBE: stats.payload_sent[FrameType.EVENTS],
        },
    )
    yield counter(
        "window_stalls",
        "Times a sender had data and no window.",
        {
            ("stream",): stats.stalls_stream,
            ("connection",): stats.stalls_connection,
        },
        "window",
    )
    yield counter(
        "quota_held_seconds",
        "Waited for quotas of bytes and events a second.",
        {(): stats.held_seconds},
    )
    yield counter(
        "refusals",
        "ERROR frames sent.",
        {(code_name(code),): n for code, n in stats.errors_sent.items()},
        "code",
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
    yield counter(
        "objects_expired",
        "Deleted by retention.",
        {(reason,): expired[reason] for reason in ("age", "size")},
        "reason",
    )
    yield gauge("sink_objects", "To be taken by sinks.", states, "sink", "state")
    yield counter("sink_calls", "Calls of sinks.", calls, "sink", "result")
