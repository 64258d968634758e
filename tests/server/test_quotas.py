"""How much one identity may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.proto.notices import ConnectionFailed, StreamRefused
from tests.server.identities import make_token, peer_with

if TYPE_CHECKING:
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
