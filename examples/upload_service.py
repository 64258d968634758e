"""A service that takes texts, indexes each once it is committed, and searches them.

    ackline-server --app examples.upload_service:server
    ackline upload notes.txt texts/notes.txt --metadata title="My notes"
    ackline subscribe sources/search --param query="resumable upload"

The sink is called at least once for every text, also if the server dies between the
commit and the call or in the middle of it. So it is written to be called twice: what it
writes for an object replaces what it wrote for it before. The index is a file of its
own, SEARCH_INDEX or `search-index.sqlite3`; nothing but the standard library is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ackline.server import CommittedObject

server = Server()

INDEX = Path(os.environ.get("SEARCH_INDEX", "search-index.sqlite3"))

LARGEST = 16 * 2**20
"""Bytes of a text that are indexed: what comes behind them is not found."""

MOST = 20
"""Texts found at a time."""


def opened() -> sqlite3.Connection:
    """Open the index, and make it the first time."""
    connection = sqlite3.connect(INDEX, timeout=30, isolation_level=None)
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS texts"
        " USING fts5(name UNINDEXED, version UNINDEXED, title, body)"
    )
    return connection


# A plain function: it runs in a thread, so that SQLite may take its time. What it
# raises (the index is locked, the disk is full) has it called again later; `ackline
# status` of the object tells. One at a time is as fast as SQLite writes.
@server.sink("texts/*", name="index", concurrency=1)
def index(text: CommittedObject) -> None:
    """Index a text in place of what was indexed of its name before."""
    if text.path is None:
        raise RuntimeError("the bytes of the object are on another machine")
    with text.path.open("rb") as file:
        body = file.read(LARGEST).decode(errors="replace")
    title = str(text.metadata.get("title", text.name))
    with closing(opened()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        # Calls may come in any order: an older version must not win.
        newer = connection.execute(
            "SELECT 1 FROM texts WHERE name = ? AND version > ?",
            (text.name, text.version),
        ).fetchone()
        if newer is None:
            connection.execute("DELETE FROM texts WHERE name = ?", (text.name,))
            connection.execute(
                "INSERT INTO texts VALUES (?, ?, ?, ?)",
                (text.name, text.version, title, body),
            )
        connection.execute("COMMIT")


@server.source("search")
async def search(query: str) -> AsyncIterator[str]:
    """Say the texts that have all words of the query, the best first."""
    for name, version, title, found in await asyncio.to_thread(_search, query):
        hit = {"name": name, "version": version, "title": title, "found": found}
        yield json.dumps(hit, ensure_ascii=False)


def _search(query: str) -> list[tuple[str, int, str, str]]:
    # In quotes each word is a word, whatever it means to the query language.
    words = " ".join('"' + word.replace('"', '""') + '"' for word in query.split())
    if not words:
        return []
    with closing(opened()) as connection:
        return connection.execute(
            "SELECT name, version, title, snippet(texts, 3, '', '', '…', 12)"
            " FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT ?",
            (words, MOST),
        ).fetchall()
