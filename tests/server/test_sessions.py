"""Sessions: tokens, takeover, expiry (SPEC.md §8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import structs

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import GoAway, List, Session
from ackline.proto.notices import SessionResumed
from tests.server.peer import Peer

if TYPE_CHECKING:
    from tests.server.conftest import Start

DATA = b"x" * 200_000


def held(peer: Peer) -> Session:
    session = peer.session.session
    assert session is not None
    return session


async def resume_code(peer: Peer) -> int:
    return (await peer.until(SessionResumed)).code


async def test_every_resume_issues_a_successor(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        first = held(peer)
        await peer.drop()
        await peer.connect()
        second = held(peer)
        assert second.session_id == first.session_id
        assert second.token != first.token
        assert second.epoch == first.epoch + 1
        await peer.drop()


async def test_a_token_whose_successor_was_not_seen_still_resumes(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        first = held(peer)
        for _ in range(3):  # RESUMED is lost each time: nothing was confirmed
            await peer.drop()
            peer.session.session = first
            await peer.connect(wait=False)
            while peer.session.session is first:
                await asyncio.sleep(0)
                peer.core.send = lambda *_args, **_more: None  # type: ignore[method-assign]
        await peer.drop()
        peer.session.session = first
        await peer.connect()
        assert await resume_code(peer) == 0
        await peer.drop()


async def test_a_superseded_token_is_refused(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        first = held(peer)
        await peer.drop()
        await peer.connect()
        await asyncio.sleep(0.05)  # CONFIRM is there
        await peer.drop()
        peer.session.session = first
        await peer.connect()
        assert await resume_code(peer) == Code.TOKEN_SUPERSEDED
        assert held(peer).session_id != first.session_id
        await peer.drop()


async def test_a_wrong_token_or_session_gets_a_new_session(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        first = held(peer)
        await peer.drop()
        peer.session.session = structs.replace(first, token=b"\0" * 32)
        await peer.connect()
        assert await resume_code(peer) == Code.TOKEN_INVALID
        await peer.drop()
        peer.session.session = structs.replace(first, session_id="0" * 32)
        await peer.connect()
        assert await resume_code(peer) == Code.UNKNOWN_SESSION
        # The new session works, and the old one is untouched.
        await peer.upload("a", b"x").ended()
        await peer.drop()
        peer.session.session = first
        await peer.connect()
        assert await resume_code(peer) == 0
        await peer.drop()


async def test_the_newest_connection_takes_the_session_over(start: Start) -> None:
    async with start() as serving:
        old = await Peer(serving.port).connect()
        up = old.upload("a", DATA, end=False)
        await up.stored(3)
        new = Peer(serving.port)
        new.session.session = held(old)
        await new.connect()
        failed = await old.failed()
        assert (failed.code, failed.retry) == (Code.TAKEN_OVER, False)
        assert held(new).epoch == 2
        await old.drop()
        # What the new one did not name was released; ids are not used again (§9.1).
        new.session.new_stream(up.stream.open, notify=lambda _: None)
        new.session.streams.clear()
        await new.upload("b", b"x").ended()
        await new.drop()


async def test_tokens_hold_across_a_restart(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("a", DATA, end=False).stored(3)
        await peer.drop()
        await peer.connect()
        before = held(peer)
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        assert await resume_code(peer) == 0
        assert held(peer).epoch == before.epoch + 1
        await peer.drop()
        peer.session.session = structs.replace(before, token=b"\1" * 32)
        await peer.connect()
        assert await resume_code(peer) == Code.TOKEN_INVALID
        await peer.drop()


async def test_a_session_without_streams_is_not_worth_a_record(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await peer.drop()
        await peer.connect()
        assert await resume_code(peer) == 0
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        assert await resume_code(peer) == Code.UNKNOWN_SESSION
        await peer.upload("a", b"x").ended()
        await peer.drop()


async def test_a_session_nobody_comes_back_to_expires(start: Start) -> None:
    async with start(session_ttl=1.0, cleanup_interval=0.05) as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, key="k", end=False)
        await up.stored(3)
        await asyncio.sleep(1.2)
        await peer.drop()  # while it was connected it did not expire
        await peer.connect()
        assert await resume_code(peer) == 0
        await peer.drop()
        await asyncio.sleep(2.0)
        await peer.connect()
        assert await resume_code(peer) == Code.UNKNOWN_SESSION
        # The upload is found again by its key.
        await up.stored(4)
        await peer.drop()


async def test_a_client_that_is_done_ends_its_session(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        peer.core.send(FrameType.GOAWAY, GoAway(0, "done"))
        await peer.request(FrameType.LIST, List("objects/"))
        await peer.drop()
        await peer.connect()
        assert await resume_code(peer) == Code.UNKNOWN_SESSION
        await peer.drop()


async def test_streams_not_named_are_released(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        kept = peer.upload("a", DATA, end=False)
        dropped = peer.upload("b", DATA, end=False)
        await kept.stored(3)
        await dropped.stored(3)
        await peer.drop()
        peer.session.forget(dropped.stream)
        await peer.connect()
        await peer.drop()
        peer.session.streams[dropped.stream.id] = dropped.stream
        await peer.connect()
        assert (await dropped.broken()).code == Code.UNKNOWN_STREAM
        await kept.stored(3)
        await peer.drop()


async def test_a_moved_stream_is_told_at_resume(start: Start) -> None:
    async with start() as serving:
        old = await Peer(serving.port).connect()
        up = old.upload("a", DATA, key="k", end=False)
        await up.stored(3)
        await old.drop()
        async with Peer(serving.port) as new:
            await new.upload("a", DATA, key="k").ended()
            await old.connect()
            assert (await up.broken()).code == Code.MOVED
            await old.drop()
