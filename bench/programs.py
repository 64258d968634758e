"""Servers that are programs of their own, as children of the server's role."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

__all__ = ["free_port", "running", "version_of"]

_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def version_of(program: str, *arguments: str, before: str, after: str) -> str:
    """Return what a program prints between two texts, or "" if it is not installed."""
    try:
        ran = subprocess.run([program, *arguments], capture_output=True, check=False)
    except OSError:
        return ""
    said = (ran.stdout + ran.stderr).decode(errors="replace")
    return said.partition(before)[2].partition(after)[0].strip()


@contextlib.asynccontextmanager
async def running(
    *command: str,
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program; enter when it accepts connections; kill it and its children.

    Args:
        command: the program and its arguments.
        port: where it listens.
        folder: where it works, and its output goes to `output`.
        environment: besides this process's.

    Raises:
        RuntimeError: it ended before it accepted a connection.
    """
    with (folder / "output").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        while not _accepts(port):
            if process.returncode is not None:
                said = (folder / "output").read_text(errors="replace")
                raise RuntimeError(f"{command[0]} ended: {said}")
            await asyncio.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _die_with_parent() -> None:
    """Have the program killed when the role is, which then cannot do it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
