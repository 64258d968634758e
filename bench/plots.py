"""Plots as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.results import Row, rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.results import Result

__all__ = ["plot"]


def plot(results: Iterable[Result], stem: Path) -> None:
    """Write `STEM.svg`: for each variant a bar a peer, with its minimum and maximum.

    Nothing is written where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        return
    by: dict[str, list[Row]] = {}
    for row in rows(results):
        by.setdefault(f"{row.workload}: {row.variant}", []).append(row)
    height = sum(0.8 + 0.3 * len(of) for of in by.values())
    figure = Figure(figsize=(8, height), layout="constrained")
    ratios = [0.8 + 0.3 * len(of) for of in by.values()]
    axes = figure.subplots(len(by), 1, squeeze=False, height_ratios=ratios)
    for (title, of), ax in zip(by.items(), axes[:, 0], strict=True):
        _bars(ax, title, of)
    figure.savefig(stem.with_suffix(".svg"))


def _bars(ax: Axes, title: str, of: list[Row]) -> None:
    figure, label = _figure(of)
    shown = [row for row in of if row.values(figure)]
    medians = [row.median(figure) or 0.0 for row in shown]
    spans = [
        [m - min(row.values(figure)) for m, row in zip(medians, shown, strict=True)],
        [max(row.values(figure)) - m for m, row in zip(medians, shown, strict=True)],
    ]
    names = [row.peer for row in shown]
    colors = ["tab:blue" if name == "ackline" else "tab:gray" for name in names]
    ax.barh(names, medians, xerr=spans, color=colors, capsize=2)
    ax.invert_yaxis()
    ax.set_title(title, loc="left", fontsize=9)
    ax.set_xlabel(label, fontsize=8)
    ax.tick_params(labelsize=8)


def _figure(of: list[Row]) -> tuple[str, str]:
    if any(row.values("latency.p99") for row in of):
        return "latency.p99", "p99 latency, ms"
    if any(row.median("units") for row in of):
        return "rate", "units/s"
    extra = next(iter(of[0].runs[0].extra), "server_peak")
    return extra, extra.replace("_", " ")
