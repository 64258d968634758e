"""Metrics of the machine: event loop, queues, database and disk."""

from __future__ import annotations

import contextlib
import os
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from ackline.server.metrics.families import counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from ackline.server.options import Options
    from ackline.server.service import Service

__all__ = ["DiskCollector", "machine_metrics"]


def machine_metrics(service: Service) -> Iterable[Metric]:
    """Return what costs no system call to know."""
    yield gauge("build_info", "1.", {(version("ackline"),): 1}, "version")
    yield gauge("draining", "1 if about to stop.", {(): service.draining})
    yield histogram(
        "loop_lag_seconds",
        "How late the event loop comes to what is due.",
        {(): service.counters.loop_lag},
    )
    yield from _queues(service)
    yield from _storage(service)


def _queues(service: Service) -> Iterable[Metric]:
    stats = service.storage.stats
    yield gauge(
        "queue_length",
        "What waits.",
        {
            ("tasks",): len(service.tasks),
            ("records",): stats.records_waiting,
            ("sync",): stats.syncs_waiting,
            ("receive_memory",): service.budget.waiting,
            ("send_memory",): service.send_budget.waiting,
        },
        "queue",
    )
    for name, text, budget in (
        ("receive", "Memory granted to stream windows.", service.budget),
        ("send", "Memory for chunks read ahead.", service.send_budget),
    ):
        yield gauge(
            f"{name}_budget_bytes",
            text,
            {("granted",): budget.used, ("limit",): budget.limit},
            "state",
        )


def _storage(service: Service) -> Iterable[Metric]:
    counters, stats = service.counters, service.storage.stats
    yield histogram("fsync_seconds", "One fdatasync.", {(): counters.fsync})
    yield histogram(
        "fsync_batch_units",
        "Waiters one fdatasync covered.",
        {(): counters.fsync_batch},
    )
    yield counter("fsync_errors", "Failed.", {(): stats.sync_failures})
    yield counter(
        "records_transactions", "Commits of the database.", {(): stats.transactions}
    )
    yield counter("records_operations", "Operations in them.", {(): stats.operations})
    yield counter(
        "records_commit_seconds", "Time they took.", {(): stats.commit_seconds}
    )
    yield gauge("log_cache_bytes", "Newest events of logs.", {(): stats.tail_bytes})


class DiskCollector(Collector):
    """Asks the file system of the data folder; for a thread."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def collect(self) -> Iterable[Metric]:
        """Return sizes, or nothing where the disk does not answer."""
        with contextlib.suppress(OSError):
            found = os.statvfs(self._options.data_dir)
            yield gauge(
                "disk_bytes",
                "The data folder's file system.",
                {
                    ("free",): found.f_bavail * found.f_frsize,
                    ("reserve",): self._options.disk_reserve,
                    ("size",): found.f_blocks * found.f_frsize,
                },
                "state",
            )
