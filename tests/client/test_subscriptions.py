from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ackline.client import (
    Client,
    ClientOptions,
    Code,
    ConnectionPhase,
    ConnectionState,
    Event,
    OutcomeKind,
    Refused,
    StreamCancelled,
    StreamFailed,
    UsageError,
    connect,
)
from tests.client.processes import running_server
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client import Subscription
    from tests.client.processes import ServerProcess


async def ids(subscription: Subscription) -> list[int]:
    return [event.id async for event in subscription]


async def fill(client: Client, name: str, count: int) -> None:
    async with client.publish(name) as publisher:
        await publisher.send_many(map(str, range(count)))


async def test_a_source_is_run_with_its_arguments_and_ends_cleanly(
    client: Client,
) -> None:
    async with client.subscribe("sources/count", params={"events": 5}) as events:
        assert events.run_id
        assert events.resource == f"runs/{events.run_id}"
        found = [event async for event in events]
    assert found == [Event(n, "", f"event {n}".encode()) for n in range(5)]
    assert events.outcome is not None
    assert events.outcome.outcome == OutcomeKind.COMPLETED
    assert events.position == 5


async def test_an_empty_stream_completes(client: Client) -> None:
    async with client.subscribe("sources/count", params={"events": 0}) as events:
        assert await ids(events) == []
    assert events.outcome is not None
    assert events.outcome.outcome == OutcomeKind.COMPLETED


async def test_a_source_that_raises_fails_after_its_last_event(client: Client) -> None:
    found: list[int] = []

    async def follow() -> None:
        async with client.subscribe("sources/broken") as events:
            async for event in events:
                found.append(event.id)  # noqa: PERF401 - the list survives the error

    with pytest.raises(StreamFailed) as raised:
        await follow()
    assert raised.value.outcome.code == Code.SOURCE_FAILED
    assert found == [0, 1, 2]


async def test_cutting_after_event_37_continues_with_38(server: ServerProcess) -> None:
    states: list[ConnectionState] = []
    async with (
        Link(target_port=server.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}", on_state=states.append) as client,
        client.subscribe(
            "sources/count", params={"events": 100, "delay": 0.002}
        ) as events,
    ):
        found: list[int] = []
        async for event in events:
            found.append(event.id)
            if event.id == 37:
                assert await link.cut() == 1
        assert found == list(range(100))
        assert events.resumes == 1
    phases = [state.phase for state in states]
    assert phases == [
        ConnectionPhase.CONNECTING,
        ConnectionPhase.CONNECTED,
        ConnectionPhase.DISCONNECTED,
        ConnectionPhase.CONNECTING,
        ConnectionPhase.RESUMED,
        ConnectionPhase.CLOSED,
    ]
    assert states[2].reason


async def test_many_cuts_lose_and_repeat_nothing(server: ServerProcess) -> None:
    options = LinkOptions(to_client=Way(cut_every=20_000))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        client.subscribe(
            "sources/count", params={"events": 20_000, "delay": 0.0}, key="many"
        ) as events,
    ):
        assert await ids(events) == list(range(20_000))
        assert link.counters.cuts >= 8


@pytest.mark.parametrize(
    ("start", "first"),
    [("first", 0), ("last", 9), (("last", 3), 7), (0, 0), (4, 4), (9, 9)],
)
async def test_a_log_is_read_from_where_one_wants(
    client: Client, name: str, start: Any, first: int
) -> None:
    await fill(client, name, 10)
    await client.seal(name)
    async with client.subscribe(f"logs/{name}", start=start) as events:
        assert await ids(events) == list(range(first, 10))


async def test_a_log_is_read_from_a_time_or_from_now_on(
    client: Client, name: str
) -> None:
    await fill(client, name, 3)
    later = datetime.now(UTC) + timedelta(hours=1)
    async with (
        client.subscribe(f"logs/{name}", start=later) as by_time,
        client.subscribe(f"logs/{name}", start="next") as following,
        client.subscribe(
            f"logs/{name}", start=datetime.now(UTC) - timedelta(hours=1)
        ) as past,
    ):
        async with client.publish(name) as publisher:
            await publisher.send(b"new")
        await client.seal(name)
        assert await ids(past) == [0, 1, 2, 3]
        assert await ids(following) == [3]
        assert await ids(by_time) in ([], [3])


@pytest.mark.parametrize("start", ["middle", -1, ("last", 0), ("first", 2), True, 1.5])
def test_a_start_that_is_none_says_what_is(client: Client, start: Any) -> None:
    with pytest.raises(UsageError, match="cannot start at"):
        client.subscribe("logs/x", start=start)


@pytest.mark.parametrize("resource", ["objects/x", "x", "", "logs/", "uploads/1"])
def test_what_has_no_events_is_refused_here(client: Client, resource: str) -> None:
    with pytest.raises(UsageError):
        client.subscribe(resource)


async def test_an_unknown_log_or_source_is_refused(client: Client, name: str) -> None:
    for resource in (f"logs/{name}", "sources/nope", "runs/nope"):
        with pytest.raises(Refused) as raised:
            async with client.subscribe(resource):
                pass
        assert raised.value.code == Code.NOT_FOUND


async def test_breaking_out_and_going_on_repeats_and_loses_nothing(
    client: Client, name: str
) -> None:
    await fill(client, name, 1000)
    await client.seal(name)
    async with client.subscribe(f"logs/{name}") as events:
        found: list[int] = []
        for stop in (1, 17, 500, 999):
            async for event in events:
                found.append(event.id)
                if event.id == stop:
                    break
            assert events.position == stop + 1
        assert await ids(events) == []
        assert found == list(range(1000))


async def test_a_wait_that_was_cancelled_ends_no_iteration(client: Client) -> None:
    params: dict[str, Any] = {"events": 2, "delay": 0.05}
    async with client.subscribe("sources/count", params=params) as run:
        seen: list[int] = []

        async def read() -> None:
            async for event in run:
                seen.append(event.id)  # noqa: PERF401 - cancelled in the middle

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(), 0.03)
        await read()
        assert seen == [0, 1]
        assert run.outcome is not None


async def test_what_was_delivered_is_what_is_reported(
    client: Client, name: str
) -> None:
    await fill(client, name, 100)
    async with client.subscribe(f"logs/{name}") as events:
        async for event in events:
            if event.id == 41:
                break
        receiver = events._receiver
        await events.close()
        assert receiver.consumed == receiver.stored == 42


async def test_batches_are_lists_of_events(client: Client, name: str) -> None:
    await fill(client, name, 5000)
    await client.seal(name)
    async with client.subscribe(f"logs/{name}") as events:
        lists = [batch async for batch in events.batches()]
    assert [event.id for batch in lists for event in batch] == list(range(5000))
    assert len(lists) < 100


async def test_without_auto_ack_the_application_says_what_it_keeps(
    client: Client, name: str
) -> None:
    await fill(client, name, 10)
    await client.seal(name)
    async with client.subscribe(f"logs/{name}", auto_ack=False) as events:
        async for event in events:
            if event.id < 9:
                continue
            assert events._receiver.stored == 0
            with pytest.raises(UsageError, match="not received"):
                events.ack(10)
            events.ack(9)
            assert events._receiver.stored == 10
    async with client.subscribe(f"logs/{name}") as events:
        with pytest.raises(UsageError, match="auto_ack"):
            events.ack(0)


async def test_cancelling_the_work_runs_its_finally(
    client: Client, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    async with client.subscribe("sources/endless", params={"mark": str(mark)}) as run:
        async for event in run:
            if event.id == 5:
                break
        outcome = await run.cancel(work=True, text="enough")
        assert outcome.outcome == OutcomeKind.CANCELLED
        assert mark.exists()
        again = await run.cancel(work=True)
        assert again == outcome
        with pytest.raises(StreamCancelled):
            await ids(run)
        later = await client.cancel(run.resource)
        assert (later.outcome, later.code) == (outcome.outcome, outcome.code)


async def test_a_run_has_several_viewers_and_outlives_one(
    client: Client, server: ServerProcess, tmp_path: Path
) -> None:
    async with (
        connect(server.url) as other,
        client.subscribe("sources/endless") as first,
    ):
        async for _ in first:
            break
        async with other.subscribe(first.resource, start="first") as second:
            async for event in second:
                assert event.id == 0
                break
            outcome = await second.cancel()
            assert outcome.outcome == OutcomeKind.CANCELLED
        async for event in first:
            if event.id > 20:
                break
        await client.cancel(first.resource)


async def test_leaving_can_cancel_the_run(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with client.subscribe(
        "sources/endless", params={"mark": str(mark)}, on_exit="cancel"
    ) as run:
        async for _ in run:
            break
    assert mark.exists()
    assert run.outcome is not None
    assert run.outcome.outcome == OutcomeKind.CANCELLED


async def test_cancel_is_sent_again_on_the_next_connection(
    server: ServerProcess,
) -> None:
    async with (
        Link(target_port=server.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        client.subscribe("sources/endless") as run,
    ):
        async for _ in run:
            break
        link.down()
        await link.cut()
        await asyncio.sleep(0.05)
        cancelling = asyncio.create_task(run.cancel(work=True))
        await asyncio.sleep(0.05)
        link.up()
        assert (await cancelling).outcome == OutcomeKind.CANCELLED


async def test_another_generation_is_refused(client: Client, name: str) -> None:
    await fill(client, name, 3)
    async with client.subscribe(f"logs/{name}") as events:
        generation = events.generation
    await client.delete(f"logs/{name}")
    await fill(client, name, 3)
    with pytest.raises(Refused) as raised:
        async with client.subscribe(f"logs/{name}", start=1, generation=generation):
            pass
    assert raised.value.code == Code.GENERATION_CHANGED


async def test_a_log_survives_the_server_and_the_subscription_too(
    tmp_path: Path, name: str
) -> None:
    async with (
        running_server(tmp_path / "data") as first,
        Link(target_port=first.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        await fill(client, name, 50)
        async with client.subscribe(f"logs/{name}") as events:
            found: list[int] = []
            async for event in events:
                found.append(event.id)
                if event.id == 49:
                    break
            await first.kill()
            async with running_server(tmp_path / "data") as second:
                link.target_port = second.port
                await fill(client, name, 50)
                await client.seal(name)
                found += await ids(events)
    assert found == list(range(100))


async def test_a_run_in_memory_dies_with_its_server(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path / "data") as first,
        Link(target_port=first.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        client.subscribe("sources/endless") as run,
    ):
        async for event in run:
            if event.id == 5:
                break
        await first.kill()
        async with running_server(tmp_path / "data") as second:
            link.target_port = second.port
            with pytest.raises(StreamFailed) as raised:
                await ids(run)
        assert raised.value.outcome.code == Code.PRODUCER_LOST


async def test_a_paused_subscription_gets_nothing_new(client: Client) -> None:
    async with client.subscribe("sources/endless", on_exit="cancel") as run:
        async for event in run:
            if event.id == 3:
                break
        run.pause()
        await asyncio.sleep(0.1)
        while run._receiver.take() is not None:
            pass
        await asyncio.sleep(0.1)
        assert run._receiver.take() is None
        run.unpause()
        async for event in run:
            assert event.id > 3  # the rest of its batch, or what came since
            break


async def test_a_consumer_that_stops_holds_a_bounded_amount(
    server: ServerProcess, name: str
) -> None:
    options = ClientOptions(receive_memory=16 * 2**20)
    async with connect(server.url, options=options) as client:
        async with client.publish(name) as publisher:
            await publisher.send_many(bytes(1000) for _ in range(20_000))
        async with client.subscribe(f"logs/{name}", window_bytes=300_000) as stalled:
            async with asyncio.timeout(50):
                while not stalled._receiver.batches:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            held = sum(len(batch.payload) for batch in stalled._receiver.batches)
            assert 0 < held <= 300_000
            async with client.subscribe(f"logs/{name}") as moving:
                async for event in moving:
                    if event.id == 19_999:
                        break


async def test_subscriptions_that_go_on_do_not_wait_for_each_other(
    server: ServerProcess,
) -> None:
    limited = ClientOptions(receive_memory=2**20, max_chunk_size=2**20)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(server.url, options=limited))
        first: list[int] = []
        for _ in range(12):  # the first windows of four would fill the memory
            events = client.subscribe("sources/endless", on_exit="cancel")
            await stack.enter_async_context(events)
            async with asyncio.timeout(50):
                async for event in events:
                    first.append(event.id)
                    break
        assert first == [0] * 12


async def test_a_subscription_says_how_its_source_resumes(client: Client) -> None:
    for name, resumption, durable in (
        ("count", "replay", False),
        ("kept", "replay", True),
        ("square", "recompute", False),
        ("volatile", "none", False),
    ):
        async with client.subscribe(f"sources/{name}", on_exit="cancel") as events:
            assert (events.resumption, events.durable) == (resumption, durable)


async def test_a_source_that_ends_with_its_connection_can_be_refused(
    client: Client,
) -> None:
    async with client.subscribe("sources/kept", resumable=True) as kept:
        assert await ids(kept) == [0, 1, 2]
    with pytest.raises(Refused, match="ends when the connection is lost") as caught:
        async with client.subscribe("sources/volatile", resumable=True, key="v"):
            pass
    assert caught.value.code == Code.UNSUPPORTED
    # What was started for it does not go on.
    async with client.subscribe("sources/volatile", key="v") as events:
        assert events.opened is not None
        with pytest.raises(StreamCancelled):
            await ids(events)


async def test_ending_a_subscription_is_not_cancelling_its_run(client: Client) -> None:
    async with client.subscribe("sources/endless") as first:
        async with client.subscribe(first.resource) as second:
            outcome = await second.cancel()
            assert outcome.outcome == OutcomeKind.CANCELLED
        assert (await client.status(first.resource)).state == "STREAMING"
        (listed,) = [entry async for entry in client.list(first.resource)]
        assert listed.facts["source"] == "endless"
        async with client.subscribe(first.resource) as third:
            await third.cancel(work=True)
        with pytest.raises(StreamCancelled):
            await ids(first)
        assert (await client.status(first.resource)).state == "CANCELLED"
