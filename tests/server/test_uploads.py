"""Uploads through a real server (SPEC.md §9, §10, §14)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.messages import OutcomeKind
from tests.server.peer import Peer

if TYPE_CHECKING:
    from tests.server.conftest import Start


async def test_an_upload_becomes_an_object_that_can_be_fetched(start: Start) -> None:
    data = os.urandom(300_000)
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a/b", data, parameters={"colour": "red"})
        outcome = await up.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert outcome.object is not None
        assert outcome.object.size == len(data)
        assert outcome.object.crc == crc32c(data)
        assert outcome.object.metadata == {"colour": "red"}
        down = peer.fetch("a/b")
        assert (await down.ended()).outcome is OutcomeKind.COMPLETED
        assert b"".join(down.chunks[i] for i in sorted(down.chunks)) == data
