"""What clients keep while the metrics are read: `python -m bench.watched`.

Two servers share a processor, one scraped once a second, one with `--metrics=off`; a
client on another processor uses one after the other. Both are warm and only one works,
so a pair of measurements differs by the metrics and by the machine's mood, which the
median over the pairs takes out.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client import Client, connect
from bench.processes import pin

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["main"]

SECONDS = 1.0
"""Of one measurement: a scrape."""

LEAST = 0.98
"""Of its throughput without metrics that a client keeps."""

PAIRS = 24
"""Measurements of each server: a minute for each workload."""

OBJECT = bytes(32 * 2**20)

ACCEPT = "application/openmetrics-text; version=1.0.0"
"""What Prometheus asks for."""


async def _subscribe(client: Client) -> float:
    arguments = {"count": 10**9, "size": 64}
    async with client.subscribe("sources/events", params=arguments) as events:
        moved = 0
        began = time.perf_counter()
        async for _ in events:
            moved += 1
            if not moved % 1024 and time.perf_counter() > began + SECONDS:
                break
        taken = time.perf_counter() - began
        await events.cancel(work=True)
    return moved / taken


async def _upload(client: Client) -> float:
    moved, began = 0, time.perf_counter()
    while time.perf_counter() < began + SECONDS:
        await client.upload(OBJECT, "object", existing="replace", state=False)
        moved += len(OBJECT)
    return moved / (time.perf_counter() - began)


WORKLOADS = {"subscribe": _subscribe, "upload": _upload}


@contextmanager
def _server(folder: Path, metrics: str) -> Generator[tuple[str, str]]:
    """Run a server; give its URL, and that of its metrics."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "ackline.server", "--app=bench.app:server"),
            *("--listen=127.0.0.1:0", f"--data-dir={folder}", f"--metrics={metrics}"),
            *("--durability=written", "--log-level=error"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin("server"),  # noqa: PLW1509 - no threads here
    )
    try:
        assert server.stdout is not None
        text = "".join(takewhile(lambda line: "sinks" not in line, server.stdout))
        yield (
            re.findall(r"ackline://\S+", text)[0],
            "".join(re.findall(r"http://\S+/metrics", text)),
        )
    finally:
        server.kill()
        server.wait()


@contextmanager
def _scraper(url: str) -> Generator[subprocess.Popen[bytes]]:
    """Run what asks for metrics once a second; it is to be stopped and continued."""
    scraper = subprocess.Popen(
        [sys.executable, "-m", "bench.watched", "--scrape", url],
        preexec_fn=lambda: pin("client"),  # noqa: PLW1509 - no threads here
    )
    try:
        yield scraper
    finally:
        scraper.kill()
        scraper.wait()


def _scrape(url: str) -> None:
    request = urllib.request.Request(url, headers={"Accept": ACCEPT})  # noqa: S310
    while True:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            answer.read()
        time.sleep(1.0)


async def _measure(workload: str, pairs: int) -> float:
    """Return the median part of its throughput that the client keeps."""
    kept: list[float] = []
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        _server(Path(folder) / "on", "127.0.0.1:0") as (watched, metrics),
        _server(Path(folder) / "off", "off") as (unwatched, _),
        _scraper(metrics) as scraper,
    ):
        for number in range(-1, pairs):
            rates: dict[str, float] = {}
            for url in (watched, unwatched)[:: 1 if number % 2 else -1]:
                going = signal.SIGCONT if url == watched else signal.SIGSTOP
                scraper.send_signal(going)
                async with connect(url) as client:
                    rates[url] = await WORKLOADS[workload](client)
            if number >= 0:  # the first pair warms up
                kept.append(rates[watched] / rates[unwatched])
    return statistics.median(kept)


def main() -> int:
    """Measure; return the exit code: 1 if clients keep too little."""
    parser = argparse.ArgumentParser(prog="python -m bench.watched")
    parser.add_argument("workload", nargs="*", default=[*WORKLOADS], metavar="WORKLOAD")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--scrape", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scrape:
        _scrape(options.scrape)
    pin("client")
    enough = True
    for workload in options.workload:
        kept = asyncio.run(_measure(workload, options.pairs))
        enough &= kept >= LEAST
        print(f"{workload:10} keeps {kept:.3f} (at least {LEAST})", flush=True)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
