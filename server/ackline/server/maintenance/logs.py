"""Checking logs: every record of every segment, and that nothing is missing."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ackline.server import outcomes
from ackline.server.maintenance.records import RESTORE
from ackline.server.maintenance.segmentcheck import SegmentCheck, Tail, Verdict
from ackline.server.stores.segments import Segment, opened

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from ackline.server.maintenance.findings import Report
    from ackline.server.stores.files import Files

__all__ = ["check_logs"]

_SEGMENT = re.compile(r"([0-9]{20})\.log")

_AFTER_POWER_CUT = (
    f"after a power cut start the server, which cuts it off; else {RESTORE}"
)

_LOGS = "SELECT log_id, name, salt, kinds, sealed, synced_to FROM logs ORDER BY name"


class _Log(NamedTuple):
    """A row of the logs."""

    log_id: str
    name: str
    salt: int
    kinds: str
    sealed: bytes | None
    synced_to: int


def check_logs(
    files: Files, folder: Path, connection: sqlite3.Connection, report: Report
) -> None:
    """Check the folder of logs.

    Raises:
        OSError: A file cannot be read.
    """
    sizes = files.sizes(folder)
    for row in connection.execute(_LOGS):
        log = _Log(*row)
        report.counts["logs"] += 1
        if sizes.pop(log.log_id, None) is None:
            report.damaged(_label(log), "its folder is missing", _remedy(log))
        else:
            _check_log(files, folder / log.log_id, log, report)
    for name in sorted(sizes):
        report.left(
            f"{folder.name}/{name}",
            "no record names it",
            partial(files.remove_directory, folder / name),
        )


def _check_log(files: Files, folder: Path, log: _Log, report: Report) -> None:
    segments = _segments(files, folder, log, report)
    kinds = len(json.loads(log.kinds))
    state = SegmentCheck(files, log.salt, kinds=kinds, report=report)
    before = len(report.damage)
    for number, segment in enumerate(segments):
        where = f"{_label(log)}, {segment.path.name}"
        if number and state.next_id != segment.first_id:
            problem = f"events {state.next_id} to {segment.first_id - 1} are missing"
            report.damaged(where, problem, _remedy(log))
        tail = state.check(segment, where, _remedy(log))
        if tail is None:
            continue
        if segment is not segments[-1] or state.next_id < log.synced_to:
            tail = tail._replace(verdict=Verdict.DAMAGED)
        if tail.verdict is Verdict.CUT_SHORT:
            _leave_tail(files, segment, tail, where, report, alone=not number)
            continue
        report.damaged(
            where,
            f"from byte {tail.offset} on: {tail.verdict.value}",
            _AFTER_POWER_CUT if tail.verdict is Verdict.UNCLEAR else _remedy(log),
        )
    if len(report.damage) == before:
        _check_end(log, state.next_id, report)


def _segments(files: Files, folder: Path, log: _Log, report: Report) -> list[Segment]:
    found: list[Segment] = []
    for name, size in sorted(files.sizes(folder).items()):
        match = _SEGMENT.fullmatch(name)
        if match is None:
            report.damaged(
                f"{_label(log)}, {name}",
                "no server made this file",
                "see what it is, and move it away",
            )
        else:
            found.append(Segment(first_id=int(match[1]), path=folder / name, size=size))
    return found


def _leave_tail(
    files: Files,
    segment: Segment,
    tail: Tail,
    where: str,
    report: Report,
    *,
    alone: bool,
) -> None:
    """Note what a crash left of a write that nobody was told of."""
    if tail.offset:
        repair = partial(_cut, files, segment.path, tail.offset)
    elif alone and segment.first_id:
        report.damaged(where, "its beginning cannot be read", RESTORE)
        return
    else:
        repair = partial(files.unlink, segment.path)
    size = segment.size - tail.offset
    what = tail.verdict.value if tail.offset else "a file that was being begun"
    report.left(where, f"{what} ({size:,} bytes)", repair)


def _check_end(log: _Log, next_id: int, report: Report) -> None:
    """Check that the log goes as far as it is known to have gone."""
    wanted, why = log.synced_to, "were stored"
    if log.sealed is not None and not _of_run(log):
        position = outcomes.load(log.sealed).position
        if position > wanted:
            wanted, why = position, "were there when it was sealed"
    if next_id < wanted:
        report.damaged(
            _label(log), f"events {next_id} to {wanted - 1} {why}", _remedy(log)
        )


def _cut(files: Files, path: Path, size: int) -> None:
    with opened(files, path, os.O_RDWR) as fd:
        files.truncate(fd, size)
        files.fdatasync(fd)


def _label(log: _Log) -> str:
    return f"logs/{log.log_id} ({log.name!r})"


def _of_run(log: _Log) -> bool:
    """Tell whether it is of a durable run: no client could give it its name."""
    return log.name.startswith(" ")


def _remedy(log: _Log) -> str:
    if _of_run(log):
        return RESTORE
    return f"{RESTORE}, or delete the log: ackline delete 'logs/{log.name}'"
