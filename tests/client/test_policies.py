"""Slow consumers, as a program and the command line have them (SPEC.md §16)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import asdict

from ackline.client import (
    Client,
    Code,
    Event,
    Gap,
    LeftOut,
    StreamFailed,
    Subscription,
    UsageError,
    connect,
)
from tests.client.processes import command, finish, interrupt, start_command
from tests.link import Link

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.processes import ServerProcess

COUNT = 100_000
"""Events: more than a run keeps for a consumer that is behind."""


async def produced(client: Client, events: Subscription) -> None:
    """Wait until the run has ended, however slow its consumer is."""
    async with asyncio.timeout(50):
        while (await client.status(events.resource)).state != "COMPLETED":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("policy", "value", "most"),
    [
        ("latest", None, 3),
        ("drop-oldest", 5, 12),
        ("sample", 0.01, 10),
        ("merge", None, 40),
    ],
)
async def test_who_is_slow_gets_little_of_a_lot_and_knows_how_much(
    client: Client, policy: str, value: Any, most: int
) -> None:
    async with client.subscribe(
        "sources/count", params={"events": COUNT}, policy=policy, policy_value=value
    ) as events:
        await produced(client, events)
        found = [each async for each in events]
    last = found[-1]
    assert last == Event(COUNT - 1, "", f"event {COUNT - 1}".encode())
    assert events.received == sum(isinstance(each, Event) for each in found) <= most
    gaps = sum(each.count for each in found if isinstance(each, Gap))
    assert events.left_out.total == gaps == COUNT - events.received
    left_out = asdict(events.left_out)
    if policy == "merge":
        assert left_out["merged"] + left_out["trimmed"] == gaps
    else:
        assert left_out["dropped"] == gaps


async def test_a_wider_window_is_more_on_the_way(client: Client) -> None:
    async with client.subscribe(
        "sources/count",
        params={"events": 200, "delay": 0.002},
        policy="drop-oldest",
        policy_value=1,
        window_events=500,
    ) as events:
        await produced(client, events)
        found = [each async for each in events]
    assert events.received > 10
    assert events.received + events.left_out.total == 200
    assert found[-1].id == 199


async def test_a_lost_connection_is_no_reason_to_fail(server: ServerProcess) -> None:
    async with (
        Link(target_port=server.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
        client.subscribe(
            "sources/count",
            params={"events": 500, "delay": 0.001},
            policy="latest",
        ) as events,
    ):
        at = 0
        async for each in events:
            assert each.id == at
            at += 1 if isinstance(each, Event) else each.count
            if events.resumes < 3 and at > 100 * events.resumes:
                await link.cut()
        assert at == 500
        assert events.resumes == 3


async def test_with_a_linger_events_come_together(client: Client) -> None:
    async with client.subscribe(
        "sources/count", params={"events": 40, "delay": 0.001}, linger=5.0
    ) as events:
        batches = [each async for each in events.batches()]
    # After the end nothing waits, and before it not even the first event came.
    assert len(batches) <= 2
    assert events.left_out == LeftOut()


async def test_sums_that_are_wrong_fail_the_stream(client: Client) -> None:
    async def read() -> None:
        async with client.subscribe(
            "sources/count", params={"events": 5, "delay": 0.01}
        ) as events:
            events._receiver.received_units += 1
            async for _ in events:
                pass

    with pytest.raises(StreamFailed, match="END states 5 events") as failed:
        await read()
    assert failed.value.outcome.code == Code.SIZE_MISMATCH


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"policy": "newest"}, "use block, latest, sample, merge, drop-oldest"),
        ({"policy": "sample"}, "seconds between two events"),
        ({"policy": "drop-oldest", "policy_value": 0}, "number of events to keep"),
        ({"policy": "merge", "policy_value": ""}, "kind of the events"),
        ({"linger": -1.0}, "0 to 60 s"),
    ],
)
async def test_a_policy_is_checked_before_anything_is_sent(
    client: Client, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        client.subscribe("logs/x", **arguments)


async def test_a_window_has_room_for_an_event_and_its_gap(client: Client) -> None:
    events = client.subscribe("logs/x", policy="latest", window_events=1)
    with pytest.raises(UsageError, match="at least 2"):
        await events.__aenter__()


async def test_the_command_tells_what_was_left_out(
    server: ServerProcess, tmp_path: Path
) -> None:
    arguments = [
        *(f"--server={server.url}", "subscribe", "sources/count"),
        *(f"--param=events={COUNT}", "--policy=drop-oldest:5"),
    ]
    done = await command(*arguments, "--json", folder=tmp_path)
    assert done.code == 0
    outcome = done.lines[-1]
    assert outcome["received"] + outcome["dropped"] == COUNT
    assert outcome["merged"] == outcome["trimmed"] == 0
    assert done.lines[-2]["data"] == f"event {COUNT - 1}"
    done = await command(*arguments, folder=tmp_path)
    assert done.out.splitlines()[-1] == f"event {COUNT - 1}"
    *_notes, summary = done.errors.splitlines()
    assert summary.endswith(" dropped")
    assert len(done.errors.splitlines()) < 4


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("newest", "use block, latest"),
        ("sample", "seconds between"),
        ("sample:soon", "'soon'"),
        ("drop-oldest:-1", "'-1'"),
        ("latest:5", "takes no value"),
    ],
)
async def test_a_wrong_policy_is_wrong_usage(
    server: ServerProcess, tmp_path: Path, policy: str, text: str
) -> None:
    done = await command(
        *(f"--server={server.url}", "subscribe", "logs/x", f"--policy={policy}"),
        folder=tmp_path,
    )
    assert done.code == 2
    assert text in done.errors


async def test_ctrl_c_says_how_to_go_on_with_the_same_policy(
    server: ServerProcess, tmp_path: Path
) -> None:
    process = await start_command(
        *(f"--server={server.url}", "subscribe", "sources/endless"),
        *("--policy=sample:0.01",),
        folder=tmp_path,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    interrupt(process)
    done = await finish(process)
    assert "--policy sample:0.01 --on-trimmed gap" in done.errors
