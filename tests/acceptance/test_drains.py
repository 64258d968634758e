"""Servers that are stopped and started again under clients that are in the middle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    AcklineError,
    ClientOptions,
    Code,
    Event,
    Gap,
    Refused,
    connect,
)
from tests.acceptance.processes import running

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client import Client, Subscription
    from tests.acceptance.processes import ServerProcess

QUICK = ClientOptions(backoff_first=0.02, backoff_last=0.2)


async def begun(client: Client, policy: str = "block") -> Subscription:
    """Subscribe to a run of 2,000 events in memory, and take one of them."""
    run = client.subscribe(
        "sources/count",
        params={"events": 2000},
        policy=policy,
        on_trimmed="error",
        window_events=10 if policy == "block" else None,
    )
    await run.__aenter__()
    await anext(aiter(run))
    async with asyncio.timeout(50):
        while (await client.status(run.resource)).state != "COMPLETED":
            await asyncio.sleep(0.01)
    return run


async def restart(server: ServerProcess) -> None:
    await server.terminate()
    await server.start()


async def test_a_run_whose_events_are_gone_does_not_look_complete(
    tmp_path: Path,
) -> None:
    async with (
        running(tmp_path / "data", "--drain-seconds=1") as server,
        connect(server.url, options=QUICK) as client,
    ):
        run = await begun(client)
        await restart(server)
        with pytest.raises(AcklineError) as raised:
            async for _ in run:
                pass
        assert "position_trimmed" in str(raised.value)
        with pytest.raises(Refused) as refused:
            async with client.subscribe(run.resource, start=5):
                pass
        assert refused.value.code == Code.POSITION_TRIMMED
        await run.close()


async def test_who_takes_gaps_is_told_how_many_events_are_gone(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "data", "--drain-seconds=1") as server,
        connect(server.url, options=QUICK) as client,
    ):
        run = await begun(client)
        await restart(server)
        async with client.subscribe(run.resource, start=5, on_trimmed="gap") as late:
            events = [each async for each in late]
        assert [each.count for each in events if isinstance(each, Gap)] == [1995]
        await run.close()


async def test_a_run_that_is_watched_may_end_before_the_server_does(
    tmp_path: Path,
) -> None:
    """It is in memory, so nobody could go on with it."""
    states: list[str] = []
    async with (
        running(tmp_path / "data", "--drain-seconds=8") as server,
        connect(
            server.url,
            options=QUICK,
            on_state=lambda state: states.append(state.phase.value),
        ) as client,
        client.subscribe("sources/count", params={"events": 100, "pause": 0.01}) as run,
    ):
        events = aiter(run)
        await anext(events)
        restarting = asyncio.create_task(restart(server))
        seen = [each.text async for each in run if not isinstance(each, Gap)]
        assert seen[-1] == "event 99"
        assert run.received == 100
        assert states == ["connecting", "connected"]
        await restarting
        assert (await client.ping()) > 0


class Callers:
    """Somebody for each of the four uses, who wants to hear of no error."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stopped = asyncio.Event()

    async def transfers(self) -> None:
        number = 0
        while not self.stopped.is_set() or number < 3:
            data = bytes([number % 256]) * (50_000 * (number % 20) + 1)
            await self.client.upload(data, f"n{number}", chunk_size=2**16)
            assert (await self.client.fetch(f"n{number}")).data == data
            number += 1

    async def publish(self) -> None:
        async with self.client.publish("log", key="p") as publisher:
            while not self.stopped.is_set():
                await publisher.send(f"{publisher.position}")
                await asyncio.sleep(0.001)
            await publisher.flush()
        await self.client.seal("log")

    async def follow(self) -> None:
        async with self.client.subscribe("logs/log") as events:
            expected = 0
            async for event in events:
                assert isinstance(event, Event)
                assert (event.id, event.text) == (expected, f"{expected}")
                expected += 1
            assert expected > 100

    async def compute(self) -> None:
        async with self.client.subscribe(
            "sources/steps", params={"events": 400, "pause": 0.005}
        ) as run:
            assert [each.id async for each in run] == list(range(400))


async def test_no_caller_notices_that_servers_come_and_go(tmp_path: Path) -> None:
    """SPEC.md §18: all four uses, over three drains."""
    async with (
        running(tmp_path / "data", "--drain-seconds=2") as server,
        connect(server.url, options=QUICK) as client,
        asyncio.TaskGroup() as group,
    ):
        callers = Callers(client)
        await client.configure("log")
        for work in (
            callers.transfers,
            callers.publish,
            callers.follow,
            callers.compute,
        ):
            group.create_task(work())
        for _ in range(3):
            await asyncio.sleep(0.3)
            await restart(server)
        callers.stopped.set()
