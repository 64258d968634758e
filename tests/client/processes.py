"""Real processes: servers, and the `ackline` command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class ServerProcess:
    """A server that runs."""

    url: str
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def running_server(
    folder: Path, *, port: int = 0, arguments: tuple[str, ...] = ()
) -> AsyncIterator[ServerProcess]:
    """Run a server on a free port until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ackline.server",
        f"--listen=127.0.0.1:{port}",
        "--metrics=off",
        f"--data-dir={folder}",
        "--app=tests.client.app:server",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(50):
            while True:
                line = (await process.stdout.readline()).decode()
                assert line, "the server did not start"
                if "clients" in line:
                    break
        yield ServerProcess(line.split()[-1], process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    errors: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def start_command(
    *arguments: str,
    folder: Path,
    stdin: int | None = None,
    stderr: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start the `ackline` command; its state is in `folder`."""
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("ACKLINE_SERVER", None)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ackline.client",
        *arguments,
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


def as_shown(code: int) -> int:
    """Return an exit code as a shell shows it, where a signal ended the process."""
    return code if code >= 0 else 128 - code


async def finish(process: asyncio.subprocess.Process, data: bytes = b"") -> Done:
    """Wait for a command."""
    out, errors = await process.communicate(data or None)
    assert process.returncode is not None
    return Done(as_shown(process.returncode), out.decode(), (errors or b"").decode())


async def command(*arguments: str, folder: Path, data: bytes | None = None) -> Done:
    """Run the `ackline` command."""
    stdin = None if data is None else asyncio.subprocess.PIPE
    return await finish(
        await start_command(*arguments, folder=folder, stdin=stdin), data or b""
    )


def interrupt(process: asyncio.subprocess.Process) -> None:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)
