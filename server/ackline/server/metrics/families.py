"""Metrics from plain numbers: one line each instead of the library's five."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from ackline.proto.messages import Use

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.core import Metric

    from ackline.server.counters import Histogram

__all__ = ["by_use", "counter", "gauge", "histogram", "use_name"]


def use_name(use: Use) -> str:
    """Return a use as it is in labels."""
    return use.name.lower()


def gauge(
    name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    """Return a gauge with values by label values."""
    family = GaugeMetricFamily(f"ackline_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def counter(
    name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    """Return a counter with values by label values; `_total` is added to its name."""
    family = CounterMetricFamily(f"ackline_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def by_use(name: str, text: str, values: Mapping[Use, float]) -> Metric:
    """Return a counter with a value for each use."""
    return counter(name, text, {(use_name(use),): values[use] for use in Use}, "use")


def histogram(
    name: str, text: str, values: Mapping[tuple[str, ...], Histogram], *labels: str
) -> Metric:
    """Return histograms by label values, with exemplars where there are some."""
    family = HistogramMetricFamily(f"ackline_{name}", text, labels=labels)
    for key, each in values.items():
        bounds = [*(f"{bound:g}" for bound in each.bounds), "+Inf"]
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for number, (bound, count) in enumerate(
            zip(bounds, accumulate(each.counts), strict=True)
        ):
            found = each.exemplars.get(number)
            if found is None:
                buckets.append((bound, count))
            else:
                trace = Exemplar({"trace_id": found.trace_id}, found.value, found.at)
                buckets.append((bound, count, trace))
        family.add_metric(key, buckets, each.sum)
    return family
