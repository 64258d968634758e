"""Whether clients should be sent here, and if not, why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ackline.server.stores.errors import StoreError

if TYPE_CHECKING:
    from ackline.server.service import Service

__all__ = ["problems"]

ANSWER_SECONDS = 2.0
"""Seconds that disk and database have to answer: a prober gives up after some more."""


async def problems(service: Service) -> list[str]:
    """Return a sentence for each reason to send clients elsewhere."""
    found = ["draining: the server is about to stop"] if service.draining else []
    for what, check in (("disk", _disk), ("store", _store)):
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                trouble = await check(service)
        except TimeoutError:
            trouble = f"no answer in {ANSWER_SECONDS:g} s"
        except (OSError, StoreError) as error:
            trouble = str(error)
        if trouble:
            found.append(f"{what}: {trouble}")
    return found


async def _disk(service: Service) -> str:
    options = service.options
    free = await asyncio.to_thread(service.storage.free)
    if free > options.disk_reserve:
        return ""
    return (
        f"{free:,} bytes are free, and disk_reserve ({options.disk_reserve:,}) has to"
        " stay: nothing is stored until something is deleted"
    )


async def _store(service: Service) -> str:
    await service.storage.sessions.load("")
    return ""
