from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ackline.client import (
    AcklineError,
    Client,
    Event,
    Outcome,
    OutcomeKind,
    UsageError,
    connect,
    merged,
)
from ackline.client.signals import Signal
from tests.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ackline.client import Gap, Subscription
    from tests.client.processes import ServerProcess


async def collected(
    items: AsyncIterator[tuple[Subscription, Event | Gap | Outcome]],
) -> tuple[dict[Subscription, list[int]], dict[Subscription, Outcome]]:
    """Return the ids of each subscription's events, and how it ended."""
    ids: dict[Subscription, list[int]] = {}
    ends: dict[Subscription, Outcome] = {}
    async for stream, item in items:
        assert stream not in ends, "something came after the outcome"
        if isinstance(item, Outcome):
            ends[stream] = item
        else:
            ids.setdefault(stream, []).append(item.id)
    return ids, ends


async def entered(stack: AsyncExitStack, client: Client, **params: Any) -> Subscription:
    source = params.pop("source", "count")
    made = client.subscribe(f"sources/{source}", params=params)
    return await stack.enter_async_context(made)


async def test_each_comes_in_order_and_its_outcome_last(client: Client) -> None:
    async with AsyncExitStack() as stack:
        streams = [await entered(stack, client, events=n) for n in range(20)]
        ids, ends = await collected(aiter(merged(streams)))
    assert ids == {stream: list(range(n)) for n, stream in enumerate(streams) if n}
    assert {end.outcome for end in ends.values()} == {OutcomeKind.COMPLETED}
    assert set(ends) == set(streams)


async def test_one_that_fails_does_not_end_the_others(client: Client) -> None:
    async with AsyncExitStack() as stack:
        bad = await entered(stack, client, source="broken")
        good = await entered(stack, client, events=50, delay=0.001)
        ids, ends = await collected(aiter(merged([bad, good])))
    assert ids == {bad: [0, 1, 2], good: list(range(50))}
    assert ends[bad].outcome == OutcomeKind.FAILED
    assert ends[good].outcome == OutcomeKind.COMPLETED


async def test_it_goes_on_after_a_break_and_over_a_lost_connection(
    server: ServerProcess,
) -> None:
    async with (
        Link(target_port=server.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        AsyncExitStack() as stack,
    ):
        streams = [
            await entered(stack, client, events=60, delay=0.001) for _ in range(10)
        ]
        items = merged(streams)
        seen = 0
        first: dict[Subscription, list[int]] = {}
        async for stream, item in items:
            assert isinstance(item, Event)
            first.setdefault(stream, []).append(item.id)
            seen += 1
            if seen == 200:
                break
        assert await link.cut() == 1
        ids, ends = await collected(aiter(items))
        assert all(stream.resumes == 1 for stream in streams)
    for stream in streams:
        assert first.get(stream, []) + ids.get(stream, []) == list(range(60))
    assert len(ends) == 10


async def test_one_is_added_while_the_others_are_consumed(client: Client) -> None:
    async with AsyncExitStack() as stack:
        one = await entered(stack, client, events=5)
        two = await entered(stack, client, events=3)
        items = merged([one])
        got: list[tuple[Subscription, int]] = []
        async for stream, item in items:
            if isinstance(item, Event):
                got.append((stream, item.id))
                if (stream, item.id) == (one, 2):
                    items.add(two)
    assert got == [*((one, n) for n in range(5)), *((two, n) for n in range(3))]


async def test_one_that_is_merged_is_not_consumed_elsewhere(client: Client) -> None:
    async with AsyncExitStack() as stack:
        one = await entered(stack, client, events=5)
        items = merged([one])
        with pytest.raises(UsageError, match="merged"):
            await anext(aiter(one))
        items.remove(one)
        rest = [event.id async for batch in one.batches() for event in batch]
    assert rest == list(range(5))


async def test_what_was_left_in_the_middle_is_not_lost(client: Client) -> None:
    """Events that came as one batch, consumed in three places one after the other."""
    async with AsyncExitStack() as stack:
        one = await entered(stack, client, events=9)
        while not one.waiting:
            await asyncio.sleep(0.01)
        async for event in one:
            if event.id == 2:
                break
        items = merged([one])
        seen: list[int] = []
        async for _, item in items:
            assert isinstance(item, Event)
            seen.append(item.id)
            if item.id == 5:
                items.remove(one)
        assert seen == [3, 4, 5]
        assert [event.id async for event in one] == [6, 7, 8]


async def test_what_was_used_makes_room_though_nothing_follows(client: Client) -> None:
    """The window is two events: the next come once these count as used."""
    async with AsyncExitStack() as stack:
        subscription = client.subscribe(
            "sources/count", params={"events": 20}, window_events=2
        )
        one = await stack.enter_async_context(subscription)
        ids, _ends = await collected(aiter(merged([one])))
    assert ids == {one: list(range(20))}


async def test_a_client_that_stops_ends_it(server: ServerProcess) -> None:
    connecting = connect(server.url)
    client = await connecting.__aenter__()
    stream = client.subscribe("sources/endless")
    await stream.__aenter__()
    items = aiter(merged([stream]))
    await anext(items)

    async def rest() -> None:
        async for _ in items:
            pass

    consuming = asyncio.create_task(rest())
    await asyncio.sleep(0)
    await connecting.__aexit__(None, None, None)
    with pytest.raises(AcklineError):
        await asyncio.wait_for(consuming, 5)


async def test_a_signal_wakes_all_who_wait_and_forgets_who_gave_up() -> None:
    signal = Signal()
    gone = signal.future()
    gone.cancel()
    waiting = [asyncio.ensure_future(signal.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    signal.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    await signal.wait()
    signal.clear()
    later = asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)
    assert not later.done()
    signal.set()
    await later
