"""What the live page asks for: pushed samples, the status of one thing, a cancel."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.messages import Status
from ackline.server.clients import AGENT
from ackline.server.counters import SECONDS
from ackline.server.identities import Identity
from ackline.server.lately import Ended
from ackline.server.refusals import Refusal, refusal_of
from ackline.server.status import report_status
from ackline.server.stores.errors import StoreError
from ackline.server.web.cancelling import cancel_stream
from ackline.server.web.http import Request, Response, text_response
from ackline.server.web.samples import INTERVAL, Row, Sampler, Totals

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ackline.server.service import Service

__all__ = ["Hello", "Live", "Update"]

log = logging.getLogger(__name__)

OPERATOR = Identity("operator")
"""Who looks at the page sees everything: it is for who may reach the metrics port."""

_CONFLICT = HTTPStatus.CONFLICT
_STATUSES = {
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
}

MAX_VIEWERS = 16
"""Feeds at a time: each costs a search through all streams a second."""

MAX_ROWS = 100
"""Streams of one update; a search finds the others."""

MAX_ENDED = 20
"""Ended streams of one update."""

MAX_WORDS = 200
"""Characters of a search."""


class Hello(Struct, frozen=True):
    """What a viewer needs to know once.

    Attributes:
        version: of the server.
        bounds: upper bounds of the latency histogram, in seconds.
        cancel: why nothing can be cancelled here; empty if it can.
    """

    version: str
    bounds: tuple[float, ...]
    cancel: str


class Update(Struct, frozen=True):
    """What a viewer gets every second.

    Attributes:
        totals: for the charts.
        rows: the newest of those that match.
        matching: how many match.
        ended: what has ended lately and matches, the newest first.
    """

    totals: Totals
    rows: list[Row]
    matching: int
    ended: list[Ended]


class Wanted(Struct, frozen=True):
    """What is to be cancelled.

    Attributes:
        id: of a row.
        work: whether a subscription's run is to stop too.
    """

    id: str
    work: bool = False


class Live:
    """Answers the page, and `ackline top`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sampler = Sampler(service)
        self._viewers = 0

    async def feed(self, request: Request) -> Response:
        """Push a `Hello`, and an `Update` every second, as Server-Sent Events."""
        if self._viewers >= MAX_VIEWERS:
            return text_response(
                f"{MAX_VIEWERS} are looking already", HTTPStatus.SERVICE_UNAVAILABLE
            )
        if len(request.query.get("words", "")) > MAX_WORDS:
            return text_response(
                f"a search has at most {MAX_WORDS} characters", HTTPStatus.BAD_REQUEST
            )
        return Response(self._updates(request), "text/event-stream")

    async def status(self, request: Request) -> Response:
        """Return how one resource stands: a STATUS_REPORT as JSON (SPEC.md §19)."""
        try:
            target = Status(request.query.get("target", ""))
            report = await report_status(self._service, OPERATOR, target)
        except (Refusal, ProtocolViolation, StoreError) as error:
            return text_response(str(error), HTTPStatus.NOT_FOUND)
        body = msgspec.json.encode(msgspec.structs.asdict(report))
        return Response(body, "application/json")

    async def _updates(self, request: Request) -> AsyncGenerator[bytes]:
        self._viewers += 1
        try:
            yield _event("hello", Hello(AGENT, SECONDS, self._no_cancel()))
            while True:
                yield _event("sample", await self._update(request))
                await asyncio.sleep(INTERVAL)
        finally:
            self._viewers -= 1

    async def _update(self, request: Request) -> Update:
        sample, query = await self._sampler.sample(), request.query
        wanted = query.get("words", ""), query.get("use", ""), query.get("show", "")
        found = sample.find(*wanted)
        return Update(
            totals=sample.totals,
            rows=found[: -MAX_ROWS - 1 : -1],
            matching=len(found),
            ended=sample.find_ended(*wanted)[:MAX_ENDED],
        )

    async def cancel(self, request: Request) -> Response:
        """Cancel a stream or run, if the bearer token's identity may.

        The token is in a header, which no other site can have a browser send: there is
        no cookie that could be used behind its owner's back.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        who = self._service.authenticator.bearer(token)
        if scheme.lower() != "bearer" or who is None:
            return text_response(
                "the token is not known here, was revoked or has expired",
                HTTPStatus.UNAUTHORIZED,
            )
        try:
            wanted = msgspec.json.decode(request.body, type=Wanted)
            outcome = await cancel_stream(self._service, who, wanted.id, wanted.work)
        except msgspec.DecodeError as error:
            return text_response(str(error), HTTPStatus.BAD_REQUEST)
        except (Refusal, ProtocolViolation, StoreError) as error:
            refusal = refusal_of(error)
            text = str(refusal)
            if refusal.code == Code.NOT_FOUND:  # hidden from clients; here it is seen
                text += f", or {who.name} may not cancel it"
            return text_response(text, _STATUSES.get(refusal.code, _CONFLICT))
        log.info("%s cancelled %s on the page", who.name, wanted.id)
        return text_response(
            f"{outcome.outcome.name.lower()} at unit {outcome.position}"
        )

    def _no_cancel(self) -> str:
        if self._service.options.tokens is not None:
            return ""
        return "Nothing can be cancelled here: the server has no tokens (--tokens)."


def _event(name: str, what: Struct) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(what))
