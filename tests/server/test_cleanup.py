"""Deleting what is too old."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import Error, OutcomeKind, Status, StatusReport
from ackline.server import Server
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.server.conftest import Start


async def test_an_abandoned_upload_is_deleted_and_says_so(
    start: Start, tmp_path: Path
) -> None:
    async with start(upload_ttl=0.2, cleanup_interval=0.05) as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", b"x" * 100_000, key="k", end=False)
        await up.stored(1)
        await asyncio.sleep(0.5)
        assert up.outcome is None  # it is attached: waiting is not abandoning
        await peer.drop()
        async with asyncio.timeout(50):
            while list((tmp_path / "data" / "objects").iterdir()):
                await asyncio.sleep(0.02)
        await peer.connect()
        outcome = await up.ended()
        assert (outcome.outcome, outcome.code) == (OutcomeKind.FAILED, Code.EXPIRED)
        # Expired says retry: the key starts anew.
        again = peer.upload("a", b"x" * 100_000, key="k")
        assert (await again.ended()).outcome is OutcomeKind.COMPLETED
        await peer.drop()


async def test_an_upload_abandoned_while_the_server_was_down_goes_too(
    start: Start, tmp_path: Path
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", b"x" * 100_000, key="k", end=False)
        await up.stored(1)
        await peer.drop()
    await asyncio.sleep(0.2)
    async with start(upload_ttl=0.1):
        async with asyncio.timeout(50):
            while list((tmp_path / "data" / "objects").iterdir()):
                await asyncio.sleep(0.02)


async def test_outcomes_are_forgotten_in_the_end(start: Start) -> None:
    server = Server()

    @server.source("one")
    async def one() -> AsyncGenerator[bytes]:
        yield b"x"

    async with (
        start(
            server, outcome_ttl=1.0, run_retention=0.05, cleanup_interval=0.05
        ) as serving,
        Peer(serving.port) as peer,
    ):
        run = peer.subscribe("sources/one")
        await run.ended()
        up = peer.upload("a", b"x")
        await up.ended()
        targets = [Status(work.stream.resource) for work in (run, up)]
        for work in (run, up):
            work.release()
        for target in targets:
            first = await peer.request(FrameType.STATUS, target)
            assert isinstance(first, StatusReport)
        for target in targets:
            async with asyncio.timeout(50):
                while True:
                    answer = await peer.request(FrameType.STATUS, target)
                    if isinstance(answer, Error):
                        break
                    await asyncio.sleep(0.02)
            assert answer.code == Code.NOT_FOUND
