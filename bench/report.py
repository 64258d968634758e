"""Tables in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.results import Row, rows
from bench.workloads import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.results import Result

__all__ = ["markdown", "quantity"]

_LEGEND = """\
Medians, with (minimum to maximum) of all repetitions. CPU is processor time for each MB
or each thousand events. Memory is the largest resident size of all processes of that
side."""
_BYTES = ("upload", "fetch", "mixed", "resume")


def markdown(
    results: Iterable[Result], machine: Mapping[str, str], skipped: Mapping[str, str]
) -> str:
    """Return the report on `results`."""
    found = rows(results)
    lines = ["# Benchmarks", "", ", ".join(f"{k} {v}" for k, v in machine.items()), ""]
    lines += [_LEGEND, ""]
    for workload in dict.fromkeys(row.workload for row in found):
        lines += [f"## {workload}", ""]
        variants = [row for row in found if row.workload == workload]
        for variant in dict.fromkeys(row.variant for row in variants):
            of = [row for row in variants if row.variant == variant]
            lines += [f"### {workload}: {variant}", "", *_table(of), ""]
    lines += _targets(found)
    if skipped:
        lines += ["## Not measured", ""]
        lines += [f"- {peer}: {reason}" for peer, reason in skipped.items()]
    return "\n".join(lines).rstrip() + "\n"


def quantity(value: float, unit: str = "") -> str:
    """Return a figure with three digits and a prefix of 1,000."""
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def _table(found: list[Row]) -> list[str]:
    timed = any(row.median("units") for row in found)
    latencies = any(row.values("latency.p99") for row in found)
    extras = list(dict.fromkeys(name for row in found for name in row.runs[0].extra))
    head = ["peer"]
    if timed:
        head += ["rate", "of raw", "server CPU", "client CPU"]
    head += ["server memory", "client memory"]
    if latencies:
        head += ["p50 ms", "p99 ms", "p99.9 ms", "max ms"]
    head += [name.replace("_", " ") for name in extras]
    table = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    raw = next((row.median("rate") for row in found if row.peer == "raw"), None)
    for row in found:
        cells = [row.peer]
        if timed:
            cells += _rate(row, raw)
        cells += [_span(row, "server_peak", "B"), _span(row, "client_peak", "B")]
        if latencies:
            for part in ("p50", "p99", "p999", "max"):
                cells.append(_span(row, f"latency.{part}"))
        cells += [_span(row, name) for name in extras]
        table.append(_line(cells))
    return table


def _rate(row: Row, raw: float | None) -> list[str]:
    is_bytes = row.workload in _BYTES
    per, unit = (1e6, "B/s") if is_bytes else (1e3, "/s")
    rate = row.median("rate") or 0.0
    return [
        _span(row, "rate", unit),
        f"{rate / raw:.2f}" if raw else "",
        f"{row.cost('server') * per * 1e3:.3g} ms",
        f"{row.cost('client') * per * 1e3:.3g} ms",
    ]


def _span(row: Row, name: str, unit: str = "") -> str:
    values = row.values(name)
    if not values:
        return ""
    low, high = quantity(min(values)), quantity(max(values))
    return f"{quantity(row.median(name) or 0.0, unit)} ({low} to {high})"


def _targets(found: list[Row]) -> list[str]:
    compared = verdicts(found)
    if not compared:
        return []
    lines = ["## What must be reached", ""]
    lines += [_line(["workload", "figure", "bound", "ackline", "", "met"])]
    lines += [_line(["---"] * 6)]
    for target, variant, figure, bound in compared:
        of = f"{target.factor:g} x {target.peer}" if target.peer else ""
        sign = "at least" if target.least else "at most"
        met = figure >= bound if target.least else figure <= bound
        lines.append(
            _line(
                [
                    f"{target.workload}: {variant}",
                    target.figure,
                    f"{sign} {quantity(bound)}",
                    quantity(figure),
                    of,
                    "yes" if met else "**no**",
                ]
            )
        )
    return [*lines, ""]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
