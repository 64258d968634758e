"""The quotas of bytes and events a second, which slow down (SPEC.md §9.4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.token_bucket import TokenBucket
from ackline.server.refusals import RETRY_SECONDS, Refusal

if TYPE_CHECKING:
    from ackline.proto.server_connection import ServerConnection
    from ackline.proto.stats import Stats
    from ackline.proto.stream import Stream
    from ackline.server.clients import Client
    from ackline.server.handler import Handler
    from ackline.server.identities import Identity

__all__ = ["Rates", "check_rate"]

LEAST_WAIT = 0.01
"""Seconds until those who wait for a rate are served: at high rates, for many frames
at once."""

MOST_OPENING = 100
"""OPENs of one connection that wait for a rate; from `MAX_OPENING` on nothing would be
read from it, PING and CANCEL neither."""


class Rates:
    """The bytes and events a second of identities that have a quota of them.

    Args:
        stats: where it is counted how long was waited.
    """

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._buckets: dict[str, TokenBucket] = {}
        self._turns: set[asyncio.Event] = set()

    def bucket_of(self, who: Identity) -> TokenBucket | None:
        """Return what all connections of an identity share; None without a quota."""
        bucket, quotas = self._buckets.get(who.name), who.quotas
        if bucket is None and quotas.rated:
            bucket = self._buckets[who.name] = TokenBucket(self._stats, _serve_later)
        if bucket is not None:
            bucket.limit(quotas.events_per_second, quotas.bytes_per_second)
        return bucket

    def forget(self, connected: set[str], now: float) -> None:
        """Let go of identities that owe nothing, but for those that are connected."""
        for name in self._buckets.keys() - connected:
            if not self._buckets[name].owed(now):
                del self._buckets[name]

    async def turn(self, core: ServerConnection, handler: Handler) -> None:
        """Return when a stream of a client that sends may be opened.

        Data may come with its OPEN, before any window says how much: many small uploads
        would not be held back by windows. A CANCEL or a drain ends the wait.

        Raises:
            Refusal: `cancelled_by_client` or `draining`.
        """
        bucket, stream = core.bucket, handler.stream
        receiver = stream.receiver
        if bucket is None or receiver is None:
            return
        if not bucket.owed(core.now):
            receiver.meter()
            return
        handler.turn = turn = asyncio.Event()
        self._turns.add(turn)

        def ready() -> None:
            receiver.meter()
            turn.set()

        bucket.wait(ready, core.now)
        try:
            await turn.wait()
        finally:
            bucket.forget(ready)
            self._turns.discard(turn)
        if stream.cancelling:
            raise Refusal(Code.CANCELLED_BY_CLIENT, "the client cancelled")
        if handler.service.draining:
            raise Refusal(Code.DRAINING, "the server is going away")

    def end_waits(self) -> None:
        """Have OPENs wait no longer: the server is draining."""
        for turn in self._turns:
            turn.set()


def _serve_later(bucket: TokenBucket) -> None:
    loop = asyncio.get_running_loop()
    seconds = max(bucket.owed(loop.time()), LEAST_WAIT)
    loop.call_later(seconds, lambda: bucket.serve(loop.time()))


def check_rate(client: Client, stream: Stream) -> None:
    """Refuse an OPEN for now, if too many wait already.

    Raises:
        Refusal: `overloaded`: clients ask again by themselves.
    """
    bucket = client.core.bucket
    if bucket is None or not stream.use.client_sends or client.opening < MOST_OPENING:
        return
    owed = bucket.owed(client.service.now())
    if owed:
        raise Refusal(
            Code.OVERLOADED,
            f"{client.identity} sends more a second than its quota, and"
            f" {client.opening} streams wait to be opened: try again in {owed:.0f} s",
            retry_after=max(owed, RETRY_SECONDS),
        )
