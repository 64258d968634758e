"""Deleting what is too old: at start, and every `cleanup_interval` seconds."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.server import outcomes
from ackline.server.retention import expire_objects
from ackline.server.stores.errors import StoreError
from ackline.server.uploads import UploadHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ackline.server.service import Service

__all__ = ["clean", "clean_forever"]

log = logging.getLogger(__name__)


async def clean_forever(service: Service) -> None:
    """Clean until cancelled."""
    while True:
        await clean(service)
        await asyncio.sleep(service.options.cleanup_interval)


async def clean(service: Service) -> None:
    """Delete what is too old; what fails is left for the next time."""
    steps: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
        ("note the time", service.storage.keep_time),
        ("delete old sessions", service.sessions.expire),
        ("delete old uploads", lambda: _uploads(service)),
        ("delete old objects", lambda: expire_objects(service)),
        ("delete old runs", service.runs.expire),
        ("delete old logs", service.logs.trim),
        ("delete old histories", lambda: _histories(service)),
        ("forget rates", lambda: _rates(service)),
    )
    for what, step in steps:
        try:
            await step()
        except StoreError as error:
            log.error("cannot %s: %s", what, error)
        except Exception:
            log.exception("a defect: cannot %s", what)


async def _rates(service: Service) -> None:
    connected = {client.identity for client in service.clients.values()}
    service.rates.forget(connected, service.now())


async def _histories(service: Service) -> None:
    options = service.options
    kept = max(options.upload_ttl, options.outcome_ttl)
    await service.histories.expire(service.storage.clock.before(kept))


async def _uploads(service: Service) -> None:
    """End abandoned uploads, and tell the sessions that may still ask for them."""
    options = service.options
    handlers = {
        name.removeprefix("uploads/"): handler
        for name, handler in service.owners.items()
        if isinstance(handler, UploadHandler)
    }
    attached = {
        upload_id
        for upload_id, handler in handlers.items()
        if handler.stream.connection is not None
    }
    outcome = outcomes.failed(
        Code.EXPIRED,
        f"nothing came for {options.upload_ttl:g} s, and its data is deleted",
        0,
    )
    ended = await service.chunks.expire(
        idle=options.upload_ttl,
        retention=options.outcome_ttl,
        outcome=outcomes.record(outcome),
        keep=attached,
    )
    for upload_id in ended:
        log.info("uploads/%s has expired", upload_id)
        # Who took it over meanwhile hears of it as well.
        owner = service.owners.get(f"uploads/{upload_id}")
        for handler in (handlers.get(upload_id), owner):
            if isinstance(handler, UploadHandler):
                handler.decide(outcome)
