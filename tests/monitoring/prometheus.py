"""A Prometheus process that scrapes one server and evaluates our rules, fast."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["MONITORING", "Prometheus", "hurried", "prometheus"]

MONITORING = Path(__file__).parents[2] / "monitoring"

INTERVAL = "200ms"
WINDOW = "4s"

CONFIG = """\
global:
  scrape_interval: {interval}
  scrape_timeout: {interval}
  evaluation_interval: {interval}
rule_files: [{rules}]
scrape_configs:
  - job_name: ackline
    static_configs: [{{targets: ["{target}"]}}]
"""


def hurried(text: str) -> str:
    """Return rules or queries with seconds for minutes, for tests.

    What is waited for before an alert fires is none, and rates are of the last seconds.
    """
    text = re.sub(r"\[(\d+m|\$__rate_interval)\]", f"[{WINDOW}]", text)
    return re.sub(r"\bfor: \d+[mh]\b", "for: 0s", text)


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        answer = await self._http.get("/api/v1/query", params={"query": expression})
        body = answer.json()
        assert body["status"] == "success", (expression, body)
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        answer = await self._http.get("/api/v1/alerts")
        alerts = answer.json()["data"]["alerts"]
        return {
            alert["labels"]["alertname"]
            for alert in alerts
            if alert["state"] == "firing"
        }

    async def until(self, condition: Callable[[set[str]], bool]) -> set[str]:
        """Wait until the alerts that fire are as wanted; return them."""
        firing: set[str] = set()
        try:
            async with asyncio.timeout(50):
                while True:
                    firing = await self.firing()
                    if condition(firing):
                        return firing
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"these alerts fire: {firing}") from None


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncGenerator[Prometheus]:
    """Run Prometheus over `monitoring/*.rules.yml` for the time of a block."""
    program = shutil.which("prometheus")
    assert program is not None
    folder.mkdir()
    rules: list[str] = []
    for path in sorted(MONITORING.glob("*.rules.yml")):
        copy = folder / path.name
        copy.write_text(hurried(path.read_text()))
        rules.append(str(copy))
    config = folder / "prometheus.yml"
    config.write_text(
        CONFIG.format(interval=INTERVAL, rules=", ".join(rules), target=target)
    )
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--query.lookback-delta=2s",
            stdout=log,
            stderr=log,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                await _ready(http, folder / "log")
                yield Prometheus(http)
        finally:
            process.terminate()
            await process.wait()


async def _ready(http: httpx.AsyncClient, log: Path) -> None:
    try:
        async with asyncio.timeout(50):
            while True:
                try:
                    if (await http.get("/-/ready")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(log.read_text()) from None
