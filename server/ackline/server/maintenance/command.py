"""The commands `ackline-server check` and `ackline-server backup`.

Exit codes: 0 all is well, 1 something is damaged, 2 it could not be done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.server.configuration import load_options
from ackline.server.maintenance.backup import MovingTarget, backup
from ackline.server.maintenance.check import check, stored_bytes
from ackline.server.options import OptionError
from ackline.server.stores.errors import StoreError
from ackline.server.stores.files import Files
from ackline.server.stores.folder import DataFolder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from ackline.server.maintenance.findings import Finding, Report

__all__ = ["COMMANDS", "run_command"]

DAMAGED = 1
IMPOSSIBLE = 2
INTERRUPTED = 130

COMMANDS = {
    "check": "verify every stored byte and record while no server runs",
    "backup": "copy everything, consistently, also while a server runs",
}
"""The commands, and what they are for."""

_REDRAW_SECONDS = 0.2


class _Impossible(Exception):  # noqa: N818 - it is an answer, not a defect
    """Say why nothing was done, and what to do."""


def run_command(words: Sequence[str]) -> int:
    """Run the command that the first word names; return its exit code."""
    arguments = _parser().parse_args(words)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `server_command`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        options = load_options(
            flags={"data_dir": arguments.data_dir},
            environment=os.environ,
            file=None if arguments.config is None else Path(arguments.config),
        )
        if arguments.command == "check":
            return _check(options.data_dir, repair=arguments.repair)
        return _backup(options.data_dir, arguments.target)
    except KeyboardInterrupt:
        print(f"interrupted{_unfinished(arguments)}", file=sys.stderr)
        return INTERRUPTED
    except (OptionError, StoreError, MovingTarget, _Impossible) as error:
        told = str(error)
    except sqlite3.Error as error:
        told = f"the records cannot be read: {error}"
    except OSError as error:
        told = f"{error.filename or 'file system'}: {error.strerror or error}"
        told += _unfinished(arguments)
    print(f"ackline-server {arguments.command}: {told}", file=sys.stderr)
    return IMPOSSIBLE


def _unfinished(arguments: argparse.Namespace) -> str:
    """Say what is left of a backup that was not finished, if it was one."""
    target: Path | None = getattr(arguments, "target", None)
    if target is None or not target.is_dir() or (target / "format").exists():
        return ""
    return f"; {target} is no backup: delete it and begin again"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ackline-server", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog="exit codes: 0 all is well, 1 something is damaged, 2 it could not"
            " be done",
            allow_abbrev=False,
        )
        command.add_argument(
            "--data-dir",
            metavar="FOLDER",
            help="the server's folder [ACKLINE_DATA_DIR] (ackline-data)",
        )
        command.add_argument(
            "--config", metavar="FILE", help="TOML file with the server's options"
        )
        if name == "check":
            command.add_argument(
                "--repair",
                action="store_true",
                help="remove what a crash left over; never what may have been"
                " acknowledged, and nothing at all if something is damaged",
            )
        else:
            command.add_argument(
                "target",
                metavar="TARGET",
                type=Path,
                help="new or empty folder for the copy; objects take no room where it"
                " is on the same file system",
            )
    return parser


def _check(folder: Path, *, repair: bool) -> int:
    if not folder.is_dir():
        raise _Impossible(f"{folder} does not exist; --data-dir names the folder")
    files = Files()
    held = DataFolder.existing(folder, files)
    try:
        with _Progress("checking", stored_bytes(folder)) as progress:
            report = check(folder, files, progress.advance)
        repaired = report.repair() if repair else []
    finally:
        held.close()
    print(f"{folder}: {_looked_at(report)}")
    for finding in report.damage:
        _print("damaged", finding)
    for finding in report.leftovers:
        _print("left over", finding)
    for finding in repaired:
        print(f"repaired: {finding.where}: {finding.problem}")
    if report.unlisted:
        print(f"and {report.unlisted:,} more of these")
    if not report.damage:
        print("nothing is damaged")
        return 0
    if repair and report.leftovers:
        print("nothing was repaired: what is damaged comes first")
    return DAMAGED


def _backup(folder: Path, target: Path) -> int:
    if not (folder / "format").exists():
        raise _Impossible(
            f"{folder} is no data folder; --data-dir names the server's folder"
        )
    if target.resolve().is_relative_to(folder.resolve()):
        raise _Impossible(f"{target} is inside {folder}; name another folder")
    files = Files()
    files.make_directory(target, parents=True)
    if any(target.iterdir()):
        raise _Impossible(
            f"{target} is not empty; name a new folder, one for each backup"
        )
    with _Progress("copying", stored_bytes(folder)) as progress:
        backup(folder, target, files, progress.advance)
    print(f"{folder} is copied to {target}")
    return _check(target, repair=False)


def _print(what: str, finding: Finding) -> None:
    print(f"{what}: {finding.where}: {finding.problem}\n    {finding.remedy}")


def _looked_at(report: Report) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in report.counts.items())


class _Progress:
    """A line on standard error that says how far it is, if that is a terminal."""

    def __init__(self, doing: str, total: int) -> None:
        self._doing = doing
        self._total = max(total, 1)
        self._done = 0
        self._shown = sys.stderr.isatty()
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def advance(self, size: int) -> None:
        """Take note of so many bytes more."""
        self._done += size
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _REDRAW_SECONDS
            share = min(self._done / self._total, 1)
            told = f"{self._doing}: {share:.0%} of {self._total / 2**20:,.0f} MiB"
            print(f"\r\033[K{told}", end="", file=sys.stderr, flush=True)
