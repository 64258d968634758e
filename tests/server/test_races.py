"""What happens between two steps of the server, when something else gets in between."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.server.stores.uploads import FileUpload
from tests.server.peer import Peer

if TYPE_CHECKING:
    import pytest

    from tests.server.conftest import Start

DATA = os.urandom(300_000)


class Gate:
    """Holds up a method until the test lets it go on."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        original = getattr(owner, name)

        async def held(*args: Any, **kwargs: Any) -> Any:
            self.reached.set()
            await self.open.wait()
            return await original(*args, **kwargs)

        patch.setattr(owner, name, held)


async def test_a_key_opened_during_its_commit_gets_that_outcome(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, FileUpload, "_finish_file")
    async with (
        start() as serving,
        Peer(serving.port) as first,
        Peer(serving.port) as second,
    ):
        first.upload("a", DATA, key="k")
        await gate.reached.wait()
        again = second.upload("a", DATA, key="k")
        await asyncio.sleep(0.1)
        gate.open.set()
        assert (await again.opened()).message.existing
        outcome = again.outcome
        assert outcome is not None
        assert outcome.outcome is OutcomeKind.COMPLETED


async def test_an_upload_released_during_its_commit_is_committed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, FileUpload, "_finish_file")
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA)
        await gate.reached.wait()
        up.release()
        await asyncio.sleep(0.1)
        gate.open.set()
        await asyncio.sleep(0.1)
        outcome = await peer.fetch("a").ended()
        assert outcome.outcome is OutcomeKind.COMPLETED


async def test_a_stream_that_comes_back_while_its_key_is_opened_hears_of_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, key="k", end=False)
        await up.stored(1)
        await peer.drop()
    async with start() as serving, Peer(serving.port) as other:
        gate = Gate(monkeypatch, FileUpload, "takeover")
        peer.port = serving.port
        await peer.connect(wait=False)
        await gate.reached.wait()
        again = other.upload("a", DATA, key="k")
        await asyncio.sleep(0.1)
        gate.open.set()
        assert (await again.ended()).outcome is OutcomeKind.COMPLETED
        assert (await up.broken()).code == Code.MOVED
        await peer.drop()


async def test_an_upload_that_was_attached_all_along_is_not_abandoned(
    start: Start,
) -> None:
    async with start(upload_ttl=0.5, cleanup_interval=0.05) as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, key="k", end=False)
        await up.stored(1)
        await asyncio.sleep(0.8)
        await peer.drop()
        await asyncio.sleep(0.2)
        await peer.connect()
        assert up.outcome is None
        await peer.drop()
