"""Plots as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.results import Row, rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.results import Result

__all__ = ["plot", "plot_scale"]


def plot(results: Iterable[Result], stem: Path) -> None:
    """Write `STEM.svg`: for each variant a bar a peer, with its minimum and maximum.

    Nothing is written where matplotlib is not installed.
    """
    by: dict[str, list[Row]] = {}
    for row in rows(results):
        by.setdefault(f"{row.workload}: {row.variant}", []).append(row)
    heights = [0.8 + 0.3 * len(of) for of in by.values()]
    figure = _new_figure(8, sum(heights))
    if figure is None:
        return
    axes = figure.subplots(len(by), 1, squeeze=False, height_ratios=heights)
    for (title, of), ax in zip(by.items(), axes[:, 0], strict=True):
        _bars(ax, title, of)
    figure.savefig(stem.with_suffix(".svg"))


def plot_scale(results: Iterable[Result], varied: str, stem: Path) -> None:
    """Write `STEM.svg`: what a unit costs each side, along what is varied."""
    figure = _new_figure(8, 5)
    if figure is None:
        return
    ax = figure.subplots()
    by: dict[str, list[Row]] = {}
    for row in rows(results):
        by.setdefault(row.peer, []).append(row)
    for peer, of in by.items():
        along = [float(str(row.runs[0].spec[varied])) for row in of]
        for side, style in (("server", "-o"), ("client", "--s")):
            costs = [row.cost(side) * 1e6 for row in of]
            ax.plot(along, costs, style, label=f"{peer} {side}", markersize=4)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel(varied.replace("_", " "))
    ax.set_ylabel("processor time for a unit (byte or event), µs")
    ax.legend(fontsize=8)
    figure.savefig(stem.with_suffix(".svg"))


def _new_figure(width: float, height: float) -> Figure | None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


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
