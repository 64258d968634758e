"""A server that has too much to do keeps to what it has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.server import Server, looplag, opening
from tests.conftest import OVERLOADED_LAG
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pytest

    from tests.server.conftest import Start

server = Server()


@server.source("numbers")
async def numbers() -> AsyncGenerator[str]:
    for number in range(5):
        yield f"{number}"


async def test_new_streams_are_refused_for_now_while_the_loop_is_late(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC.md §20."""
    monkeypatch.setattr(looplag, "INTERVAL", 60.0)  # no look but those of this test
    monkeypatch.setattr(opening, "OVERLOADED_LAG", OVERLOADED_LAG)
    async with start(server) as serving, Peer(serving.port) as peer:
        before = peer.publish("x", [b"one"], key="p", end=False)
        await before.opened()
        lag = serving._acceptor._service.counters.loop_lag
        lag.observe(0.8)
        refused = (await peer.subscribe("sources/numbers").refused()).message
        assert refused.code == Code.OVERLOADED
        assert refused.retry_after == 1.0
        await before.stored(1)
        lag.observe(0.01)
        again = peer.subscribe("sources/numbers")
        assert len(await again.events(5)) == 5
