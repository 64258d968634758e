"""Taking back what was given: tokens that were revoked, changed, or have expired."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ackline.proto.errors import Code

if TYPE_CHECKING:
    from ackline.server.service import Service

__all__ = ["watch_identities"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Seconds until a change of the tokens file counts."""

EXPIRY_SECONDS = 10
"""Looks until those are found whose token expired while they were connected."""


async def watch_identities(service: Service) -> None:
    """Look after the tokens file for ever, and who is connected by what it says."""
    looks = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        looks += 1
        if service.authenticator.refresh() or not looks % EXPIRY_SECONDS:
            _review(service)


def _review(service: Service) -> None:
    """End the connections of those who are nobody, or somebody else, by now."""
    for client in list(service.clients.values()):
        if client.who is None:
            continue
        now = service.authenticator.now(client.who)
        if now == client.who:
            continue
        if now is None:
            log.info("the token of %s at %s is revoked", client.identity, client.peer)
            client.core.fail(
                Code.UNAUTHENTICATED, "the token was revoked or has expired"
            )
        else:
            # It comes back by itself, and resumes what it may have now.
            log.info("%s may do something else now", client.identity)
            client.abort()
