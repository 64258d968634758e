"""A server that runs for months: what has ended leaves no object behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING

from ackline.client import connect
from ackline.server import Server, histories, lately
from ackline.server.cleanup import clean
from tests.server.test_hostile_peers import service_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from ackline.server import Serving
    from ackline.server.service import Service
    from tests.server.conftest import Start

ROUNDS, OPERATIONS = 4, 3
"""Caches fill in the first rounds; a leak grows in every one."""


def program() -> Server:
    server = Server()

    @server.source("counts")
    async def counts() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number

    @server.source("kept", durable=True)
    async def kept() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number

    @server.source("endless")
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    @server.sink("*")
    async def taken(_object: object) -> None:
        pass

    return server


async def use(url: str, service: Service) -> None:
    """Do one of each, lose the connection in between, and leave."""
    async with connect(url) as client:
        await client.upload(b"x" * 5000, "object", existing="replace")
        async with client.publish("logs/log") as log:
            await log.send(b"event")
        for name in ("counts", "kept"):
            async with client.subscribe(f"sources/{name}") as events:
                assert [event async for event in events]
        async with client.subscribe("sources/endless") as events:
            before = dict(service.clients)
            async for _ in events:
                for each in before.values():
                    each.abort()
                if service.clients and not before.keys() & service.clients.keys():
                    break  # it goes on by another connection
        async with client.subscribe("logs/log") as events:
            async for _ in events:
                break
        assert [each async for each in client.list("objects/")]


async def counted(service: Service) -> Counter[str]:
    """Return how many objects of each type of ours there are, once nothing goes on.

    Of Python's own types it keeps some itself, and the test runner others.
    """
    await until(lambda: not (service.clients or len(service.sessions)))
    await until(lambda: not len(service.runs))
    for _ in range(2):  # logs that nobody used since the last time are closed
        await clean(service)
    gc.collect()
    types = (type(each) for each in gc.get_objects())
    # Of some of Python's types it is no string.
    ours = (each for each in types if str(each.__module__).startswith("ackline"))
    return Counter(each.__name__ for each in ours)


async def rounds(serving: Serving) -> list[Counter[str]]:
    service, url = service_of(serving), f"ackline://127.0.0.1:{serving.port}"
    counts = []
    for _ in range(ROUNDS):
        for _ in range(OPERATIONS):
            await use(url, service)
        counts.append(await counted(service))
    return counts


async def test_what_has_ended_leaves_nothing_in_memory(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is kept on purpose is bounded, and full after the first round here.
    monkeypatch.setattr(histories, "MOST", 4)
    monkeypatch.setattr(lately, "KEPT", 4)
    async with start(program(), run_grace=0.0, run_retention=0.01) as serving:
        counts = await rounds(serving)
    before, after = counts[-2] - counts[-3], counts[-1] - counts[-2]
    grew = {
        name: (before[name], after[name])
        for name in before & after
        if min(before[name], after[name]) >= OPERATIONS
    }
    assert not grew
