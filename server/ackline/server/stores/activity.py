"""Who is writing which chunk right now."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Activity"]


class Activity:
    """The chunks being written, each by one writer, and when none is."""

    __slots__ = ("_idle", "_running")

    def __init__(self) -> None:
        self._running: dict[int, asyncio.Future[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def __contains__(self, index: int) -> bool:
        return index in self._running

    @contextlib.contextmanager
    def writing(self, index: int) -> Generator[None]:
        """Mark a chunk as being written, which it must not be already."""
        future = self._running[index] = asyncio.get_running_loop().create_future()
        self._idle.clear()
        try:
            yield
        finally:
            future.set_result(None)
            del self._running[index]
            if not self._running:
                self._idle.set()

    async def settled(self, index: int) -> None:
        """Wait until this chunk is not being written."""
        while (running := self._running.get(index)) is not None:
            await asyncio.wait([running])

    async def idle(self) -> None:
        """Wait until no chunk is being written."""
        await self._idle.wait()
