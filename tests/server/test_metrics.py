"""The metrics port (SPEC.md §22)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from ackline.server import Address, Server
from tests.server.peer import Peer

if TYPE_CHECKING:
    from ackline.server import Serving
    from tests.server.conftest import Start

SPEC = Path(__file__).parents[2] / "SPEC.md"


def specified() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics of SPEC.md: type and labels by name."""
    chapter = SPEC.read_text().split("## 22 Metrics")[1].split("\n## ")[0]
    found: dict[str, tuple[str, set[str]]] = {}
    for line in chapter.splitlines():
        if line.startswith("| `ackline_"):
            name, kind, labels = (cell.strip() for cell in line.split("|")[1:4])
            found[name.strip("`")] = kind, set(re.findall(r"`(\w+)`", labels))
    return found


async def get(serving: Serving, path: str, method: str = "GET") -> tuple[int, str]:
    assert serving.metrics is not None
    reader, writer = await asyncio.open_connection(*serving.metrics)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_the_metrics_are_those_of_the_spec(start: Start) -> None:
    server = Server()

    @server.sink("b")
    async def take(_thing: object) -> None:
        pass

    async with start(server, metrics=Address("127.0.0.1", 0)) as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("b", b"").ended()
        taken = 'ackline_sink_calls_total{result="taken",sink="take"} 1.0'
        async with asyncio.timeout(10):
            while taken not in (await get(serving, "/metrics"))[1]:
                pass
        await peer.upload("a", b"x" * 100_000).ended()
        await peer.fetch("a").ended()
        await peer.publish("log", [b"x"] * 10).ended()
        await peer.subscribe("logs/log").events(10)
        await peer.fetch("missing").refused()
        await peer.drop()
        await peer.connect()
        status, text = await get(serving, "/metrics")
        await peer.drop()
    assert status == 200
    found: dict[str, tuple[str, set[str]]] = {}
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        suffix = "_total" if family.type == "counter" else ""
        found[family.name + suffix] = family.type, labels - {"le"}
        for sample in family.samples:
            key = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            values[f"{sample.name}{{{key}}}"] = sample.value
    assert found == specified()
    for name, value in (
        ("ackline_connections{}", 1),
        ("ackline_connections_total{}", 2),
        ("ackline_sessions{state=attached}", 1),
        ("ackline_sessions_resumed_total{result=resumed}", 1),
        ("ackline_streams_opened_total{existing=false,use=upload}", 2),
        ("ackline_outcomes_total{outcome=completed,use=fetch}", 1),
        ("ackline_units_total{use=upload}", 2),
        ("ackline_units_total{use=fetch}", 2),
        ("ackline_units_total{use=publish}", 10),
        ("ackline_units_total{use=subscribe}", 10),
        ("ackline_refusals_total{code=not_found}", 1),
        ("ackline_sink_calls_total{result=taken,sink=take}", 1),
        ("ackline_sink_objects{sink=take,state=waiting}", 0),
        ("ackline_ack_latency_seconds_count{use=upload}", 2),
    ):
        assert values[name] == value, name
    assert values["ackline_bytes_total{direction=received}"] > 100_000
    assert values["ackline_fsync_seconds_count{}"] > 0
    assert values["ackline_frames_total{direction=received,type=chunk}"] >= 2


async def test_health_and_everything_else(start: Start) -> None:
    async with start(metrics=Address("127.0.0.1", 0)) as serving:
        assert await get(serving, "/healthz") == (200, "ok\n")
        assert (await get(serving, "/nothing"))[0] == 404
        assert (await get(serving, "/metrics", "POST"))[0] == 405
        await serving.drain(0.1)
        assert (await get(serving, "/healthz"))[0] == 503


async def test_a_scraper_that_says_nothing_harms_nobody(start: Start) -> None:
    async with start(metrics=Address("127.0.0.1", 0)) as serving:
        assert serving.metrics is not None
        _, writer = await asyncio.open_connection(*serving.metrics)
        assert (await get(serving, "/healthz"))[0] == 200
        writer.close()
