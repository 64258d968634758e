"""Runs every peer on the same work, in turn: A B C A B C."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

import msgspec
from msgspec.structs import replace

from bench.data import make_source
from bench.machine import commit
from bench.peer import MEMORY, Address, Peer
from bench.peers import MODULES
from bench.results import Result
from bench.role import Assignment, Report, load_peer
from bench.slow_link import Between, between
from bench.specs import Spec

__all__ = ["Contender", "Failure", "Runner", "contenders"]

START_SECONDS = 60.0
RUN_SECONDS = 120.0


class Failure(Exception):  # noqa: N818 - not an error of the harness
    """A run that did not come to its end, or to a wrong one."""


class Contender:
    """One way to do the work: a peer with one of its options.

    Attributes:
        name: `raw-crc`.
        module: of `bench.peers`.
    """

    def __init__(self, module: str, option: str, peer: Peer) -> None:
        self.module, self.option, self.peer = module, option, peer
        self.name = f"{module}-{option}" if option else module

    def does(self, spec: Spec) -> bool:
        """Tell whether it has roles for a workload."""
        return self.peer.does(spec, self.option)


def contenders(names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """Return those that can run here, and why the others cannot.

    Args:
        names: of peers (`raw`) or their options (`raw-crc`); all if empty.
    """
    able: list[Contender] = []
    skipped: dict[str, str] = {}
    for module in MODULES:
        if names and not any(_named(name, module) for name in names):
            continue
        try:
            peer = load_peer(module)
        except ImportError as error:
            skipped[module] = f"{error}: pip install '.[bench-{module}]'"
            continue
        if missing := peer.missing():
            skipped[module] = f"needs {missing}"
            continue
        for option in peer.options:
            contender = Contender(module, option, peer)
            if not names or module in names or contender.name in names:
                able.append(contender)
    return able, skipped


def _named(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}-")


class Runner:
    """Starts the processes of a run.

    Args:
        disk: a folder on the disk that is measured.

    Attributes:
        sources: the files that are transferred, by size, with their CRC-32C.
    """

    def __init__(self, disk: Path) -> None:
        self._commit = commit()
        self._disk = disk
        self._shared = Path(tempfile.mkdtemp(prefix="ackline-bench-", dir=MEMORY))
        self.sources: dict[int, tuple[Path, int]] = {}

    def run(self, contender: Contender, spec: Spec, repetition: int) -> Result:
        """Measure once.

        Raises:
            Failure: it did not work.
        """
        base = self._disk if getattr(spec, "folder", "memory") == "disk" else MEMORY
        folder = Path(tempfile.mkdtemp(prefix="ackline-bench-", dir=base))
        try:
            report = self._report(contender, spec, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        measured = report.measured
        return Result(
            workload=type(spec).__name__.lower(),
            variant=spec.variant,
            peer=contender.name,
            spec=msgspec.to_builtins(spec),
            repetition=repetition,
            commit=self._commit,
            units=measured.units,
            seconds=report.seconds,
            client_cpu=report.client_cpu,
            server_cpu=report.server_cpu,
            client_peak=report.client_peak,
            server_peak=report.server_peak,
            latency=measured.latency,
            extra=measured.extra,
            checked=measured.checked,
        )

    def close(self) -> None:
        """Delete the files that were transferred."""
        shutil.rmtree(self._shared, ignore_errors=True)

    def _report(self, contender: Contender, spec: Spec, folder: Path) -> Report:
        source, crc = self._source(getattr(spec, "size", 0))
        (folder / "server").mkdir()
        (folder / "client").mkdir()
        with between(getattr(spec, "link", "loopback")) as link:
            assignment = Assignment(
                peer=contender.module,
                option=contender.option,
                spec=spec,
                folder=str(folder / "server"),
                source=str(source),
                crc=crc,
                server=Address(host=link.host, port=0),
            )
            with _Process("server", assignment, link) as server:
                address = msgspec.json.decode(server.line(START_SECONDS), type=Address)
                theirs = replace(
                    assignment,
                    folder=str(folder / "client"),
                    server=link.reach(address),
                )
                with _Process("client", theirs, link) as client:
                    return msgspec.json.decode(client.line(RUN_SECONDS), type=Report)

    def _source(self, size: int) -> tuple[Path, int]:
        if size < 1 << 20:  # the size of an event: nothing is transferred
            return Path(), 0
        if size not in self.sources:
            self.sources[size] = make_source(self._shared, size)
        return self.sources[size]


class _Process:
    """A role in a process of its own."""

    def __init__(self, side: str, assignment: Assignment, link: Between) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [*link.command(side), sys.executable, "-m", "bench.role", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(assignment) + b"\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=20)  # ends its standard input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def line(self, seconds: float) -> bytes:
        """Return the line of JSON that it prints.

        Raises:
            Failure: it ends or is late.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line.startswith(b"{"):
            return line
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        said = (line + self._errors.read()).decode(errors="replace").strip()
        raise Failure(said or f"nothing came within {seconds:.0f} s")
