"""Which measurements each workload has, and which ratios must be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.cut_link import DELAY
from bench.slow_link import SLOW_DELAY
from bench.specs import (
    Fanout,
    Fetch,
    Folder,
    Idle,
    Many,
    Mixed,
    Publish,
    Resume,
    Spec,
    Start,
    Subscribe,
    Upload,
)

if TYPE_CHECKING:
    from bench.results import Row

__all__ = ["HEADLINES", "SCALE", "TARGETS", "VARIED", "WORKLOADS", "Target", "verdicts"]

SLOW = Mixed(bulk="fetch", size=24 << 20, link="slow")

WORKLOADS: Mapping[str, tuple[Spec, ...]] = {
    "upload": (
        Upload(),
        Upload(folder="disk"),
        Upload(folder="disk", durability="synced"),
        Upload(digest="sha256"),
        Upload(digest="blake3"),
    ),
    "fetch": (Fetch(), Fetch(folder="disk")),
    "folder": (Folder(), Folder(link="loopback")),
    "subscribe": (Subscribe(),),
    "publish": (Publish(),),
    "many": (
        Many(),
        Many(connections=1_000),
        Many(producers="each"),
        Many(producers="each", connections=1_000),
    ),
    "fanout": (Fanout(), Fanout(rate=1_000.0)),
    "mixed": (
        Mixed(tokens=False),
        Mixed(),
        Mixed(bulk="fetch", tokens=False),
        Mixed(bulk="fetch"),
        SLOW,
    ),
    "idle": (
        Idle(),
        Idle(connections=50, streams=50_000),
        Idle(connections=50, kind="generator"),
    ),
    "tls": (Upload(tls=True), Subscribe(tls=True)),
    "resume": (Resume(), Resume(what="streams")),
    "start": (Start(),),
}

HEADLINES: tuple[Spec, ...] = (
    Upload(),
    Upload(folder="disk", durability="synced"),
    Fetch(),
    Folder(),
    Subscribe(),
    Publish(),
    Many(seconds=3.0),
    Fanout(seconds=2.0),
    Mixed(tokens=False),
    Mixed(),
    Mixed(bulk="fetch", tokens=False),
    Mixed(bulk="fetch"),
    Idle(connections=1_000, streams=1_000),
    Resume(),
    Resume(what="streams"),
    Upload(tls=True),
    Start(),
)
"""What `make bench` measures; all variants take about an hour."""

SCALE: Mapping[str, tuple[Spec, ...]] = {
    "chunk_size": tuple(
        Upload(size=1 << 28, chunk_size=size)
        for size in (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
    ),
    "event_size": tuple(
        Subscribe(size=size, events=min(500_000, (1 << 29) // size))
        for size in (16, 64, 256, 1_024, 4_096, 16_384, 65_536)
    ),
    "streams": tuple(
        Many(streams=streams, rate=20_000 / streams, seconds=3.0)
        for streams in (1, 10, 100, 1_000, 10_000)
    ),
    "connections": tuple(
        Many(
            streams=connections,
            connections=connections,
            rate=20_000 / connections,
            seconds=3.0,
        )
        for connections in (1, 10, 100, 1_000, 5_000)
    ),
}
"""What is varied, and the measurements: a unit's cost must not grow along them."""

VARIED: Mapping[str, str] = {
    "chunk_size": "chunk_size",
    "event_size": "size",
    "streams": "streams",
    "connections": "connections",
}
"""The parameter of the spec that is varied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that must be at least, or at most, a factor of another's.

    Attributes:
        workload, variant: where; every variant of the workload if empty.
        figure: of a row, such as `rate` or `latency.p99`.
        factor: times the figure of `peer`; the bound itself without a peer.
        least: whether it is a lower bound.
    """

    workload: str
    variant: str = ""
    figure: str = "rate"
    peer: str = ""
    factor: float
    least: bool = True


TARGETS = (
    Target(workload="upload", variant="memory, written", peer="raw-crc", factor=0.95),
    Target(workload="upload", variant="memory, written", peer="raw", factor=0.88),
    Target(workload="upload", variant="disk, written", peer="raw-crc", factor=0.95),
    Target(workload="upload", variant="disk, written", peer="raw", factor=0.88),
    Target(workload="upload", variant="disk, synced", peer="raw-crc", factor=0.95),
    *(
        Target(workload="upload", variant=variant, peer=peer, factor=factor)
        for variant in ("memory, written", "disk, written")
        for peer, factor in (
            ("nginx", 1.0),
            ("tus_js", 3.0),
            ("tuspy", 3.0),
            ("nats", 3.0),
        )
    ),
    Target(
        workload="upload", variant=Upload(tls=True).variant, peer="raw", factor=0.85
    ),
    Target(workload="fetch", peer="raw-crc", factor=0.90),
    Target(
        workload="folder", variant=Folder().variant, figure="times_faster", factor=10.0
    ),
    Target(workload="start", figure="import_ms", factor=150.0, least=False),
    Target(workload="start", figure="start_ms", factor=400.0, least=False),
    *(
        Target(workload="upload", figure=f"{side}_peak", factor=2.0**26, least=False)
        for side in ("server", "client")
    ),
    Target(workload="subscribe", variant=Subscribe().variant, factor=2e6),
    Target(workload="subscribe", peer="raw", factor=1.0),
    Target(workload="publish", factor=500e3),
    *(
        Target(workload=workload, peer=peer, factor=1.0)
        for workload in ("subscribe", "publish")
        for peer in (
            "rabbitmq",
            "redis",
            "picows",
            "nats",
            "sse",
            "websockets",
            "grpc",
            "mosquitto",
        )
    ),
    Target(
        workload="many",
        variant=Many().variant,
        figure="latency.p99",
        peer="raw",
        factor=2.0,
        least=False,
    ),
    Target(
        workload="many",
        variant=Many().variant,
        figure="server_cpu",
        peer="picows",
        factor=0.5,
        least=False,
    ),
    Target(workload="many", figure="latency.p999", factor=10.0, least=False),
    Target(
        workload="fanout",
        variant=Fanout().variant,
        figure="latency.p99",
        factor=10.0,
        least=False,
    ),
    *(
        Target(
            workload="mixed",
            variant=Mixed(bulk=bulk).variant,
            figure=f"latency.{figure}",
            factor=bound,
            least=False,
        )
        for bulk in ("upload", "fetch")
        for figure, bound in (("p99", 5.0), ("max", 20.0))
    ),
    # Delay, a full queue of as much, and 20 ms.
    Target(
        workload="mixed",
        variant=SLOW.variant,
        figure="latency.p99",
        factor=(SLOW_DELAY * 2 + 0.020) * 1e3,
        least=False,
    ),
    Target(workload="mixed", variant=SLOW.variant, figure="link_use", factor=0.95),
    # A round trip, and 10 ms.
    Target(
        workload="resume",
        variant=Resume().variant,
        figure="first_unit_ms",
        factor=(2 * DELAY + 0.010) * 1e3,
        least=False,
    ),
    Target(
        workload="resume",
        variant=Resume(what="streams").variant,
        figure="resumed_ms",
        factor=200.0,
        least=False,
    ),
    *(
        Target(
            workload="idle",
            variant=Idle(connections=count, streams=count).variant,
            figure="bytes_each",
            factor=10 * 1024,
            least=False,
        )
        for count in (1_000, 5_000)
    ),
    Target(
        workload="idle",
        variant=Idle(connections=50, streams=50_000).variant,
        figure="bytes_each",
        factor=2 * 1024,
        least=False,
    ),
    Target(
        workload="idle",
        variant=Idle(connections=50, kind="generator").variant,
        figure="bytes_each",
        factor=5 * 1024,
        least=False,
    ),
)


def verdicts(found: list[Row]) -> list[tuple[Target, str, float, float]]:
    """Compare Ackline's figures with the targets.

    Returns:
        For each target that was measured: it, the variant, the figure, the bound.
    """
    by = {(row.workload, row.variant, row.peer): row for row in found}
    compared: list[tuple[Target, str, float, float]] = []
    for target in TARGETS:
        for row in found:
            if row.peer != "ackline" or row.workload != target.workload:
                continue
            if target.variant not in ("", row.variant):
                continue
            other = by.get((row.workload, row.variant, target.peer))
            base = other.median(target.figure) if other is not None else None
            figure = row.median(target.figure)
            if figure is None or (target.peer and base is None):
                continue
            bound = target.factor * (1.0 if base is None else base)
            compared.append((target, row.variant, figure, bound))
    return compared
