"""Commit: an upload that is whole becomes an object (SPEC.md §10)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ackline.proto.messages import OutcomeKind
from ackline.server import outcomes
from ackline.server.refusals import RETRY_SECONDS, code_of
from ackline.server.stores.errors import (
    AlreadyExists,
    DigestMismatch,
    Ended,
    Fenced,
    NotFound,
    SizeMismatch,
    StorageFull,
    StoreFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.server.stores.entities import ObjectRecord, UploadParameters
    from ackline.server.uploads import UploadHandler

__all__ = ["commit_upload", "put_upload"]

log = logging.getLogger(__name__)


async def commit_upload(handler: UploadHandler) -> None:
    """Commit an upload whose END and chunks are in, however often the disk fails.

    It ends with the outcome: completed, or failed if what is there is not what the
    client stated. Only if another stream has the upload meanwhile there is none.
    """
    if handler.trace is not None:
        handler.trace.phase("commit")
    while handler.stream.outcome is None:
        try:
            await _try(handler)
            return
        except StorageFull as error:
            log.warning("%s: not committed yet: %s", handler.label, error)
            handler.trouble = error
        except StoreFailed as error:
            log.error("%s: not committed yet: %s", handler.label, error)
            handler.trouble = error
            if await handler.fail_if_lost():
                return
        await asyncio.sleep(RETRY_SECONDS)


async def put_upload(
    handler: UploadHandler, of: UploadParameters, upload_id: str
) -> bool:
    """Commit an upload that came whole, its END included, before it was opened.

    Args:
        handler: of a new upload.
        of: its parameters.
        upload_id: for it, or empty for any.

    Returns:
        False if it did not, or is not what the client states: then it is opened first.
        Also if it has no key: a client that does not hear of it could not find it.

    Raises:
        StoreError: as `ChunkStore.put`.
    """
    stream, receiver, service = handler.stream, handler.receiver, handler.service
    whole, end = receiver.came_whole(), receiver.end
    if whole is None or end is None or not of.key:
        return False
    if of.digest_algorithm != "crc32c" or not handler.has_room_for(end.size):
        return False
    if stream.cancelling or stream.released:
        return False
    try:
        handler.made = await service.chunks.put(
            of,
            [(notice.data, notice.crc) for notice in whole],
            end.size,
            upload_id,
            outcome=_completed(handler),
            crc=end.crc,
            digest=end.digest,
            sinks=service.deliveries.takers(of.name),
        )
    except (ValueError, SizeMismatch, DigestMismatch):
        return False
    _committed(handler, handler.made.upload_id)
    return True


async def _try(handler: UploadHandler) -> None:
    upload, receiver, service = handler.upload, handler.receiver, handler.service
    if handler.made is not None and handler.made.outcome is not None:
        receiver.end_stored()
        handler.decide(outcomes.load(handler.made.outcome))
        return
    end = receiver.end
    assert upload is not None
    assert end is not None
    try:
        stored = await upload.commit(
            end.size,
            epoch=handler.epoch,
            outcome=_completed(handler),
            crc=end.crc,
            digest=end.digest,
            sinks=service.deliveries.takers(handler.resource.name),
        )
    except (SizeMismatch, DigestMismatch, AlreadyExists) as error:
        await handler.end(OutcomeKind.FAILED, code_of(error), str(error), work=True)
    except Ended as error:
        handler.decide(outcomes.load(error.outcome))
    except (Fenced, NotFound):
        log.info("%s: another stream has the upload", handler.label)
    else:
        receiver.end_stored()
        record = upload.record.outcome
        assert record is not None
        handler.decide(outcomes.load(record))
        _committed(handler, stored.object_id)


def _completed(handler: UploadHandler) -> Callable[[ObjectRecord], bytes]:
    """Return what makes the outcome of the object as it is stored."""
    number = handler.receiver.end_number
    assert number is not None

    def outcome(stored: ObjectRecord) -> bytes:
        return outcomes.record(outcomes.completed(number, outcomes.wire_object(stored)))

    return outcome


def _committed(handler: UploadHandler, object_id: str) -> None:
    handler.service.traces.committed(object_id, handler.trace)
    handler.service.deliveries.committed(handler.resource.name)
