"""What befalls server, clients, links and disk; seeded."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tests.link import CutMode, Direction, Link, LinkOptions, Way

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from random import Random

__all__ = ["Disk", "LinkFaults", "links_to"]

MIB = 2**20
WAYS = (Direction.TO_SERVER,), (Direction.TO_CLIENT,), tuple(Direction)


def links_to(port: int, seed: int) -> list[Link]:
    """Return a link that is fast, one like a bad line, and one that flips bits."""
    bad = Way(latency=0.02, jitter=0.02, bandwidth=4e6, cut_every=9 * MIB)
    flipping = Way(flip_at=tuple(range(MIB, 4000 * MIB, 5 * MIB + 12_345)))
    return [
        Link(target_port=port, options=options)
        for options in (
            LinkOptions(seed=seed),
            LinkOptions(to_server=bad, to_client=bad, socket_buffer=2**16, seed=seed),
            LinkOptions(to_server=flipping, to_client=flipping, seed=seed),
        )
    ]


class LinkFaults:
    """Does something to a link, and undoes it."""

    def __init__(self, links: list[Link], chance: Random, count: Counter[str]) -> None:
        self._links = links
        self._chance = chance
        self._count = count

    async def one(self) -> None:
        """Let one thing happen to one link."""
        kinds: list[Callable[[Link], Coroutine[None, None, None]]] = [
            self.cut,
            self.stall,
            self.down,
            self.blackhole,
        ]
        kind = self._chance.choice(kinds)
        self._count[f"link: {kind.__name__}"] += 1
        await kind(self._chance.choice(self._links))

    async def cut(self, link: Link) -> None:
        await link.cut(mode=self._chance.choice(list(CutMode)))

    async def stall(self, link: Link) -> None:
        link.stall(*self._chance.choice(WAYS))
        await self._while()
        link.resume()

    async def down(self, link: Link) -> None:
        link.down()
        await link.cut()
        await self._while()
        link.up()

    async def blackhole(self, link: Link) -> None:
        link.blackhole(*self._chance.choice(WAYS))
        await self._while()
        link.heal()

    async def _while(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.1, 4))


class Disk:
    """A small file system of its own, if this user may mount one, so that it can fill.

    Args:
        folder: where it is mounted.
        size: of it, in bytes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._size = size
        self.mounted = False

    async def __aenter__(self) -> Self:
        self.folder.mkdir()
        self.mounted = await self._command(
            "mount", "-t", "tmpfs", "-o", f"size={self._size}", "none", str(self.folder)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.mounted:
            await self._command("umount", str(self.folder))

    async def fill(self, seconds: float) -> None:
        """Leave no byte of it free for that long."""
        filler = self.folder / "filler"
        with filler.open("wb") as file:
            state = os.statvfs(self.folder)
            with suppress(OSError):  # somebody was faster: then it is full all the same
                os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize)
        await asyncio.sleep(seconds)
        filler.unlink()

    async def _command(self, *words: str) -> bool:
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stderr=asyncio.subprocess.DEVNULL
            )
        except FileNotFoundError:
            return False
        return await process.wait() == 0
