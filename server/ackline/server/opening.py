"""Opening streams: from OPEN to OPENED or a refusal (SPEC.md §9)."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.messages import Use
from ackline.server.fetches import FetchHandler
from ackline.server.log_subscriptions import LogSubscription
from ackline.server.permissions import check_open
from ackline.server.publishes import PublishHandler
from ackline.server.quotas import check_streams
from ackline.server.rates import check_rate
from ackline.server.refusals import RETRY_SECONDS, Refusal, refusal_of
from ackline.server.run_subscriptions import RunSubscription
from ackline.server.stores.errors import StoreError
from ackline.server.uploads import UploadHandler

if TYPE_CHECKING:
    from ackline.proto.server_connection import ServerConnection
    from ackline.proto.stream import Stream
    from ackline.server.clients import Client
    from ackline.server.handler import Handler
    from ackline.server.service import Service
    from ackline.server.sessions import Session

__all__ = ["handler_for", "open_stream"]

log = logging.getLogger(__name__)

OVERLOADED_LAG = 0.5
"""Seconds that the event loop is late: far from what a server does that moves all that
its link and disk can. Streams that are there go on, and are late enough."""

MAX_OPENING = 256
"""OPENs of one connection that are worked on at once; until some of them are answered
nothing more is read from it. It counts those that the client has released meanwhile:
opening and releasing as fast as it can must not pile up work (HTTP/2 rapid reset)."""


def handler_for(service: Service, session: Session, stream: Stream) -> Handler:
    """Return what handles a stream of this use and resource.

    Raises:
        Refusal: there is no such use of the resource.
    """
    match stream.use:
        case Use.UPLOAD:
            return UploadHandler(service, session, stream)
        case Use.FETCH:
            return FetchHandler(service, session, stream)
        case Use.PUBLISH:
            return PublishHandler(service, session, stream)
        case Use.SUBSCRIBE:
            if stream.open.resource.startswith("logs/"):
                return LogSubscription(service, session, stream)
            return RunSubscription(service, session, stream)


def open_stream(client: Client, stream: Stream) -> None:
    """Answer an OPEN, sooner or later."""
    session, core = client.session, client.core
    assert session is not None
    if client.service.draining:
        core.refuse(stream, Code.DRAINING, "the server is going away")
        return
    if client.service.counters.loop_lag.newest >= OVERLOADED_LAG:
        core.refuse(
            stream,
            Code.OVERLOADED,
            "the server has more to do than it can: try again",
            retry_after=RETRY_SECONDS,
        )
        return
    try:
        check_open(session.known, stream)
        check_streams(client.service, session.known)
        check_rate(client, stream)
        handler = handler_for(client.service, session, stream)
    except (Refusal, ProtocolViolation) as error:
        refusal = refusal_of(error)
        core.refuse(stream, refusal.code, refusal.text, retry_after=refusal.retry_after)
        return
    client.opening += 1
    if client.opening >= MAX_OPENING:
        core.crowded(yes=True)
    task = handler.spawn(_open(core, handler), "open")
    task.add_done_callback(partial(_done, client))


def _done(client: Client, _task: object) -> None:
    client.opening -= 1
    client.core.crowded(yes=client.opening >= MAX_OPENING)


async def _open(core: ServerConnection, handler: Handler) -> None:
    try:
        await handler.service.rates.turn(core, handler)
        handler.trace = handler.service.traces.begin(handler)
        with nullcontext() if handler.trace is None else handler.trace.active():
            await handler.prepare()
        await handler.service.sessions.opened(
            handler.session, handler.stream, handler.target
        )
        _accept(core, handler)
    except (StoreError, ProtocolViolation) as error:
        _refuse(core, handler, refusal_of(error))
    except Refusal as refusal:
        _refuse(core, handler, refusal)
    except Exception:
        _refuse(
            core,
            handler,
            Refusal(Code.INTERNAL_ERROR, "a defect of the server; see its log"),
        )
        raise


def _accept(core: ServerConnection, handler: Handler) -> None:
    """Send OPENED, if the client is still there and wants it."""
    stream, session = handler.stream, handler.session
    if stream.connection is not core or stream.released or session.gone:
        # It never saw OPENED: it opens the stream again, under another id.
        _drop(core, handler)
        return
    answer = handler.answer()
    service = handler.service
    service.sessions.add(session, stream)
    service.counters.streams_opened[stream.use, answer.existing] += 1
    core.accept(
        stream,
        existing=answer.existing,
        durability=answer.durability,
        detail=answer.detail,
        standing=answer.standing,
    )
    log.info("%s opened%s", handler.label, " again" if answer.existing else "")
    if not answer.existing:
        service.histories.begin(stream.resource)
    handler.note(
        f"opened{' again' if answer.existing else ''} by {session.identity} from"
        f" {service.client_of(core).peer}, at {answer.standing.position}"
    )
    handler.opened()
    if stream.outcome is not None:
        service.sessions.ended(session, stream, stream.outcome)
    else:
        handler.attached()


def _refuse(core: ServerConnection, handler: Handler, refusal: Refusal) -> None:
    stream = handler.stream
    log.info("%s refused: %s", handler.label, refusal)
    if handler.trace is not None:
        handler.trace.refused(refusal.code, refusal.text)
    if stream.connection is core and not stream.released:
        core.refuse(stream, refusal.code, refusal.text, retry_after=refusal.retry_after)
    _drop(core, handler)


def _drop(core: ServerConnection, handler: Handler) -> None:
    stream, sessions = handler.stream, handler.service.sessions
    if core.streams.get(stream.id) is stream:
        core.drop(stream)
    handler.refused()
    sessions.forget_recorded(handler.session, [stream.id])
