"""Real servers and clients, started, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
APP = "tests.acceptance.app:server"


def environment() -> dict[str, str]:
    """Return an environment without settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ACKLINE_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class ServerProcess:
    """An `ackline-server` on one data folder; a restart keeps its port."""

    def __init__(
        self, data_dir: Path, *options: str, app: str | None = APP, cwd: Path = ROOT
    ) -> None:
        self.data_dir = data_dir
        self.cwd = cwd
        self.options = options
        self.app = app
        self.port = free_port()
        self.metrics_port = free_port()
        self.process: asyncio.subprocess.Process | None = None
        self.log = data_dir.with_suffix(".log")

    @property
    def url(self) -> str:
        return f"ackline://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Start, and wait until it listens."""
        arguments = [
            f"--listen=127.0.0.1:{self.port}",
            f"--metrics=127.0.0.1:{self.metrics_port}",
            f"--data-dir={self.data_dir}",
            *([f"--app={self.app}"] if self.app else []),
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ackline.server",
                *arguments,
                cwd=self.cwd,
                env=environment(),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(50):
            line = b""
            while b"metrics" not in line:
                line = await self.process.stdout.readline()
                if not line:
                    raise AssertionError(self.log.read_text())

    async def kill(self) -> None:
        """Send SIGKILL and wait."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        send(self.process, number)
        async with asyncio.timeout(50):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def metrics(self) -> dict[str, float]:
        """Scrape the metrics: sample with labels to value."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        found = {}
        for line in text.splitlines():
            name, _space, value = line.rpartition(" ")
            with contextlib.suppress(ValueError):
                found[name] = float(value)
        return found

    def memory(self) -> int:
        """Return the peak resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def stored_files(self) -> list[Path]:
        """Return the files that hold objects and uploads."""
        return [p for p in (self.data_dir / "objects").rglob("*") if p.is_file()]


def send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal, if the process runs still.

    `Process.send_signal()` before Python 3.13 looks for an exit code first, and one
    that it finds is lost to `wait()`, which then returns 255.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


@contextlib.asynccontextmanager
async def running(
    data_dir: Path, *options: str, app: str | None = APP, cwd: Path = ROOT
) -> AsyncIterator[ServerProcess]:
    """Run a server until the block ends, whatever was done to it meanwhile."""
    server = ServerProcess(data_dir, *options, app=app, cwd=cwd)
    await server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.returncode is None:
            await server.terminate()


async def start_client(
    port: int, state: Path, *arguments: str, stdin: int | None = None
) -> asyncio.subprocess.Process:
    """Start the `ackline` command with --json."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ackline.client",
        f"--server=ackline://127.0.0.1:{port}",
        f"--state-dir={state}",
        "--json",
        *arguments,
        cwd=ROOT,
        env=environment(),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run_client(
    port: int, state: Path, *arguments: str, code: int = 0
) -> list[dict[str, Any]]:
    """Run the `ackline` command to its end and return its JSON lines."""
    process = await start_client(port, state, *arguments)
    out, errors = await process.communicate()
    assert process.returncode == code, errors.decode()
    return lines(out)


def lines(out: bytes) -> list[dict[str, Any]]:
    """Parse JSON lines; a torn last one is left out."""
    whole: Sequence[bytes] = out[: out.rfind(b"\n") + 1].splitlines()
    return [json.loads(line) for line in whole]
