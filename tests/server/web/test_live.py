"""What the live page is served, and what it is told every second."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import pytest

from ackline.server import Address, Server
from ackline.server.reasons import Reason
from ackline.server.web import live, samples
from ackline.server.web.pages import PAGES
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ackline.server import Serving
    from tests.server.conftest import Start

ANYWHERE = Address("127.0.0.1", 0)


def app() -> Server:
    server = Server()

    @server.source("waits")
    async def waits() -> AsyncGenerator[str]:
        yield "one"
        await asyncio.Event().wait()

    @server.source("breaks")
    async def breaks() -> AsyncGenerator[str]:
        yield "one"
        raise RuntimeError("no model")

    return server


async def get(serving: Serving, path: str) -> tuple[str, bytes]:
    """Return head and body."""
    assert serving.metrics is not None
    reader, writer = await asyncio.open_connection(*serving.metrics)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode(), body


class Feed:
    """The page's connection: its events, decoded."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(50):
            while True:
                line = (await self._reader.readline()).decode()
                if line == f"event: {name}\n":
                    data = (await self._reader.readline()).decode()
                    return cast(
                        "dict[str, Any]", json.loads(data.removeprefix("data: "))
                    )


async def watch(serving: Serving, **query: str) -> tuple[Feed, asyncio.StreamWriter]:
    assert serving.metrics is not None
    reader, writer = await asyncio.open_connection(*serving.metrics, limit=2**20)
    writer.write(f"GET /feed?{urlencode(query)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return Feed(reader), writer


async def one_update(serving: Serving, **query: str) -> dict[str, Any]:
    feed, writer = await watch(serving, **query)
    try:
        return await feed.next("sample")
    finally:
        writer.close()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "INTERVAL", 0.01)


async def test_the_page_and_all_that_it_names_is_there(start: Start) -> None:
    async with start(metrics=ANYWHERE) as serving:
        for path in PAGES:
            head, body = await get(serving, path)
            assert head.startswith("HTTP/1.1 200"), path
            assert "default-src 'none'" in head
            assert body
        head, body = await get(serving, "/")
    for name in ("page.js", "page.css", "icon.svg", "vendor/uPlot.iife.min.js"):
        assert name in body.decode()
        assert f"/{name}" in PAGES
    assert "://" not in body.decode()


async def test_a_sample_tells_what_lives_and_what_ended(start: Start) -> None:
    async with start(app(), metrics=ANYWHERE) as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("a", b"x" * 1000).ended()
        await peer.subscribe("sources/breaks").ended()
        work = peer.subscribe("sources/waits")
        await work.events(1)
        update = await one_update(serving)
        rows, ended = update["rows"], update["ended"]
        found = {row["use"]: row for row in rows if row["state"] == "STREAMING"}
        assert found["subscribe"]["name"] == "sources/waits"
        assert found["subscribe"]["position"] == 1
        assert found["subscribe"]["window"] > 0
        assert found["subscribe"]["identity"] == "anonymous"
        assert found["subscribe"]["peer"].startswith("127.0.0.1:")
        assert update["totals"]["connections"] == 1
        assert update["totals"]["received"] > 1000
        assert update["totals"]["units"]["subscribe"] == 2
        assert sum(update["totals"]["ack_latency"]["upload"]) >= 1
        assert [each["use"] for each in ended] == ["subscribe", "upload"]
        assert ended[0]["outcome"] == "FAILED"
        assert ended[0]["error"] == "source_failed: RuntimeError: no model"
        assert ended[1]["name"] == "objects/a"
        for query, uses in (
            ({"words": ended[1]["resource"]}, ["upload"]),
            ({"words": "ANONYMOUS objects"}, ["upload"]),
            ({"use": "subscribe"}, ["subscribe"]),
            ({"show": "failed"}, ["subscribe"]),
            ({"words": "nowhere"}, []),
        ):
            update = await one_update(serving, **query)
            assert [each["use"] for each in update["ended"]] == uses, query
        await peer.drop()


async def test_an_upload_is_found_by_its_id_and_shows_how_far_it_is(
    start: Start,
) -> None:
    async with start(app(), metrics=ANYWHERE) as serving:
        peer = await Peer(serving.port).connect()
        await peer.subscribe("sources/waits").events(1)
        upload = peer.upload("movie", b"x" * 4 * 65_536, size=10 * 65_536, end=False)
        rows: list[dict[str, Any]] = []
        while not rows or rows[0]["position"] < 4:
            rows = (await one_update(serving, words=upload.stream.resource))["rows"]
        assert (rows[0]["name"], rows[0]["total"]) == ("objects/movie", 10)
        assert rows[0]["resource"].startswith("uploads/")
        other = peer.subscribe("sources/waits")
        await other.events(1)
        run = other.stream.resource
        for words in (run, run.removeprefix("runs/"), f"WAITS {run[-6:]}"):
            update = await one_update(serving, words=words)
            assert {row["resource"] for row in update["rows"]} == {run}, words
        assert (await one_update(serving, use="run"))["matching"] == 2
        assert (await one_update(serving, words="nowhere"))["rows"] == []
        assert (await one_update(serving, show="failed"))["rows"] == []
        await peer.drop()
        await asyncio.sleep(0)
        paused: dict[str, Any] = {"rows": []}
        while not paused["rows"]:
            paused = await one_update(serving, show="stuck", use="subscribe")
        assert paused["rows"][0]["reasons"] == ["disconnected"]
        assert "window" not in paused["rows"][0]
        assert paused["totals"]["stuck"] == 3  # the runs go on without their consumers


async def test_what_went_on_since_the_last_sample_is_not_stuck(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "stream_reasons", lambda _: [Reason("disk", "busy")])
    server, told = Server(), asyncio.Queue[str]()

    @server.source("steps")
    async def steps() -> AsyncGenerator[str]:
        while True:
            yield await told.get()

    async with (
        start(server, metrics=ANYWHERE) as serving,
        Peer(serving.port) as peer,
        asyncio.timeout(50),
    ):
        peer.subscribe("sources/steps")
        for position, stuck in ((1, 0), (1, 1), (2, 0), (2, 1)):
            if not stuck:
                told.put_nowait("x")
            update: dict[str, Any] = {"rows": []}
            while not update["rows"] or update["rows"][0]["position"] < position:
                update = await one_update(serving, use="subscribe")
            if position > 1 or stuck:  # before the first there was perhaps none
                assert update["totals"]["stuck"] == stuck


async def test_viewers_are_told_why_the_server_is_not_ready(start: Start) -> None:
    async with start(metrics=ANYWHERE, disk_reserve=2**49) as serving:
        (problem,) = (await one_update(serving))["totals"]["problems"]
    assert problem.startswith("disk: ")


async def test_status_is_the_report_of_the_protocol(start: Start) -> None:
    async with start(app(), metrics=ANYWHERE) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/waits")
        await work.events(1)
        head, body = await get(serving, f"/status?target={work.stream.resource}")
        assert head.startswith("HTTP/1.1 200")
        report = json.loads(body)
        assert (report["state"], report["facts"]["next"]) == ("STREAMING", 1)
        for target in ("uploads/none", "nonsense", ""):
            head, body = await get(serving, f"/status?target={target}")
            assert head.startswith("HTTP/1.1 404"), target
            assert body
        await peer.drop()


async def test_many_streams_are_few_rows(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_ROWS", 5)
    async with start(app(), metrics=ANYWHERE) as serving:
        peer = await Peer(serving.port).connect()
        works = [peer.subscribe("sources/waits") for _ in range(8)]
        for work in works:
            await work.events(1)
        update = await one_update(serving, use="subscribe")
        assert update["matching"] == 8
        ids = [int(row["id"].split("/")[1]) for row in update["rows"]]
        assert len(set(ids)) == 5
        assert set(ids) <= {work.stream.id for work in works}
        await peer.drop()


async def test_viewers_are_bounded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 1)
    async with start(metrics=ANYWHERE) as serving:
        feed, writer = await watch(serving)
        await feed.next("sample")
        head, _ = await get(serving, "/feed")
        assert head.startswith("HTTP/1.1 503")
        writer.close()
        async with asyncio.timeout(50):
            while True:
                feed, writer = await watch(serving)
                line = await feed._reader.readline()
                writer.close()
                if b" 200 " in line:
                    break


async def test_a_search_is_bounded(start: Start) -> None:
    async with start(metrics=ANYWHERE) as serving:
        assert (await get(serving, f"/feed?words={'x' * 201}"))[0].split()[1] == "400"


async def test_samples_are_shared(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "INTERVAL", 100.0)
    async with start(metrics=ANYWHERE) as serving:
        first, second = await asyncio.gather(one_update(serving), one_update(serving))
        assert first["totals"] == second["totals"]


async def test_closing_leaves_viewers(start: Start) -> None:
    async with start(metrics=ANYWHERE) as serving:
        feed, writer = await watch(serving)
        await feed.next("sample")
    while await feed._reader.readline():
        pass
    writer.close()
