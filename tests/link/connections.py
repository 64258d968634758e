"""A client's connection through the link, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.link.options import CutMode, Direction, LinkOptions
from tests.link.paths import BUFFER, PATIENCE, CutReachedError, Lane, Path, shut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from tests.link.options import Observer

__all__ = ["Connection"]


class Connection:
    """A client's connection and the one it leads to."""

    def __init__(
        self,
        *,
        number: int,
        client: socket.socket,
        server: socket.socket,
        target: tuple[str, int],
        options: LinkOptions,
        lanes: Mapping[Direction, Lane],
        randomness: Random,
        on_cut: Callable[[], None],
        observer: Observer | None,
    ) -> None:
        self.ended = asyncio.Event()
        self._client = client
        self._server = server
        self._target = target
        self._on_cut = on_cut
        self._number = number
        self._observer = observer
        loop = asyncio.get_running_loop()
        self._request: asyncio.Future[CutMode] = loop.create_future()
        self._paths = [
            Path(
                number=number,
                source=source,
                destination=destination,
                options=options,
                way=options.way(direction),
                lane=lanes[direction],
                randomness=randomness,
                observe=partial(self._observe, direction),
            )
            for direction, source, destination in (
                (Direction.TO_SERVER, client, server),
                (Direction.TO_CLIENT, server, client),
            )
        ]

    def request_cut(self, mode: CutMode) -> None:
        """Have the connection cut; `ended` tells when that is done."""
        if not self._request.done():
            self._request.set_result(mode)

    async def run(self) -> None:
        """Connect, then forward until both directions have ended or the link cuts."""
        try:
            async with asyncio.TaskGroup() as group:
                request = group.create_task(self._requested())
                await self._forward()
                request.cancel()
        except* CutReachedError as reached:
            self._on_cut()
            mode = _first(reached).mode
            if mode is CutMode.FINISH:
                await self._finish()
            else:
                self._reset()
        except* OSError:
            # One end is gone or the target refused: the other end is told as much.
            self._reset()
        finally:
            self._client.close()
            self._server.close()
            self.ended.set()

    def _observe(self, direction: Direction, data: memoryview) -> None:
        if self._observer is not None:
            self._observer.entered(self._number, direction, data)

    async def _requested(self) -> None:
        raise CutReachedError(await self._request)

    async def _forward(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._server, self._target)
        async with asyncio.TaskGroup() as group:
            for path in self._paths:
                group.create_task(path.run())

    def _reset(self) -> None:
        for end in (self._client, self._server):
            if end.fileno() >= 0:
                end.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                end.close()

    async def _finish(self) -> None:
        for end in (self._client, self._server):
            shut(end)
        self.ended.set()
        # Closing a socket that has unread bytes would send a reset after all.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                for end in (self._client, self._server):
                    group.create_task(_discard(end))


def _first(group: BaseExceptionGroup[CutReachedError]) -> CutReachedError:
    """Return one of the exceptions in nested groups."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _discard(end: socket.socket) -> None:
    view = memoryview(bytearray(BUFFER))
    with contextlib.suppress(OSError):  # a reset ends it as well
        while await asyncio.get_running_loop().sock_recv_into(end, view):
            pass
