"""Regressions between two files of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import quantity
from bench.results import read, rows

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["compare"]

_FIGURES = (("rate", True), ("latency.p99", False), ("server_peak", False))


def compare(before: Path, after: Path, *, peer: str = "ackline") -> str:
    """Return a table of the medians that both files have.

    A change is called one only where the spans of the two do not overlap: these
    machines are noisy.

    Raises:
        OSError: a file cannot be read.
        msgspec.DecodeError: a file holds no results.
    """
    old = {(row.workload, row.variant, row.peer): row for row in rows(read(before))}
    lines = [f"{'workload':52} {'figure':12} {'before':>10} {'after':>10} {'ratio':>6}"]
    for row in rows(read(after)):
        other = old.get((row.workload, row.variant, row.peer))
        if other is None or not row.peer.startswith(peer):
            continue
        for figure, more_is_better in _FIGURES:
            was, now = other.median(figure), row.median(figure)
            if not was or not now:
                continue
            ours, theirs = row.values(figure), other.values(figure)
            apart = min(ours) > max(theirs) or max(ours) < min(theirs)
            better = (now > was) == more_is_better
            word = ("better" if better else "WORSE") if apart else ""
            name = f"{row.workload}: {row.variant}"
            lines.append(
                f"{name:52} {figure:12} {quantity(was):>10} {quantity(now):>10}"
                f" {now / was:6.2f} {word}"
            )
    return "\n".join(lines)
