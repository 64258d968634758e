from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.entities import SessionRecord, StreamRecord
from ackline.server.stores.errors import Fenced, NotFound
from ackline.server.stores.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ackline.server.stores.seams import SessionStore

SESSION = SessionRecord(
    session_id="s1",
    identity="alice",
    epoch=1,
    token_hash=b"first",
    successor_hash=None,
    created=100.0,
    touched=100.0,
)


def stream(stream_id: int, session_id: str = "s1") -> StreamRecord:
    return StreamRecord(
        session_id=session_id,
        stream_id=stream_id,
        use=1,
        open_message=b"open",
        target="uploads/1",
    )


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[SessionStore]:
    async with Storage.open(tmp_path) as storage:
        yield storage.sessions


async def test_session_comes_back_after_a_restart(tmp_path: Path) -> None:
    async with Storage.open(tmp_path) as storage:
        await storage.sessions.save(SESSION)
        await storage.sessions.save_stream(stream(3))
    async with Storage.open(tmp_path) as storage:
        assert await storage.sessions.load("s1") == SESSION
        assert await storage.sessions.load("s2") is None
        assert await storage.sessions.streams("s1") == [stream(3)]


async def test_only_one_of_two_resumes_wins(sessions: SessionStore) -> None:
    await sessions.save(SESSION)
    one, two = await asyncio.gather(
        *(
            sessions.advance(
                "s1", 1, token_hash=b"first", successor_hash=name, touched=200.0
            )
            for name in (b"one", b"two")
        ),
        return_exceptions=True,
    )
    assert one == replace(SESSION, epoch=2, successor_hash=b"one", touched=200.0)
    assert isinstance(two, Fenced)
    assert (two.epoch, two.current) == (1, 2)
    assert await sessions.load("s1") == one


async def test_advance_of_an_unknown_session(sessions: SessionStore) -> None:
    with pytest.raises(NotFound):
        await sessions.advance(
            "s1", 1, token_hash=b"", successor_hash=None, touched=0.0
        )


async def test_fenced_connection_cannot_save(sessions: SessionStore) -> None:
    await sessions.save(SESSION)
    current = await sessions.advance(
        "s1", 1, token_hash=b"first", successor_hash=b"second", touched=200.0
    )
    with pytest.raises(Fenced):
        await sessions.save(replace(SESSION, token_hash=b"stolen"))
    confirmed = replace(current, token_hash=b"second", successor_hash=None)
    await sessions.save(confirmed)
    assert await sessions.load("s1") == confirmed


async def test_sessions_without_a_connection_expire_with_their_streams(
    sessions: SessionStore,
) -> None:
    for name in ("s1", "s2"):
        await sessions.save(replace(SESSION, session_id=name))
        await sessions.save_stream(stream(1, name))
    await sessions.touch(["s2", "unknown"], 500.0)
    assert await sessions.expire(400.0) == ["s1"]
    assert await sessions.load("s1") is None
    assert await sessions.streams("s1") == []
    assert await sessions.streams("s2") == [stream(1, "s2")]
    await sessions.delete("s2")
    assert await sessions.load("s2") is None
    assert await sessions.streams("s2") == []


async def test_first_outcome_of_a_stream_stands(sessions: SessionStore) -> None:
    await sessions.save(SESSION)
    await sessions.save_stream(stream(1))
    await sessions.end_streams({("s1", 2): b"unknown", ("s1", 1): b"completed"})
    await sessions.end_streams({("s1", 1): b"cancelled"})
    await sessions.save_stream(stream(1))  # changes no outcome
    assert await sessions.streams("s1") == [replace(stream(1), outcome=b"completed")]


async def test_released_streams_are_forgotten(sessions: SessionStore) -> None:
    await sessions.save(SESSION)
    for stream_id in (5, 1, 3):
        await sessions.save_stream(stream(stream_id))
    await sessions.delete_streams([("s1", 5), ("s1", 3), ("s1", 99)])
    assert [s.stream_id for s in await sessions.streams("s1")] == [1]


async def test_stream_needs_its_session(sessions: SessionStore) -> None:
    with pytest.raises(NotFound):
        await sessions.save_stream(stream(1))
