"""The metrics port (SPEC.md §22)."""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.server import Address, Server
from ackline.server.metrics import streams
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ackline.server import Serving
    from tests.server.conftest import Start

ROOT = Path(__file__).parents[2]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

TRACE = "0af7651916cd43dd8448eb211c80319c"


def specified() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics of SPEC.md: type and labels by name."""
    chapter = (ROOT / "SPEC.md").read_text().split("## 22 Metrics")[1]
    found: dict[str, tuple[str, set[str]]] = {}
    for line in chapter.split("\n## ")[0].splitlines():
        if line.startswith("| `ackline_"):
            name, kind, labels = (cell.strip() for cell in line.split("|")[1:4])
            labels = labels.replace("(§19)", "")
            found[name.strip("`")] = kind, set(re.findall(r"`(\w+)`", labels))
    return found


def words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",")}


def documented() -> dict[str, tuple[str, dict[str, set[str]]]]:
    """Return type, labels and their legal values of what docs/metrics.md lists."""
    page, labels = (ROOT / "docs" / "metrics.md").read_text().split("## Labels")
    codes = {code.name.lower() for code in Code}
    of_all = {
        "code": codes | {"tls"},
        "result": codes | {"resumed"},
        "type": {kind.name.lower() for kind in FrameType},
        "source": {"numbers"},
        "sink": {"take"},
        "version": {version("ackline")},
    }
    for name, values in re.findall(
        r"^\| `(use|reason)`.*?\| ([^(|]+)", labels, re.MULTILINE
    ):
        of_all[name] = words(values)
    found: dict[str, tuple[str, dict[str, set[str]]]] = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            name, kind, cell, unit, question = (
                each.strip() for each in line.strip("|").split("|")
            )
            assert unit, name
            assert "?" in question, name
            found[name.strip("`")] = (
                kind,
                {
                    label: words(values) if values else of_all[label]
                    for label, values in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", cell)
                },
            )
    return found


async def get(
    serving: Serving, path: str, method: str = "GET", accept: str = ""
) -> tuple[int, str]:
    assert serving.metrics is not None
    reader, writer = await asyncio.open_connection(*serving.metrics)
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode()
    )
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_the_metrics_are_those_of_the_document(start: Start) -> None:
    server = Server()

    @server.sink("b")
    async def take(_thing: object) -> None:
        pass

    @server.source("numbers")
    async def numbers() -> AsyncGenerator[str]:
        yield "1"
        await asyncio.Event().wait()

    async with start(server, metrics=Address("127.0.0.1", 0)) as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("b", b"").ended()
        taken = 'ackline_sink_calls_total{result="taken",sink="take"} 1.0'
        async with asyncio.timeout(50):
            while taken not in (await get(serving, "/metrics"))[1]:
                pass
        await peer.upload("a", b"x" * 100_000).ended()
        await peer.fetch("a").ended()
        await peer.publish("log", [b"x"] * 10).ended()
        await peer.subscribe("logs/log").events(10)
        await peer.fetch("missing").refused()
        await peer.subscribe("sources/numbers").events(1)
        await peer.drop()
        await peer.connect()
        status, text = await get(serving, "/metrics")
        await peer.drop()
    assert status == 200
    listed, values = documented(), dict[str, float]()
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name in listed, f"docs/metrics.md lacks {name}"
        legal = listed[name][1]
        found[name] = family.type, set(legal)
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "le"}
            assert set(labels) == set(legal), name
            for label, value in labels.items():
                assert value in legal[label], f"{name}: {label}={value}"
            pairs = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            values[f"{sample.name}{{{pairs}}}"] = sample.value
    assert found == {name: (kind, set(legal)) for name, (kind, legal) in listed.items()}
    assert specified().items() <= found.items()
    for key, expected in (
        ("ackline_connections{}", 1),
        ("ackline_connections_accepted_total{}", 2),
        ("ackline_sessions{state=attached}", 1),
        ("ackline_sessions_resumed_total{result=resumed}", 1),
        ("ackline_streams_opened_total{existing=false,use=upload}", 2),
        ("ackline_outcomes_total{outcome=completed,use=fetch}", 1),
        ("ackline_units_total{use=upload}", 2),
        ("ackline_units_total{use=fetch}", 2),
        ("ackline_units_total{use=publish}", 10),
        ("ackline_units_total{use=subscribe}", 11),
        ("ackline_refusals_total{code=not_found}", 1),
        ("ackline_sink_calls_total{result=taken,sink=take}", 1),
        ("ackline_sink_objects{sink=take,state=waiting}", 0),
        ("ackline_ack_latency_seconds_count{use=upload}", 2),
        ("ackline_payload_bytes_total{use=upload}", 100_000),
        ("ackline_payload_bytes_total{use=fetch}", 100_000),
        ("ackline_runs{source=numbers,state=STREAMING}", 1),
        ("ackline_streams_waiting{reason=producer,use=run}", 1),
        ("ackline_draining{}", 0),
    ):
        assert values[key] == expected, key
    assert values["ackline_bytes_total{direction=received}"] > 100_000
    assert values["ackline_fsync_seconds_count{}"] > 0
    assert values["ackline_frames_total{direction=received,type=chunk}"] >= 2


async def test_paths_and_methods_that_are_not_there(start: Start) -> None:
    async with start(metrics=Address("127.0.0.1", 0)) as serving:
        assert (await get(serving, "/nothing"))[0] == 404
        assert (await get(serving, "/metrics", "POST"))[0] == 405


async def test_a_scraper_that_says_nothing_harms_nobody(start: Start) -> None:
    async with start(metrics=Address("127.0.0.1", 0)) as serving:
        assert serving.metrics is not None
        _, writer = await asyncio.open_connection(*serving.metrics)
        assert (await get(serving, "/healthz"))[0] == 200
        writer.close()


async def test_latencies_lead_to_traces_in_openmetrics(start: Start) -> None:
    async with (
        start(metrics=Address("127.0.0.1", 0)) as serving,
        Peer(serving.port) as peer,
    ):
        await peer.upload("a", b"x", trace=f"00-{TRACE}-b7ad6b7169203331-01").ended()
        await peer.upload("b", b"x", trace="00-no-trace-01").ended()
        _, text = await get(serving, "/metrics", accept=OPENMETRICS)
    parsed = openmetrics_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    samples = families["ackline_ack_latency_seconds"].samples
    found = [sample.exemplar.labels for sample in samples if sample.exemplar]
    assert found == [{"trace_id": TRACE}]


async def test_a_login_that_is_refused_is_counted_by_its_code(start: Start) -> None:
    async with start(
        metrics=Address("127.0.0.1", 0), handshake_timeout=0.05
    ) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        await reader.read()  # nothing was said: it is closed
        writer.close()
        _, text = await get(serving, "/metrics")
    assert 'ackline_logins_refused_total{code="handshake_timeout"} 1.0' in text


async def test_streams_that_end_while_all_are_looked_at_are_counted_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SLICE", 1)  # others run after each stream
    async with (
        start(metrics=Address("127.0.0.1", 0)) as serving,
        Peer(serving.port) as peer,
    ):
        uploads = [peer.upload(f"{number}", b"x") for number in range(20)]
        for upload in uploads:
            await upload.ended()

        async def units() -> str:
            _, text = await get(serving, "/metrics")
            (line,) = re.findall(r'ackline_units_total\{use="upload"\} (.*)', text)
            return str(line)

        asking = [asyncio.create_task(units()) for _ in range(3)]
        for upload in uploads:
            upload.release()
            await asyncio.sleep(0)
        assert {await each for each in asking} == {"20.0"}
        assert await units() == "20.0"


async def test_streams_let_go_of_while_all_are_looked_at_are_not_missed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SLICE", 1)
    async with start() as serving, Peer(serving.port) as peer:
        for number in range(5):
            await peer.upload(f"{number}", b"x").ended()
        service = serving._acceptor._service
        asking = asyncio.create_task(streams.stream_metrics(service))
        await asyncio.sleep(0)  # it has looked at the first
        (session,) = service.sessions.all()
        for stream in list(session.streams.values()):
            service.sessions.forget(session, stream)
        (units,) = [each for each in await asking if each.name == "ackline_units"]
        uploaded = [each for each in units.samples if each.labels == {"use": "upload"}]
        assert [each.value for each in uploaded] == [5]
