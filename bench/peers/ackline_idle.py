"""What Ackline takes to stand by: memory of idle streams, time to start."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ackline.client import ClientOptions, connect
from bench.idling import cost_of_each
from bench.peer import Job, Measured, check

if TYPE_CHECKING:
    from bench.specs import Idle, Start

__all__ = ["idle", "start"]

WINDOW = 4 << 10
"""A client's window for each stream; it is of no matter to the server's memory."""


async def idle(spec: Idle, job: Job) -> Measured:
    """Subscribe and wait: a connection each, or many on each connection."""
    resource = "logs/idle" if spec.kind == "log" else "sources/idle"
    url = f"ackline://127.0.0.1:{job.server.port}"
    options = ClientOptions(receive_memory=spec.streams * WINDOW + (64 << 20))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(connect(url, options=options))
        async with first.publish("idle") as publisher:
            await publisher.send(b"the log is there")
        shared = [
            await stack.enter_async_context(connect(url, options=options))
            for _ in range(spec.connections if spec.connections < spec.streams else 0)
        ]
        turns = itertools.cycle(shared)

        async def opened() -> None:
            client = (
                next(turns)
                if shared
                else await stack.enter_async_context(connect(url, options=options))
            )
            subscription = client.subscribe(resource, window_bytes=WINDOW)
            await stack.enter_async_context(subscription)

        return await cost_of_each(spec.streams, job, opened)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


async def _import(module: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import {module}", env=_environment()
    )
    check(await process.wait() == 0, f"{module} cannot be imported")


async def start(_: Start, job: Job) -> Measured:
    """Import the client; start a server and connect to it."""
    for module in ("ackline.client", "ackline.server.cli"):
        await _import(module)  # compiles, as an installation does
    began = time.perf_counter()
    await _import("ackline.client")
    imported = time.perf_counter()
    arguments = ["--listen=127.0.0.1:0", "--metrics=off"]
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ackline.server", f"--data-dir={job.folder / 'data'}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    try:
        assert server.stdout is not None
        url = ""
        async for line in server.stdout:
            if b"clients" in line:
                url = line.split()[-1].decode()
                break
        async with connect(url):
            accepted = time.perf_counter()
    finally:
        server.kill()
        await server.wait()
    check(bool(url), "the server did not say where it listens")
    return Measured(
        units=0,
        checked="that a client was accepted",
        extra={
            "import_ms": (imported - began) * 1e3,
            "start_ms": (accepted - imported) * 1e3,
        },
    )
