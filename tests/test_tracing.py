"""Traces over both sides, as OpenTelemetry's SDK exports them (SPEC.md §9)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ackline.client import Refused, connect
from ackline.server import Address, CommittedObject, Options, Server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Set a provider for one test: the library's own way allows one a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(api, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def options(folder: Path) -> Options:
    anywhere = Address("127.0.0.1", 0)
    return Options(listen=anywhere, metrics=None, data_dir=folder / "data")


async def finished(exporter: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    async with asyncio.timeout(50):
        while len(spans := exporter.get_finished_spans()) < count:
            await asyncio.sleep(0)
    assert len(spans) == count, [span.name for span in spans]
    return list(spans)


def parent_of(span: ReadableSpan, spans: list[ReadableSpan]) -> str | None:
    if span.parent is None:
        return None
    ids = {each.context.span_id: each.name for each in spans if each.context}
    return ids[span.parent.span_id]


async def test_an_upload_and_its_sinks_are_in_the_trace_of_their_caller(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    server, tracer = Server(), api.get_tracer("test")

    @server.sink("*", name="async")
    async def take(_object: CommittedObject) -> None:
        tracer.start_span("in the sink").end()

    @server.sink("*", name="thread")
    def take_in_thread(_object: CommittedObject) -> None:
        tracer.start_span("in the thread").end()

    async with (
        server.serve(options(tmp_path)) as serving,
        connect(serving.url) as client,
    ):
        with tracer.start_as_current_span("caller"):
            await client.upload(b"x", "a")
        spans = await finished(exporter, 9)
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    upload = next(span for span in spans if span.name == "upload objects/a")
    assert upload.kind is api.SpanKind.SERVER
    assert upload.parent is not None
    assert upload.parent.is_remote
    assert upload.attributes is not None
    assert upload.attributes["ackline.outcome"] == "completed"
    assert str(upload.attributes["ackline.resource"]).startswith("uploads/")
    assert {span.name: parent_of(span, spans) for span in spans} == {
        "caller": None,
        "upload objects/a": "caller",
        "open": "upload objects/a",
        "stream": "upload objects/a",
        "commit": "upload objects/a",
        "sink async": "upload objects/a",
        "sink thread": "upload objects/a",
        "in the sink": "sink async",
        "in the thread": "sink thread",
    }


async def test_a_source_runs_in_the_trace_of_who_started_it(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    server, tracer = Server(), api.get_tracer("test")

    @server.source("answers")
    async def answers() -> AsyncGenerator[str]:
        with tracer.start_as_current_span("model"):
            yield "one"

    async with (
        server.serve(options(tmp_path)) as serving,
        connect(serving.url) as client,
    ):
        with tracer.start_as_current_span("caller"):
            async with client.subscribe("sources/answers") as events:
                assert len([event async for event in events]) == 1
        spans = await finished(exporter, 6)
    found = {span.name: parent_of(span, spans) for span in spans}
    assert found["subscribe sources/answers"] == "caller"
    assert found["model"] == "subscribe sources/answers"


async def test_what_stood_before_the_first_unit_is_a_span(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    server, ready = Server(), asyncio.Event()

    @server.source("slow")
    async def slow() -> AsyncGenerator[str]:
        await ready.wait()
        yield "one"
        yield "two"

    async with (
        server.serve(options(tmp_path)) as serving,
        connect(serving.url) as client,
    ):
        async with client.subscribe("sources/slow") as events:
            opened = await finished(exporter, 1)
            assert [span.name for span in opened] == ["open"]
            ready.set()
            assert len([event async for event in events]) == 2
        spans = await finished(exporter, 4)
    assert [span.name for span in spans] == [
        *("open", "wait", "stream", "subscribe sources/slow")
    ]
    assert {parent_of(span, spans) for span in spans[:3]} == {spans[3].name}


async def test_what_is_refused_is_a_span_that_failed(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    async with (
        Server().serve(options(tmp_path)) as serving,
        connect(serving.url) as client,
    ):
        with pytest.raises(Refused):
            await client.fetch("missing", tmp_path / "missing")
        spans = await finished(exporter, 2)
    fetch = next(span for span in spans if span.name == "fetch objects/missing")
    assert fetch.parent is None
    assert fetch.status.status_code is api.StatusCode.ERROR
    assert fetch.attributes is not None
    assert fetch.attributes["error.type"] == "not_found"


def test_nothing_of_it_is_needed_or_imported_unasked() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
import ackline.client.tracing, ackline.server.tracing
assert ackline.client.tracing.current_trace() == ""
assert ackline.server.tracing.Traces().begin(None) is None
with ackline.server.tracing.Traces().sink("s", "o"):
    pass
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
