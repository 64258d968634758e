"""A server that does what a test says: a real socket around the core of a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from ackline.aio import Pump, PumpProtocol, shared_scratch
from ackline.proto.buffers import BufferPool
from ackline.proto.messages import (
    Durability,
    Limits,
    Session,
    UploadDetail,
    UploadOpened,
    open_detail,
)
from ackline.proto.notices import HelloReceived, OpenReceived
from ackline.proto.server_connection import ServerConnection
from ackline.proto.stats import Stats
from ackline.proto.windows import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream

LIMITS = Limits(262_144, 2**24, 10_000, 65_536, 2**25, 64, 65_536, 10.0)


class ScriptedServer:
    """Welcomes every client; `script(core, notice)` does the rest."""

    def __init__(self, script: Callable[[ServerConnection, Notice], None]) -> None:
        self.script = script
        self.connections: list[ServerConnection] = []
        self._pumps: set[Pump] = set()
        self.welcomes = True

    @property
    def url(self) -> str:
        return f"ackline://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: PumpProtocol(Pump(self)), "127.0.0.1", 0
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    async def __aexit__(self, *_: object) -> None:
        self.close()
        for core in self.connections:
            core.fail(0, "the test is over")
        await asyncio.sleep(0.01)
        for pump in list(self._pumps):
            pump.abort()
            await pump.closed

    def pump_made(self, pump: Pump) -> ServerConnection:
        loop = asyncio.get_running_loop()

        def notify(notice: Notice) -> None:
            if isinstance(notice, HelloReceived) and self.welcomes:
                core.welcome(
                    agent="scripted",
                    identity="anonymous",
                    session=None
                    if notice.hello.resume
                    else Session("s", b"t" * 16, len(self.connections)),
                    ttl=3600.0,
                )
            self.script(core, notice)

        core = ServerConnection(
            limits=LIMITS,
            scratch=shared_scratch(loop),
            notify=notify,
            on_output=pump.on_output,
            now=loop.time(),
            stats=Stats(),
            pool=BufferPool(),
            budget=Budget(2**26),
            max_chunks=4,
        )
        self.connections.append(core)
        self._pumps.add(pump)
        return core

    def pump_lost(self, pump: Pump, error: Exception | None) -> None:
        """Forget it."""
        self._pumps.discard(pump)


def accept_upload(core: ServerConnection, stream: Stream) -> None:
    """Accept an upload of which nothing is there."""
    detail = open_detail(stream.open)
    assert isinstance(detail, UploadDetail)
    receiver = stream.receiver
    assert receiver is not None
    stream.resource, stream.generation, stream.epoch = "uploads/u", 7, 1
    receiver.restore({})  # type: ignore[attr-defined]
    receiver.grow()
    core.accept(
        stream,
        existing=False,
        durability=Durability.SYNCED,
        detail=UploadOpened(detail.chunk_size),
        standing=receiver.standing(),
    )


__all__ = ["LIMITS", "OpenReceived", "ScriptedServer", "accept_upload"]
