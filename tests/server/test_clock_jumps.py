"""A clock that jumps ends nothing early, in a server that runs (SPEC.md §8)."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.frames import FrameType
from ackline.proto.messages import End, Intent, OutcomeKind, Status, StatusReport
from ackline.server import histories
from tests.server.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start

YEAR = 365 * 86_400.0


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
async def test_sessions_uploads_objects_and_histories_outlive_a_jump(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real, jumped = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + jumped)
    monkeypatch.setattr(histories, "SAVE_SECONDS", 0.01)
    data = b"x" * 100_000
    kept = (("*", "max-age=30d"),)
    async with start(cleanup_interval=0.05, object_retention=kept) as serving:
        peer = await Peer(serving.port).connect()
        await peer.upload("done", b"object").ended()
        part = peer.upload("part", data, key="k", end=False)
        await part.stored(1)
        await peer.drop()
        with closing(sqlite3.connect(tmp_path / "data" / "records.sqlite3")) as records:

            async def until(query: str) -> None:
                async with asyncio.timeout(50):
                    while not records.execute(query).fetchone()[0]:
                        await asyncio.sleep(0.01)

            await until("SELECT count(*) FROM histories")
            jumped = jump
            for _ in range(2):  # the first may have begun before the jump
                seen = real() + jump
                await until(
                    f"SELECT abs(seen - {seen}) < 1e6 AND seen > {seen} FROM clock"
                )
            (count,) = records.execute("SELECT count(*) FROM histories").fetchone()
            assert count
        await peer.connect()  # the same session, or the stream would be unknown
        assert isinstance(part.stream.sender, ChunkSender)
        size, crc = len(data), crc32c(data)
        part.stream.sender.finish(End(Intent.COMPLETED, 0, "", size=size, crc=crc))
        assert (await part.ended()).outcome is OutcomeKind.COMPLETED
        report = await peer.request(FrameType.STATUS, Status("objects/done"))
        assert isinstance(report, StatusReport)
        await peer.drop()
