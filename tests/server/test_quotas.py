"""How much one identity may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.client import connect
from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.proto.notices import ConnectionFailed, StreamRefused
from tests.server.identities import make_token, peer_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.server.conftest import Start
    from tests.server.peer import Peer, Work


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def test_connections_of_one_identity(start: Start, tokens: Path) -> None:
    few, other = make_token(tokens, "ann", connections="2"), make_token(tokens, "bob")
    async with start(tokens=tokens) as serving:
        peers = [await peer_with(serving, few) for _ in range(2)]
        third = await peer_with(serving, few, wait=False)
        failed = await third.failed()
        assert failed.code == Code.TOO_MANY_CONNECTIONS
        assert failed.retry_after > 0
        peers.append(await peer_with(serving, other))
        await peers.pop(0).drop()
        await third.drop()
        again: Peer | None = None
        while again is None:  # the server has yet to see that one has left
            again = await peer_with(serving, few, wait=False)
            if not await welcomed(again):
                await again.drop()
                again = None
        for peer in (*peers, again):
            await peer.drop()


async def welcomed(peer: Peer) -> bool:
    while not peer.notices:
        peer.changed.clear()
        await peer.changed.wait()
    return not isinstance(peer.notices[0], ConnectionFailed)


async def test_streams_of_all_sessions_of_one_identity(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", streams="2")
    async with start(tokens=tokens) as serving:
        one, two = await peer_with(serving, token), await peer_with(serving, token)
        first = one.publish("a", [b"x"], end=False)
        await first.stored(1)
        await two.publish("b", [b"x"], end=False).stored(1)
        refused = await two.publish("c", [b"x"]).refused()
        assert refused.message.code == Code.TOO_MANY_STREAMS
        assert refused.message.retry_after > 0
        first.cancel()
        await first.ended()
        first.release()
        for _ in range(3):  # neither those refused nor those released count
            while not await completed(work := two.publish("d", [b"x"])):
                pass  # the server has yet to hear of the release
            work.release()
        await one.drop()
        await two.drop()


async def completed(work: Work) -> bool:
    while work.outcome is None:
        if any(isinstance(notice, StreamRefused) for notice in work.notices):
            return False
        work.changed.clear()
        await work.changed.wait()
    return True


@pytest.mark.parametrize("known", [True, False])
async def test_bytes_that_one_identity_stores(
    start: Start, tokens: Path, known: bool
) -> None:
    token, other = make_token(tokens, "ann"), make_token(tokens, "bob")
    async with start(tokens=tokens, quota=(("stored-bytes", "1000"),)) as serving:
        ann, bob = await peer_with(serving, token), await peer_with(serving, other)
        await ann.upload("a", b"x" * 600).ended()
        more = ann.upload("b", b"x" * 600, size=600 if known else None)
        if known:
            refused = await more.refused()
            assert refused.message.code == Code.QUOTA_EXCEEDED
            assert "400 bytes more" in refused.message.text
        else:
            ended = await more.ended()
            assert ended.code == Code.QUOTA_EXCEEDED
        fits = await ann.upload("c", b"x" * 400).ended()
        assert fits.outcome == OutcomeKind.COMPLETED
        full = await ann.upload("d", b"x").refused()
        assert full.message.code == Code.QUOTA_EXCEEDED
        ended = await bob.upload("b", b"x" * 1000).ended()
        assert ended.outcome == OutcomeKind.COMPLETED
        await ann.drop()
        await bob.drop()


async def test_uploads_at_the_same_time_share_the_bytes(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", stored_bytes="1000")
    async with start(tokens=tokens) as serving:
        ann, also = await peer_with(serving, token), await peer_with(serving, token)
        works = [
            peer.upload(f"{i}{early}", b"x" * 300, key="k", early=early, size=300)
            for i in range(4)
            for early, peer in ((True, ann), (False, also))
        ]
        done = [await completed(work) for work in works]
        assert sum(done) == 3  # 900 bytes, whoever came first
        await ann.drop()
        await also.drop()


async def test_uploads_of_unknown_size_share_the_bytes(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", stored_bytes="10240")
    async with start(tokens=tokens) as serving:
        ann = await peer_with(serving, token)
        works = [
            ann.upload(f"{i}", b"x" * 3072, size=None, chunk_size=1024, key=f"{i}")
            for i in range(4)
        ]
        outcomes = [(await work.ended()) for work in works]
        codes = [each.code for each in outcomes]
        assert codes.count(Code.QUOTA_EXCEEDED) == 1
        assert codes.count(0) == 3
        await ann.drop()


async def test_an_upload_that_goes_on_counts_what_it_has_once(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", stored_bytes="5120")
    async with start(tokens=tokens) as serving:
        ann = await peer_with(serving, token)
        part = ann.upload(
            "a", b"x" * 4096, size=None, chunk_size=1024, key="a", end=False
        )
        await part.stored(4)
        await ann.drop()
        ann = await peer_with(serving, token)
        whole = ann.upload("a", b"x" * 5120, size=None, chunk_size=1024, key="a")
        assert (await whole.ended()).outcome == OutcomeKind.COMPLETED
        assert not await completed(ann.upload("b", b"x"))
        await ann.drop()


async def test_what_is_deleted_leaves_room_for_an_upload_under_way(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", stored_bytes="5120")
    async with (
        start(tokens=tokens) as serving,
        connect(f"ackline://127.0.0.1:{serving.port}", token=token) as client,
    ):
        await client.upload(b"x" * 3072, "old")

        async def parts() -> AsyncIterator[bytes]:
            yield b"y" * 2048
            await client.delete("objects/old")
            yield b"z" * 2048

        result = await client.upload(parts(), "new", chunk_size=1024)
        assert result.size == 4096
