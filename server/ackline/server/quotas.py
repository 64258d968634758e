"""How much one identity has, against its quotas (SPEC.md §9)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.server.refusals import RETRY_SECONDS, Refusal

if TYPE_CHECKING:
    from ackline.server.identities import Identity
    from ackline.server.service import Service

__all__ = ["check_connections", "check_streams", "room_left"]


def check_connections(service: Service, who: Identity) -> None:
    """Refuse a connection that is one too many.

    Raises:
        Refusal: `too_many_connections`.
    """
    most = who.quotas.connections
    if most < math.inf and most <= sum(
        client.identity == who.name for client in service.clients.values()
    ):
        raise Refusal(
            Code.TOO_MANY_CONNECTIONS,
            f"{who.name} has {most:g} connections: close one",
            retry_after=RETRY_SECONDS,
        )


def check_streams(service: Service, who: Identity) -> None:
    """Refuse a stream that is one too many.

    Raises:
        Refusal: `too_many_streams`.
    """
    most = who.quotas.streams
    if most < math.inf and most <= service.sessions.streams_of(who.name):
        raise Refusal(
            Code.TOO_MANY_STREAMS,
            f"{who.name} has {most:g} open streams: end one",
            retry_after=RETRY_SECONDS,
        )


async def room_left(service: Service, who: Identity) -> float:
    """Return how many bytes an identity may still store; infinite without a quota.

    Raises:
        StoreError: the records cannot be read.
    """
    most = who.quotas.stored_bytes
    if most == math.inf:
        return math.inf
    return max(0.0, most - await service.chunks.stored_by(who.name))
