"""`ackline top`, against the metrics port of a real server."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ackline.client import connect
from ackline.client.cli import screen
from ackline.client.cli.view import COLUMNS, HEADING, View
from ackline.client.cli.watching import Hello, Row, Totals, Update
from tests.client.processes import ROOT, as_shown, command, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.client.processes import ServerProcess


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[ServerProcess, str]]:
    """Return a server, and the URL of its metrics port."""
    arguments = ("--metrics=127.0.0.1:0",)
    async with running_server(folder / "data", arguments=arguments) as server:
        assert server.process.stdout is not None
        line = ""
        while "metrics" not in line:
            line = (await server.process.stdout.readline()).decode()
        url = next(word for word in line.split() if word.startswith("http://"))
        yield server, url.removesuffix("/metrics")


async def test_one_screen_shows_what_flows(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, url), connect(server.url) as client:
        parameters = {"events": 1000, "delay": 0.01}
        async with client.subscribe("sources/count", params=parameters) as events:
            await anext(aiter(events))
            shown = await command("top", f"--metrics={url}", folder=tmp_path)
            found = await command("top", "COUNT", f"--metrics={url}", folder=tmp_path)
            none = await command("top", "nowhere", f"--metrics={url}", folder=tmp_path)
            runs = await command(
                "top", "--use=run", f"--metrics={url}", "--json", "--once",
                folder=tmp_path,
            )  # fmt: skip
    assert (shown.code, shown.errors) == (0, "")
    assert (
        "0 not moving  1 connections  1 sessions  1 runs  streams: 1 str" in shown.out
    )
    subscribed = next(
        line for line in shown.out.splitlines() if line.startswith("subscribe")
    )
    assert "sources/count" in subscribed
    assert "anonymous 127.0.0.1:" in subscribed
    assert "sources/count" in found.out
    assert "sources/count" not in none.out
    assert [row["use"] for row in runs.lines[0]["rows"]] == ["run"]


async def test_a_terminal_shows_it_until_interrupted_and_survives_the_server(
    tmp_path: Path,
) -> None:
    shell, terminal = pty.openpty()
    async with watched(tmp_path) as (server, url):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ackline.client", "top", f"--metrics={url}",
            cwd=ROOT, stdin=terminal, stdout=terminal, stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
        )  # fmt: skip
        os.close(terminal)
        await shows(shell, b"streams: none")
        await server.kill()
        await shows(shell, b"trying again")
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode is not None
    assert (as_shown(process.returncode), errors) == (130, b"")
    os.close(shell)


async def shows(shell: int, text: bytes) -> None:
    """Read a terminal until it shows a text."""
    seen = b""
    async with asyncio.timeout(50):
        while text not in seen:
            seen += await asyncio.to_thread(os.read, shell, 65_536)


async def test_what_is_no_metrics_port_is_told(tmp_path: Path) -> None:
    async with running_server(tmp_path / "data") as server:
        for url, code, text in (
            (f"http://127.0.0.1:{server.port}", 4, "no metrics port of Ackline"),
            ("http://127.0.0.1:1", 4, "refused"),
            ("ftp://127.0.0.1", 2, "http://HOST:PORT"),
            ("http://127.0.0.1:port", 2, "no address"),
        ):
            done = await command("top", f"--metrics={url}", folder=tmp_path)
            assert done.code == code, url
            assert text in done.errors


def test_a_narrow_terminal_keeps_what_matters_most() -> None:
    assert screen._columns(200) == list(COLUMNS)
    assert screen._columns(80) == ["use", "what", "id", "state", "why", "progress"]
    assert screen._columns(40) == ["what", "state", "why", "progress"]


def test_the_heading_says_why_a_server_is_not_ready() -> None:
    before = Update(totals(), [], 0)
    now = Update(totals(at=1.0, problems=["disk: full"]), [], 0)
    view = View(Hello("x", [0.001]), before, now)
    assert view.heading()[HEADING:] == ["not ready: disk: full"]


def totals(**changed: object) -> Totals:
    values: dict[str, object] = {
        "at": 0.0, "uptime": 1.0, "received": 0, "sent": 0, "units": {"upload": 0},
        "ack_latency": {"upload": [0, 0, 0]}, "connections": 0, "sessions": 0,
        "runs": 0, "streams": {}, "stuck": 0, "problems": [],
    }  # fmt: skip
    return Totals(**(values | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "latency"),
    [([0, 0, 0], None), ([99, 1, 0], 0.001), ([90, 10, 0], 0.01), ([0, 0, 5], 0.01)],
)
def test_rates_and_latency_are_of_the_time_between(
    counts: list[int], latency: float | None
) -> None:
    row = Row("s/1", "upload", "objects/a", "uploads/1", "STREAMING", [], 10, total=40)
    before = Update(totals(), [row], 1)
    now = totals(
        at=2.0, received=2_000, units={"upload": 30}, ack_latency={"upload": counts}
    )
    later = Row(
        "s/1", "upload", "objects/a", "uploads/1", "STREAMING", [], 30, total=40
    )
    view = View(Hello("x", [0.001, 0.01]), before, Update(now, [later], 1))
    assert (view.received, view.units["upload"]) == (1_000, 15)
    assert view.latency == latency
    assert view.speed(later) == 10
    assert "75 %" in view.cells(later)
