"""The live page in headless Chromium: it loads, moves, finds, and fetches only itself.

`ACKLINE_SCREENSHOT=docs/page.png make page-test` takes the README's picture.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from ackline.client import connect
from ackline.proto.errors import StreamCancelled
from ackline.server import Address, Options, Server
from ackline.server.tokens import add_token, changing

playwright = pytest.importorskip(
    "playwright.async_api", reason="playwright is not installed: make page-test"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from playwright.async_api import Browser, Page

    from ackline.client import Client
    from ackline.server import Serving

WIDE = {"width": 1280, "height": 1000}
TELEPHONE = {"width": 390, "height": 844}
ANYWHERE = Address("127.0.0.1", 0)


def app() -> Server:
    server = Server()

    @server.source("tokens")
    async def tokens(count: int = 1_000_000) -> AsyncGenerator[str]:
        for number in range(count):
            yield f"token {number} "
            await asyncio.sleep(0.005)

    @server.source("breaks")
    async def breaks() -> AsyncGenerator[str]:
        yield "one"
        raise RuntimeError("the model is gone")

    return server


@asynccontextmanager
async def browser() -> AsyncGenerator[Browser]:
    async with playwright.async_playwright() as running:
        launched = await running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        try:
            yield launched
        finally:
            await launched.close()


@asynccontextmanager
async def opened(
    there: Browser,
    serving: Serving,
    *,
    size: dict[str, int],
    scheme: str = "light",
    expected: Sequence[str] = (),
) -> AsyncGenerator[Page]:
    """Open the page; at the end nothing came from elsewhere, and nothing went wrong.

    The browser reports what is refused as errors: those `expected` are none.
    """
    wrong: list[str] = []
    hosts: set[str] = set()
    page = await there.new_page(viewport=size, color_scheme=scheme)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.extend([said.text] * (said.type == "error")))
    page.on("request", lambda asked: hosts.add(urlsplit(asked.url).netloc))
    await page.goto(f"http://{serving.metrics}/")
    await page.locator("#link.on").wait_for()
    yield page
    await page.close()
    assert [text for text in wrong if not any(e in text for e in expected)] == []
    assert hosts == {str(serving.metrics)}


async def upload_slowly(client: Client, name: str) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        while True:
            yield os.urandom(200_000)
            await asyncio.sleep(0.02)

    await client.upload(pieces(), name, chunk_size=200_000)


async def read(client: Client, resource: str) -> None:
    async with client.subscribe(resource) as events:
        async for _ in events:
            pass


@asynccontextmanager
async def loaded(
    folder: Path,
) -> AsyncGenerator[tuple[Serving, list[asyncio.Task[None]]]]:
    """A server with an upload and some streams under way."""
    with changing(folder / "tokens.json") as content:
        for name, allow in (("operator", "cancel"), ("viewer", "list")):
            token, _ = add_token(content, name, allow=[allow], quotas={}, expires=None)
            (folder / name).write_text(token)
    options = Options(
        data_dir=folder / "data",
        listen=ANYWHERE,
        metrics=ANYWHERE,
        disk_reserve=0,
        tokens=folder / "tokens.json",
        allow_anonymous=("*",),
    )
    async with app().serve(options) as serving, connect(serving.url) as client:
        tasks = [
            asyncio.create_task(upload_slowly(client, "films/holiday.mp4")),
            asyncio.create_task(read(client, "sources/tokens")),
            asyncio.create_task(read(client, "sources/tokens")),
        ]
        with pytest.raises(Exception, match="model is gone"):
            await read(client, "sources/breaks")
        try:
            yield serving, tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def picture(page: Page, chart: str) -> str:
    script = f"document.querySelector('#{chart} canvas')?.toDataURL() ?? ''"
    return str(await page.evaluate(script))


async def test_charts_move_under_load(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (serving, _), browser() as there:
        async with opened(there, serving, size=WIDE) as page:
            before = ""
            while not before:
                await asyncio.sleep(0.2)
                before = await picture(page, "chart-bytes")
            for _ in range(50):
                await asyncio.sleep(0.2)
                if await picture(page, "chart-bytes") != before:
                    break
            assert await picture(page, "chart-bytes") != before
            rows = page.locator("#streams tbody tr")
            await page.locator("#streams td", has_text="films/holiday.mp4").wait_for()
            assert await rows.count() >= 5
            assert "connections" in await page.locator("#tiles").inner_text()
            ended = await page.locator("#ended tbody tr").first.inner_text()
            assert "source_failed: RuntimeError: the model is gone" in ended
        if path := os.environ.get("ACKLINE_SCREENSHOT"):
            async with opened(there, serving, size=WIDE) as page:
                await asyncio.sleep(30)
                await page.screenshot(path=path)


async def test_a_stream_is_found_by_its_upload_id_and_shown(tmp_path: Path) -> None:
    async with (
        loaded(tmp_path) as (serving, _),
        browser() as there,
        opened(there, serving, size=WIDE) as page,
    ):
        what = page.locator("#streams tr", has_text="films/holiday.mp4").first
        upload_id = await what.locator("small").first.inner_text()
        assert upload_id.startswith("uploads/")
        await page.locator("#words").fill(upload_id)
        await page.locator("#matching", has_text="1").wait_for()
        rows = page.locator("#streams tbody tr")
        await page.wait_for_function(
            "document.querySelectorAll('#streams tbody tr').length === 1"
        )
        await rows.first.click()
        facts = page.locator("#facts")
        await facts.locator("dt", has_text="window bytes").wait_for()
        assert "films/holiday.mp4" in await page.locator("#detail-name").inner_text()
        assert upload_id in await facts.inner_text()
        assert "opened by anonymous" in await page.locator("#history").inner_text()
        await page.locator("#close").click()
        await page.locator("#words").fill("breaks")
        await page.locator("#ended td", has_text="sources/breaks").click()
        await facts.locator("dd", has_text="source_failed").wait_for()
        assert "failed after 1 events" in await page.locator("#history").inner_text()
        assert not await page.locator("#cancel").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_telephone_in_both_schemes(tmp_path: Path, scheme: str) -> None:
    async with (
        loaded(tmp_path) as (serving, _),
        browser() as there,
        opened(there, serving, size=TELEPHONE, scheme=scheme) as page,
    ):
        await page.locator("#streams td", has_text="films/holiday.mp4").wait_for()
        assert await page.evaluate(
            "document.documentElement.scrollWidth <= window.innerWidth"
        )
        colors = await page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.body).color]"
        )
        dark = sum(int(part) for part in colors[0][4:-1].split(",")) < 384
        assert dark == (scheme == "dark")


async def test_names_of_clients_are_text_and_never_code(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (serving, _), browser() as there:
        name = "<img src=x onerror=alert(1)>"
        async with connect(serving.url) as client:
            task = asyncio.create_task(upload_slowly(client, name))
            async with opened(there, serving, size=WIDE) as page:
                row = page.locator("#streams tr", has_text=name)
                await row.first.click()
                assert name in await page.locator("#detail-name").inner_text()
                assert not await page.locator("img").count()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_stream_is_cancelled_by_who_may(tmp_path: Path) -> None:
    async with (
        loaded(tmp_path) as (serving, tasks),
        browser() as there,
        opened(there, serving, size=WIDE, expected=["404"]) as page,
    ):
        await page.locator("#streams tr", has_text="films/holiday.mp4").first.click()
        told = page.locator("#cancelled")
        for name, says in (("viewer", "not_found"), ("operator", "cancelled at unit")):
            await page.locator("#token").fill((tmp_path / name).read_text())
            await page.locator("#cancel button").click()
            await told.get_by_text(says).wait_for()
        await page.locator("#detail-state", has_text="CANCELLED").wait_for()
        with pytest.raises(StreamCancelled):
            await tasks[0]
