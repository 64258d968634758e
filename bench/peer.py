"""What a peer is to the harness: roles for the workloads it can do.

A role is an async function. A server's listens, calls `ready` with its address, and is
cancelled when it is no longer needed. A client's connects, does the work inside
`with job.clock:`, checks what it got, and returns what it measured.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from msgspec import Struct

from bench.latency import Summary
from bench.processes import cpu_seconds, peak_memory, tree

if TYPE_CHECKING:
    from types import TracebackType

    from bench.specs import Spec

__all__ = [
    "MEMORY",
    "Address",
    "Job",
    "Measured",
    "Peer",
    "Ready",
    "Stopwatch",
    "check",
    "use_memory",
]

S = TypeVar("S")

MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs is what is measured


class Address(Struct, frozen=True, kw_only=True):
    """Where a server listens, and which processes are measured as the server.

    Attributes:
        host, port: where it listens.
        pids: the processes whose descendants, and they themselves, are the server;
            the process of the role itself if empty.
        extra: anything else its client has to know.
    """

    host: str = "127.0.0.1"
    port: int
    pids: list[int] = []
    extra: dict[str, Any] = {}


Ready: TypeAlias = Callable[[Address], Awaitable[None]]


class Measured(Struct, frozen=True, kw_only=True):
    """What a client's role returns.

    Attributes:
        units: bytes or events done while the clock ran.
        checked: what was compared to find that the work was done right.
        latency: of events that have a time when they are due.
        extra: more figures, by name with their unit: `{"resent_bytes": 0}`.
    """

    units: int
    checked: str
    latency: Summary | None = None
    extra: dict[str, float] = {}


class Stopwatch:
    """Measures the block it is entered for, in this process and the server's.

    Args:
        server_pids: the roots of the server's processes.
        memory: bytes that the block will use; they are used once before it. A virtual
            machine gives back what is free for some seconds, and who then gets it again
            pays for that: 0.5 instead of 3 GB/s into the page cache.

    Attributes:
        seconds, client_cpu, server_cpu: of the block.
        client_peak, server_peak: largest resident memory up to its end, in bytes.
    """

    def __init__(self, server_pids: list[int], memory: int = 0) -> None:
        self._pids = server_pids
        self._memory = memory
        self.seconds = self.client_cpu = self.server_cpu = 0.0
        self.client_peak = self.server_peak = 0

    def __enter__(self) -> Self:
        gc.collect()
        use_memory(self._memory)
        self._client_cpu = cpu_seconds(tree(os.getpid()))
        self._server_cpu = cpu_seconds(self.server())
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        client = tree(os.getpid())
        self.server_cpu = cpu_seconds(self.server()) - self._server_cpu
        self.client_cpu = cpu_seconds(client) - self._client_cpu
        self.server_peak = peak_memory(self.server())
        self.client_peak = peak_memory(client)

    def server(self) -> list[int]:
        """Return the server's processes."""
        return [pid for root in self._pids for pid in tree(root)]


def use_memory(memory: int) -> None:
    """Use so many bytes of memory, so that a virtual machine has them."""
    piece = bytes(1 << 16)
    with tempfile.TemporaryFile(dir=MEMORY) as file:
        for _ in range(memory >> 16):
            file.write(piece)


@dataclass(frozen=True, slots=True)
class Job:
    """What a role works with.

    Attributes:
        folder: an empty one of its own, on the device that the spec asks for.
        source: the file to transfer, for uploads and fetches.
        crc: CRC-32C of it.
        server: where the server is; for the server itself, the host to listen at.
        clock: (client only).
        option: which of the module's variants of the peer this is, or "".
    """

    folder: Path
    source: Path
    crc: int
    server: Address
    clock: Stopwatch
    option: str


ServerRole: TypeAlias = Callable[[Any, Job, Ready], Awaitable[None]]
ClientRole: TypeAlias = Callable[[Any, Job], Awaitable[Measured]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One thing to measure. A module has one, in the variable `peer`.

    Attributes:
        title: name and version as in the tables.
        settings: how it was set up, for whoever asks whether that was fair.
        extra: of this project, that installs its Python packages.
        programs: that must be installed, with the Debian or npm package that has them.
        folders: that must exist, with the command that makes them.
        options: variants of it, such as `crc` of `raw`, measured as `raw-crc`.
        only: the workloads that an option is for, where it is not for all.
        uvloop: whether its processes run uvloop.
        tls: whether its roles speak TLS where the spec asks for it.
        able: whether a measurement makes sense for it.
    """

    title: str
    settings: str
    extra: str = ""
    programs: dict[str, str] = field(default_factory=dict)
    folders: dict[Path, str] = field(default_factory=dict)
    options: tuple[str, ...] = ("",)
    only: dict[str, tuple[type, ...]] = field(default_factory=dict)
    uvloop: bool = True
    tls: bool = False
    able: Callable[[Spec], bool] = lambda _: True
    servers: dict[type, ServerRole] = field(default_factory=dict)
    clients: dict[type, ClientRole] = field(default_factory=dict)

    def server(
        self, *specs: type
    ) -> Callable[
        [Callable[[S, Job, Ready], Awaitable[None]]],
        Callable[[S, Job, Ready], Awaitable[None]],
    ]:
        """Take a function as the server's role in these workloads."""

        def register(
            role: Callable[[S, Job, Ready], Awaitable[None]],
        ) -> Callable[[S, Job, Ready], Awaitable[None]]:
            for spec in specs:
                self.servers[spec] = role
            return role

        return register

    def client(
        self, *specs: type
    ) -> Callable[
        [Callable[[S, Job], Awaitable[Measured]]],
        Callable[[S, Job], Awaitable[Measured]],
    ]:
        """Take a function as the client's role in these workloads."""

        def register(
            role: Callable[[S, Job], Awaitable[Measured]],
        ) -> Callable[[S, Job], Awaitable[Measured]]:
            for spec in specs:
                self.clients[spec] = role
            return role

        return register

    def missing(self) -> str:
        """Return what has to be installed before it can be measured."""
        lacking = [
            f"{program} (package {package})"
            for program, package in self.programs.items()
            if shutil.which(program) is None
        ]
        lacking += [
            f"{folder.name} ({command})"
            for folder, command in self.folders.items()
            if not folder.is_dir()
        ]
        return ", ".join(lacking)

    def does(self, spec: Spec, option: str = "") -> bool:
        """Tell whether it has roles for a workload."""
        kind = type(spec)
        roles = kind in self.servers and kind in self.clients
        roles = roles and kind in self.only.get(option, (kind,))
        tls = getattr(spec, "tls", False)
        return roles and (self.tls or not tls) and self.able(spec)


def check(right: bool, text: str) -> None:
    """Fail the measurement if its result is wrong."""
    if not right:
        raise AssertionError(f"wrong result: {text}")
