"""Many clients come back to a server that was restarted: `python -m tests.soak.herd`.

All of them watch one log. After the restart every one has to be there again within
seconds, and they must not come all at once: each waits a random time of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client import ClientOptions, ConnectionPhase, connect
from tests.acceptance.processes import ServerProcess

if TYPE_CHECKING:
    from ackline.client import Client, ConnectionState

__all__ = ["Herd", "Return"]

AT_ONCE = 100
"""Clients that connect at a time in the beginning."""

PATIENCE = 60.0


@dataclass
class Return:
    """How they came back.

    Attributes:
        resumed: seconds at which each was there, since the server was started again.
        attempts: connections made in all, since the server went.
        served: seconds until each had an event that was published afterwards.
    """

    resumed: list[float] = field(default_factory=list)
    attempts: int = 0
    served: float = 0.0

    def most_in(self, seconds: float) -> int:
        """Return how many came within the fullest interval of this length."""
        times = sorted(self.resumed)
        return max(sum(at <= each < at + seconds for each in times) for at in times)


class Herd:
    """Clients of one server."""

    def __init__(self, server: ServerProcess, size: int) -> None:
        self.server = server
        self.size = size
        self.started_at = 0.0
        self.back = Return()
        self._seen = asyncio.Semaphore(0)

    async def scatter(self, *, drain: bool) -> Return:
        """Connect all, restart the server, and wait for all of them."""
        options = ClientOptions(connect_timeout=30.0)
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            while len(clients) < self.size:
                more = min(AT_ONCE, self.size - len(clients))
                opened = [
                    stack.enter_async_context(
                        connect(self.server.url, options=options, on_state=self._tell)
                    )
                    for _ in range(more)
                ]
                clients += await asyncio.gather(*opened)
            await clients[0].configure("news")
            watching = [asyncio.create_task(self._watch(each)) for each in clients]
            await self._publish("before")
            await (self.server.terminate() if drain else self.server.kill())
            self.back = Return()
            self.started_at = asyncio.get_running_loop().time()
            await self.server.start()
            await self._publish("after")
            self.back.served = asyncio.get_running_loop().time() - self.started_at
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)
        return self.back

    async def _watch(self, client: Client) -> None:
        async with client.subscribe("logs/news") as events:
            async for _ in events:
                self._seen.release()

    async def _publish(self, text: str) -> None:
        """Publish an event, and wait until everybody has it."""
        async with (
            asyncio.timeout(PATIENCE),
            connect(self.server.url) as client,
            client.publish("news") as publisher,
        ):
            await publisher.send(text)
            await publisher.flush()
            for _ in range(self.size):
                await self._seen.acquire()

    def _tell(self, state: ConnectionState) -> None:
        if state.phase is ConnectionPhase.CONNECTING:
            self.back.attempts += 1
        elif state.phase is ConnectionPhase.RESUMED:
            now = asyncio.get_running_loop().time()
            self.back.resumed.append(now - self.started_at)


async def _run(size: int, *, drain: bool) -> Return:
    with tempfile.TemporaryDirectory(prefix="ackline-herd-") as folder:
        server = ServerProcess(Path(folder, "data"))
        await server.start()
        try:
            return await Herd(server, size).scatter(drain=drain)
        finally:
            await server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.herd")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--drain", action="store_true", help="SIGTERM, not SIGKILL")
    chosen = parser.parse_args()
    back = asyncio.run(_run(chosen.clients, drain=chosen.drain))
    print(
        f"{len(back.resumed)} of {chosen.clients} clients resumed within"
        f" {max(back.resumed):.1f} s after {back.attempts} attempts, at most"
        f" {back.most_in(0.1)} in 0.1 s; all were served after {back.served:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
