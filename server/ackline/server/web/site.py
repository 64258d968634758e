"""What the metrics port serves, by path (SPEC.md §22)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from ackline.server.health import problems
from ackline.server.metrics import exposition
from ackline.server.web.http import HttpServer, Request, Response, text_response
from ackline.server.web.live import Live
from ackline.server.web.pages import PAGES, page

if TYPE_CHECKING:
    from ackline.server.addresses import Address
    from ackline.server.service import Service

__all__ = ["Site"]


class Site:
    """`/metrics` for Prometheus, `/` for people, and health for who looks after us.

    Args:
        service: what is looked at.
        address: where to listen.
    """

    def __init__(self, service: Service, address: Address) -> None:
        self._service = service
        self._live = Live(service)
        self._paths = {
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/status": self._live.status,
        }
        self._http = HttpServer(address, self._answer, option="metrics")

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._http.address

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be listened on.
        """
        await self._http.start()

    async def close(self) -> None:
        """Stop listening, and leave everybody."""
        await self._http.close()

    async def _answer(self, request: Request) -> Response:
        if request.path == "/cancel" and request.method == "POST":
            return await self._live.cancel(request)
        if request.method not in ("GET", "HEAD"):
            return text_response("use GET", HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path in PAGES:
            return page(request.path)
        if request.path == "/feed" and request.method == "GET":
            return await self._live.feed(request)
        path = self._paths.get(request.path)
        if path is None:
            there = ", ".join(["/", *self._paths])
            return text_response(f"there are {there}", HTTPStatus.NOT_FOUND)
        return await path(request)

    async def _metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        kind, text = await exposition(self._service, accept)
        return Response(text, kind)

    async def _health(self, _request: Request) -> Response:
        return text_response("ok")  # the event loop turns: no restart would help

    async def _ready(self, _request: Request) -> Response:
        reasons = await problems(self._service)
        if not reasons:
            return text_response("ready")
        return text_response("\n".join(reasons), HTTPStatus.SERVICE_UNAVAILABLE)
