"""Data folders with something of everything, made by a server."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from ackline.proto.frames import FrameType
from ackline.proto.messages import Configure, Seal
from ackline.server import Event, Server
from tests.server.conftest import options_for
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

LINES = [os.urandom(3000) for _ in range(100)]


async def fill(port: int) -> None:
    """Store something of everything, and leave some of it unfinished."""
    async with Peer(port) as peer:
        await peer.upload("empty", b"").ended()
        await peer.upload("large", os.urandom(300_000)).ended()
        await peer.upload("hashed", os.urandom(1000), algorithm="sha256").ended()
        meta = peer.upload("named", b"x", parameters={"title": "a" * 500}, key="k")
        await meta.ended()
        part = peer.upload("part", os.urandom(200_000), key="part", end=False)
        await part.stored(3)
        for at in range(0, 100, 10):
            lines = LINES[at : at + 10]
            await peer.publish("log", lines, key="p", start=at).ended()
        # Numbered otherwise in the log than by who publishes them.
        for kinds in (("a", "b"), ("c", "a")):
            await peer.publish("log", LINES[:7], kinds=kinds).ended()
        await peer.request(FrameType.CONFIGURE, Configure("logs/kept", {}))
        await peer.publish("sealed", LINES[:1]).ended()
        await peer.request(FrameType.SEAL, Seal("logs/sealed"))
        reader = peer.subscribe("logs/log")
        await reader.events(50)
        await peer.subscribe("sources/durable").ended()


def make_server() -> Server:
    server = Server()

    @server.source("durable", durable=True, kinds=("x",))
    async def durable() -> AsyncGenerator[Event]:
        for number in range(5):
            yield Event(str(number), kind="x")

    @server.sink("named")
    async def broken(_obj: object) -> None:
        raise ValueError("no")

    return server


def make_folder(folder: Path) -> Path:
    """Return a data folder of a server that was stopped."""

    async def made() -> None:
        options = options_for(folder, log_segment_bytes=2**16)
        async with make_server().serve(options) as serving:
            await fill(serving.port)

    asyncio.run(made())
    return folder / "data"


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder that no test changes."""
    return make_folder(tmp_path_factory.mktemp("original"))


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """Return a data folder of the test's own."""
    return shutil.copytree(original, tmp_path / "data")
