"""Servers that are stopped and started again under clients that are in the middle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.client import AcklineError, ClientOptions, Code, Gap, Refused, connect
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
    async with asyncio.timeout(10):
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
