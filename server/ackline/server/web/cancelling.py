"""Cancelling a row of the live page: any stream or run, by who may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.messages import Cancel, OutcomeKind, Scope
from ackline.proto.resource import Resource, ResourceKind
from ackline.server import outcomes
from ackline.server.permissions import check_own
from ackline.server.refusals import Refusal
from ackline.server.requests import cancel_named

if TYPE_CHECKING:
    from ackline.proto.messages import Outcome
    from ackline.server.handler import Handler
    from ackline.server.identities import Identity
    from ackline.server.service import Service

__all__ = ["cancel_stream"]


async def cancel_stream(
    service: Service, who: Identity, row_id: str, work: bool
) -> Outcome:
    """Cancel what a row shows; return how it ended, perhaps before.

    Args:
        service: whose.
        who: needs the permission `cancel` for the session of a stream
            (`sessions/ID`), or for the run, unless it is its own.
        row_id: `SESSION/STREAM`, or `runs/ID`.
        work: whether to stop the run behind a subscription too.

    Raises:
        Refusal: there is no such stream any more, or it may not be cancelled.
        StoreError: the records cannot be read or changed.
    """
    text = f"cancelled by {who.name} on the live page"
    if row_id.startswith("runs/"):
        target = Cancel(Scope.WORK, row_id, text)
        return await cancel_named(service, who, target)
    session_id, _, number = row_id.partition("/")
    session = service.sessions.get(session_id)
    handler = _handler(service, session_id, number)
    if session is None or handler is None:
        raise Refusal(Code.NOT_FOUND, "the stream is not there any more")
    await check_own(service, who, "cancel", Resource(ResourceKind.SESSIONS, session_id))
    if work and handler.stream.resource.startswith("runs/"):
        await cancel_named(
            service, who, Cancel(Scope.WORK, handler.stream.resource, text)
        )
    await handler.end(
        OutcomeKind.CANCELLED, Code.CANCELLED_BY_OPERATOR, text, work=False
    )
    return handler.stream.outcome or outcomes.ended(
        OutcomeKind.STILL_STOPPING, 0, "still stopping", handler.position
    )


def _handler(service: Service, session_id: str, number: str) -> Handler | None:
    session = service.sessions.get(session_id)
    if session is None or not number.isascii() or not number.isdecimal():
        return None
    stream = session.streams.get(int(number))
    return None if stream is None else stream.context
