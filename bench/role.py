"""The process in which a peer is a server or a client: `python -m bench.role SIDE`.

Reads an `Assignment` as a line of JSON. A server prints its `Address` and serves until
its standard input ends; a client prints its `Report`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import resource
import sys
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from bench.peer import Address, Job, Measured, Peer, Stopwatch, use_memory
from bench.processes import pin
from bench.specs import Mixed, Spec

__all__ = ["Assignment", "Report", "load_peer"]


class Assignment(Struct, frozen=True, kw_only=True):
    """What a process is to do; the fields are those of `Job`."""

    peer: str
    option: str
    spec: Spec
    folder: str
    source: str
    crc: int
    server: Address


class Report(Struct, frozen=True, kw_only=True):
    """What a client's process measured."""

    measured: Measured
    seconds: float
    client_cpu: float
    server_cpu: float
    client_peak: int
    server_peak: int


def load_peer(module: str) -> Peer:
    """Return the peer of a module of `bench.peers`.

    Raises:
        ImportError: a package that it needs is not installed.
    """
    peer = importlib.import_module(f"bench.peers.{module}").peer
    assert isinstance(peer, Peer)
    return peer


async def _serve(peer: Peer, assignment: Assignment, job: Job) -> None:
    async def ready(address: Address) -> None:
        pids = address.pids or [os.getpid()]
        host = job.server.host
        address = msgspec.structs.replace(address, host=host, pids=pids)
        sys.stdout.buffer.write(msgspec.json.encode(address) + b"\n")
        sys.stdout.buffer.flush()

    role = peer.servers[type(assignment.spec)]
    serving = asyncio.ensure_future(role(assignment.spec, job, ready))
    stop = asyncio.ensure_future(_end_of_input())
    await asyncio.wait([serving, stop], return_when=asyncio.FIRST_COMPLETED)
    if not stop.done():
        serving.result()
        await stop  # it needs no code of its own to go on serving
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _end_of_input() -> None:
    # Not in a thread: one that still reads would keep a role that failed from ending.
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


async def _measure(peer: Peer, assignment: Assignment, job: Job) -> None:
    measured = await peer.clients[type(assignment.spec)](assignment.spec, job)
    clock = job.clock
    report = Report(
        measured=measured,
        seconds=clock.seconds,
        client_cpu=clock.client_cpu,
        server_cpu=clock.server_cpu,
        client_peak=clock.client_peak,
        server_peak=clock.server_peak,
    )
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Do what standard input says."""
    side = sys.argv[1]
    pin(side)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    peer = load_peer(assignment.peer)
    memory = 2 * getattr(assignment.spec, "size", 0)
    if isinstance(assignment.spec, Mixed):  # tokens are due before its clock starts
        use_memory(memory)
        memory = 0
    job = Job(
        folder=Path(assignment.folder),
        source=Path(assignment.source),
        crc=assignment.crc,
        server=assignment.server,
        clock=Stopwatch(assignment.server.pids, memory),
        option=assignment.option,
    )
    run = uvloop.run if peer.uvloop else asyncio.run
    run((_serve if side == "server" else _measure)(peer, assignment, job))


if __name__ == "__main__":
    main()
