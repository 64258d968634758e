"""Results: a line of JSON for each run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.latency import Summary

__all__ = ["Result", "Row", "read", "rows", "write"]


class Result(Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        workload, variant, peer: what was measured.
        spec: its parameters.
        repetition: from 0.
        commit: of this project.
        units: bytes or events.
        seconds: of the work.
        client_cpu, server_cpu: seconds of processor time during the work.
        client_peak, server_peak: largest resident memory, in bytes.
        latency: in milliseconds.
        extra: more figures.
        checked: what shows that the result was right.
    """

    workload: str
    variant: str
    peer: str
    spec: dict[str, object]
    repetition: int
    commit: str
    units: int
    seconds: float
    client_cpu: float
    server_cpu: float
    client_peak: int
    server_peak: int
    latency: Summary | None
    extra: dict[str, float]
    checked: str

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds if self.seconds else 0.0


class Row:
    """All runs of one peer on one variant of a workload."""

    def __init__(self, runs: list[Result]) -> None:
        self.runs = runs
        self.workload, self.variant = runs[0].workload, runs[0].variant
        self.peer = runs[0].peer

    def values(self, name: str) -> list[float]:
        """Return a figure of each run.

        Args:
            name: an attribute of `Result`, `latency.p99`, or a name in `extra`.
        """
        found: list[float] = []
        for run in self.runs:
            if name.startswith("latency."):
                part = name.removeprefix("latency.")
                value = getattr(run.latency, part) if run.latency else None
            else:
                value = getattr(run, name, run.extra.get(name))
            if value is not None:
                found.append(float(value))
        return found

    def median(self, name: str) -> float | None:
        """Return the median of a figure; None if it was not measured."""
        values = self.values(name)
        return statistics.median(values) if values else None

    def cost(self, side: str) -> float:
        """Return the median CPU seconds a unit of `client` or `server`."""
        used = zip(self.values(f"{side}_cpu"), self.values("units"), strict=True)
        return statistics.median(cpu / max(units, 1.0) for cpu, units in used)


def read(path: Path) -> list[Result]:
    """Return the results in a file.

    Raises:
        OSError: it cannot be read.
        msgspec.DecodeError: it holds something else.
    """
    decoder = msgspec.json.Decoder(Result)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()[1:]]


def write(path: Path, machine: dict[str, str], results: Iterable[Result]) -> None:
    """Write the machine's description and the results."""
    lines = [msgspec.json.encode({"machine": machine})]
    lines += map(msgspec.json.encode, results)
    path.write_bytes(b"\n".join(lines) + b"\n")


def rows(results: Iterable[Result]) -> list[Row]:
    """Return the results by workload, variant and peer, in the order measured."""
    by: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        by.setdefault((result.workload, result.variant, result.peer), []).append(result)
    return [Row(runs) for runs in by.values()]
