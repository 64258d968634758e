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
    from ackline.server.stores.entities import ObjectRecord
    from ackline.server.uploads import UploadHandler

__all__ = ["commit_upload"]

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


async def _try(handler: UploadHandler) -> None:
    upload, receiver, service = handler.upload, handler.receiver, handler.service
    end, number = receiver.end, receiver.end_number
    assert upload is not None
    assert end is not None
    assert number is not None

    def outcome(stored: ObjectRecord) -> bytes:
        return outcomes.record(outcomes.completed(number, outcomes.wire_object(stored)))

    try:
        stored = await upload.commit(
            end.size,
            epoch=handler.epoch,
            outcome=outcome,
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
        service.traces.committed(stored.object_id, handler.trace)
        service.deliveries.committed(stored.name)
