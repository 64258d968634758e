from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    Client,
    ClientOptions,
    Code,
    Event,
    Gap,
    Progress,
    Refused,
    StreamFailed,
    UsageError,
    connect,
)
from ackline.proto.proofs import NOTHING, ProofSum
from tests.client.processes import running_server
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.client.processes import ServerProcess


async def read_log(client: Client, name: str, count: int) -> list[Event]:
    """Return the first events of a log."""
    found: list[Event] = []
    async with client.subscribe(f"logs/{name}") as events:
        async for event in events:
            assert isinstance(event, Event)
            found.append(event)
            if len(found) == count:
                return found
    return found


def sums_of(bodies: Sequence[bytes]) -> ProofSum:
    entries = struct.pack(f">{len(bodies)}I", *map(len, bodies))
    return NOTHING.extended(entries, b"".join(bodies))


async def test_events_are_in_the_log_in_order(client: Client, name: str) -> None:
    async with client.publish(name, kinds=["token", "usage"]) as publisher:
        assert await publisher.send("a") == 0
        assert await publisher.send(b"b", "token") == 1
        assert await publisher.send("ü", "usage") == 2
        assert await publisher.flush() == 3
        assert publisher.acknowledged == 3
    events = await read_log(client, name, 3)
    assert [(e.id, e.kind, e.text) for e in events] == [
        (0, "", "a"),
        (1, "token", "b"),
        (2, "usage", "ü"),
    ]
    assert publisher.outcome is not None
    assert publisher.outcome.position == 3


async def test_more_than_the_replay_buffer_holds_waits_and_arrives(
    server: ServerProcess, name: str
) -> None:
    options = ClientOptions(replay_events=100, replay_bytes=10_000)
    seen: list[Progress] = []
    async with connect(server.url, options=options) as client:
        async with client.publish(name, on_progress=seen.append) as publisher:

            async def more() -> AsyncIterator[str]:
                for number in range(2500):
                    yield str(number)

            assert await publisher.send_many(map(str, range(2500))) == 2500
            assert await publisher.send_many(more()) == 5000
        events = await read_log(client, name, 5000)
    assert [event.text for event in events] == [str(n % 2500) for n in range(5000)]
    assert seen[-1].done == 5000


async def test_an_empty_publication_completes(client: Client, name: str) -> None:
    async with client.publish(name) as publisher:
        pass
    assert publisher.outcome is not None
    assert publisher.outcome.position == 0


async def test_the_largest_event_goes_and_a_larger_one_says_what_to_do(
    client: Client, name: str
) -> None:
    async with client.publish(name) as publisher:
        await publisher.send(bytes(262_136))
        with pytest.raises(UsageError, match="at most 262136"):
            await publisher.send(bytes(262_137))
        with pytest.raises(UsageError, match="was not announced"):
            await publisher.send(b"", "token")
    assert len((await read_log(client, name, 1))[0].data) == 262_136


async def test_nothing_is_sent_after_the_end(client: Client, name: str) -> None:
    async with client.publish(name) as publisher:
        await publisher.send("last")
        await publisher.finish()
        with pytest.raises(UsageError, match="nothing can be sent"):
            await publisher.send("later")


async def test_lingering_events_go_out_together(client: Client, name: str) -> None:
    async with client.publish(name, linger=0.05) as publisher:
        before = client._supervisor.stats.frames_sent[0x13]
        for number in range(20):
            await publisher.send(str(number))
            await asyncio.sleep(0)
        await publisher.flush()
        assert client._supervisor.stats.frames_sent[0x13] - before <= 2
    assert len(await read_log(client, name, 20)) == 20


async def test_a_publisher_with_a_key_continues_its_numbering(
    client: Client, name: str
) -> None:
    bodies = [b"zero", b"one", b"two"]
    async with client.publish(name, key="app") as publisher:
        await publisher.send_many(bodies)
    asked: list[int] = []

    async def prefix(position: int) -> ProofSum:
        asked.append(position)
        return sums_of(bodies[:position])

    async with client.publish(name, key="app", prefix=prefix) as publisher:
        assert publisher.first_unit == publisher.position == 3
        assert await publisher.send(b"three") == 3
    assert asked == [3]
    events = await read_log(client, name, 4)
    assert [event.data for event in events] == [*bodies, b"three"]


async def test_a_publisher_that_has_other_events_before_is_told(
    client: Client, name: str
) -> None:
    async with client.publish(name, key="app") as publisher:
        await publisher.send(b"zero")

    async def prefix(_position: int) -> ProofSum:
        return sums_of([b"null"])

    with pytest.raises(StreamFailed) as raised:
        async with client.publish(name, key="app", prefix=prefix):
            pass
    assert raised.value.outcome.code == Code.PROOF_MISMATCH


async def test_leaving_by_an_exception_ends_nothing(client: Client, name: str) -> None:
    async def stumble() -> None:
        async with client.publish(name, key="app") as publisher:
            await publisher.send(b"zero")
            await publisher.flush()
            raise LookupError

    with pytest.raises(LookupError):
        await stumble()
    async with client.publish(name, key="app") as publisher:
        assert publisher.first_unit == 1


async def test_the_newest_publisher_with_a_key_has_it(
    client: Client, server: ServerProcess, name: str
) -> None:
    async def publish_twice(other: Client) -> None:
        async with client.publish(name, key="app") as old:
            await old.send(b"zero")
            await old.flush()
            async with other.publish(name, key="app") as new:
                assert new.first_unit == 1
                await old.send(b"one")
                await old.flush()

    async with connect(server.url) as other:
        with pytest.raises(Refused) as raised:
            await publish_twice(other)
    assert raised.value.code == Code.MOVED


async def test_cuts_lose_and_repeat_nothing(server: ServerProcess, name: str) -> None:
    options = LinkOptions(
        to_server=Way(cut_every=20_000), to_client=Way(cut_every=3_000)
    )
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(
            f"ackline://127.0.0.1:{link.port}", options=ClientOptions(replay_events=500)
        ) as client,
    ):
        async with client.publish(name) as publisher:
            for number in range(10_000):
                await publisher.send(f"event number {number}")
        assert link.counters.cuts >= 5
        assert publisher.resumes >= 5
    async with connect(server.url) as reader:
        events = await read_log(reader, name, 10_000)
    assert [e.text for e in events] == [f"event number {n}" for n in range(10_000)]


async def test_a_killed_server_loses_nothing_that_it_acknowledged(
    tmp_path: Path, name: str
) -> None:
    async with (
        running_server(tmp_path / "data") as first,
        Link(target_port=first.port) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        async with client.publish(name) as publisher:
            for number in range(3000):
                await publisher.send(str(number))
                if number == 1500:
                    await publisher.flush()
                    await first.kill()
                    second = running_server(tmp_path / "data")
                    link.target_port = (await second.__aenter__()).port
        events = await read_log(client, name, 3000)
        await second.__aexit__(None, None, None)
    assert [event.text for event in events] == [str(n) for n in range(3000)]


async def test_sealing_a_log_ends_its_subscribers_and_refuses_more(
    client: Client, name: str
) -> None:
    async with client.publish(name) as publisher:
        await publisher.send(b"only")
    await client.seal(name)
    async with client.subscribe(f"logs/{name}") as events:
        assert [event async for event in events] == [Event(0, "", b"only")]
    with pytest.raises(Refused, match="sealed"):
        async with client.publish(name):
            pass


def test_a_gap_is_no_event() -> None:
    assert not issubclass(Gap, Event)
