"""What Prometheus sees: the only package that knows its library (SPEC.md §22).

Everything is read from plain counters at the moment somebody asks: in the event loop,
so that nothing changes meanwhile, but for what thousands of streams say, which is read
between its turns. Text is made in a thread. `docs/metrics.md` is the list, and a test
compares it with what is exported.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ackline.server.metrics.machine import DiskCollector, machine_metrics
from ackline.server.metrics.protocol import protocol_metrics
from ackline.server.metrics.streams import stream_metrics
from ackline.server.stores.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.core import Metric

    from ackline.server.service import Service

__all__ = ["exposition"]

log = logging.getLogger(__name__)


class _Snapshot(Collector):
    """Metrics that were read before, as the library wants to be given them."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def exposition(service: Service, accept: str = "") -> tuple[str, bytes]:
    """Return all metrics as text, after its media type.

    Args:
        service: what is looked at.
        accept: media types that are understood, as in HTTP. With
            `application/openmetrics-text` histograms have exemplars.
    """
    try:
        await service.deliveries.count()
    except StoreError as error:
        log.warning("what waits for sinks cannot be counted: %s", error)
    async with service.lock("metrics"):  # one look at all streams at a time
        metrics = await stream_metrics(service)
    metrics += [*protocol_metrics(service), *machine_metrics(service)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(metrics))
    # These ask the system, which may wait for a disk: they are called in the thread.
    registry.register(DiskCollector(service.options))
    ProcessCollector(registry=registry)
    encode, kind = choose_encoder(accept)
    return kind, await asyncio.to_thread(encode, registry)
