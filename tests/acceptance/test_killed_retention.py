"""Events are deleted while readers read, and the server is killed meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from ackline.client import AcklineError, ClientOptions, Event, Gap, connect
from ackline.proto.messages import GapReason
from tests.acceptance.processes import run_client, running

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client import Client

QUICK = ClientOptions(backoff_first=0.02, backoff_last=0.2)
BODY = "x" * 4000
EVENTS_A_ROUND = 200
ROUNDS = 4
COUNT = EVENTS_A_ROUND * ROUNDS


class Reader:
    """One that is behind by more than is retained; it checks every event."""

    def __init__(self) -> None:
        self.position = self.trimmed = 0
        self.error: AcklineError | None = None

    async def read(self, client: Client, on_trimmed: Literal["error", "gap"]) -> None:
        try:
            async with client.subscribe(
                "logs/app", start=0, on_trimmed=on_trimmed, window_events=4
            ) as events:
                async for entry in events:
                    self.take(entry)
                    await asyncio.sleep(0.01)
                    if self.position == COUNT:
                        return
        except AcklineError as error:
            self.error = error

    def take(self, entry: Event | Gap) -> None:
        assert entry.id == self.position
        if isinstance(entry, Gap):
            assert entry.reason is GapReason.TRIMMED
            self.trimmed += entry.count
            self.position += entry.count
        else:
            assert entry.text == f"event {entry.id} {BODY}"
            self.position += 1


async def test_who_reads_what_expires_gets_every_event_or_is_told(
    tmp_path: Path,
) -> None:
    """800 events of 4 KB, of which 200 KB are kept, and three deaths of the server."""
    options = ("--log-segment-bytes=65536", "--cleanup-interval=0.05")
    async with (
        running(tmp_path / "data", *options) as server,
        connect(server.url, options=QUICK) as client,
    ):
        await run_client(
            server.port, tmp_path / "s", "create", "logs/app", "--max-size=200KB"
        )
        whole, holed = Reader(), Reader()
        reading = [
            asyncio.create_task(whole.read(client, "error")),
            asyncio.create_task(holed.read(client, "gap")),
        ]
        async with client.publish("logs/app") as publisher:
            for round_ in range(ROUNDS):
                first = round_ * EVENTS_A_ROUND
                for number in range(first, first + EVENTS_A_ROUND):
                    await publisher.send(f"event {number} {BODY}")
                await publisher.flush()
                if round_ < ROUNDS - 1:
                    await asyncio.sleep(0.1)  # it is in the middle of a cleanup
                    await server.kill()
                    await server.start()
        async with asyncio.timeout(50):
            await asyncio.gather(*reading)
    assert 0 < whole.position < COUNT
    assert "position_trimmed" in str(whole.error)
    assert holed.error is None
    assert holed.position == COUNT
    assert 0 < holed.trimmed < COUNT
