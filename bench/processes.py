"""Processes as the kernel sees them: their CPU time, memory and processors."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["cpu_seconds", "peak_memory", "pin", "resident_memory", "tree"]

_TICK = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


def pin(side: str) -> None:
    """Keep this process and its children to one processor.

    The first one allowed is the server's, the second the client's; with only one there
    is nothing to choose.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) > 1:
        os.sched_setaffinity(0, {allowed[0 if side == "server" else 1]})


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found, at = [pid], 0
    while at < len(found):
        with contextlib.suppress(*_GONE):
            for task in Path(f"/proc/{found[at]}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        at += 1
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return what processes and their ended children have used, in steps of 10 ms."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(*_GONE):
            stat = Path(f"/proc/{pid}/stat").read_text()
            ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / _TICK


def peak_memory(pids: list[int]) -> int:
    """Return the sum of the processes' largest resident memory, in bytes."""
    return _memory(pids, "VmHWM:")


def resident_memory(pids: list[int]) -> int:
    """Return the sum of the processes' resident memory now, in bytes."""
    return _memory(pids, "VmRSS:")


def _memory(pids: list[int], field: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field):
                    total += int(line.split()[1]) * 1024
    return total
