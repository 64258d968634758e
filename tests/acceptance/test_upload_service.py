"""examples/upload_service.py, as somebody uses it who has just read it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING, Any

from ackline.client import Event, connect
from tests.acceptance.processes import run_client, running

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from ackline.client import Client

APP = "examples.upload_service:server"


async def search(client: Client, query: str) -> list[Any]:
    async with client.subscribe("sources/search", params={"query": query}) as hits:
        return [json.loads(hit.text) async for hit in hits if isinstance(hit, Event)]


async def taken(client: Client, name: str) -> None:
    """Wait until no sink is to take an object."""
    async with asyncio.timeout(50):
        while (await client.status(f"objects/{name}")).reasons:
            await asyncio.sleep(0.01)


async def test_texts_are_found_once_they_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_INDEX", str(tmp_path / "index"))
    (tmp_path / "notes.txt").write_text("Uploads resume.")
    async with (
        running(tmp_path / "data", app=APP) as server,
        connect(server.url) as client,
    ):
        words = (str(tmp_path / "notes.txt"), "texts/notes.txt", "--metadata=title=A")
        await run_client(server.port, tmp_path, "upload", *words)
        await client.upload(b'Nothing is lost, but "quotes".', "texts/b")
        await client.upload(b"Uploads are not indexed here.", "other/c")
        await taken(client, "texts/notes.txt")
        await taken(client, "texts/b")
        hit, outcome = await run_client(
            server.port, tmp_path, "subscribe", "sources/search", "--param=query=resume"
        )
        assert outcome["outcome"] == "completed"
        assert json.loads(hit["data"]) == {
            "name": "texts/notes.txt",
            "version": 1,
            "title": "A",
            "found": "Uploads resume.",
        }
        assert [hit["name"] for hit in await search(client, "uploads")] == [
            "texts/notes.txt"
        ]
        assert await search(client, "nothing NOT lost") == []
        (hit,) = await search(client, 'nothing "quotes"')
        assert hit["title"] == "texts/b"
        await client.upload(b"Something else.", "texts/notes.txt", existing="replace")
        await taken(client, "texts/notes.txt")
        assert await search(client, "uploads") == []
        assert len(await search(client, "something")) == 1


async def test_a_text_is_indexed_after_all_if_the_index_was_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed while the text waits."""
    monkeypatch.setenv("SEARCH_INDEX", str(tmp_path / "folder" / "index"))
    async with running(tmp_path / "data", app=APP) as server:
        async with connect(server.url) as client:
            await client.upload(b"Uploads resume.", "texts/a")
            async with asyncio.timeout(50):
                while not (facts := (await client.status("objects/texts/a")).facts)[
                    "sink_error"
                ]:
                    await asyncio.sleep(0.01)
        assert facts["sinks"] == "index"
        assert "unable to open database file" in str(facts["sink_error"])
        await server.kill()
        (tmp_path / "folder").mkdir()
        await server.start()
        async with connect(server.url) as client:
            await taken(client, "texts/a")
            (hit,) = await search(client, "resume")
        assert hit["name"] == "texts/a"
    with sqlite3.connect(tmp_path / "folder" / "index") as connection:
        assert connection.execute("SELECT count(*) FROM texts").fetchone() == (1,)
    connection.close()
