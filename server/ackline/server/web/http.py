"""A small HTTP/1.1 server around h11: bounded, one request a connection.

It serves scrapers, health checks and a page for a few people, from the event loop that
the streams use. A web framework would bring a second server with settings, workers and
limits of its own; h11 brings the parsing, and what is hostile about it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import h11

from ackline.server.addresses import listening

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from ackline.server.addresses import Address

__all__ = ["HttpServer", "Request", "Response", "text_response"]

log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
"""Seconds a client has to send its request."""

WRITE_SECONDS = 10.0
"""Seconds without room for output after which a client is lost."""

MAX_HEAD = 8 * 1024
"""Bytes of a request's first line and headers."""

MAX_BODY = 4 * 1024
"""Bytes of a request's body."""

MAX_CONNECTIONS = 64
"""At once; who comes then is closed at once."""

_READ = 4 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    Attributes:
        method, path: as in the first line, without the query.
        query: its last value of each name.
        headers: by name in lower case; the last of each.
        body: at most `MAX_BODY` bytes.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: a body, or a stream of parts that is sent as it comes.

    Attributes:
        body: all of it, or what follows bit by bit until the client goes.
        kind: its media type.
        headers: besides those that every answer has.
    """

    body: bytes | AsyncGenerator[bytes]
    kind: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def text_response(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a line for people."""
    return Response(f"{text}\n".encode(), status=status)


class HttpServer:
    """Listens, reads requests and writes what `answer` returns.

    Args:
        address: where to listen.
        answer: returns what is asked for; what it raises is answered with 500.
        option: the server's option that chose the address, for errors.

    Attributes:
        address: where it listens.
    """

    def __init__(
        self,
        address: Address,
        answer: Callable[[Request], Awaitable[Response]],
        *,
        option: str,
    ) -> None:
        self.address = address
        self._answer = answer
        self._option = option
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be listened on.
        """
        self._server, self.address = await listening(
            self.address,
            asyncio.start_server(self._accepted, *self.address, limit=_READ),
            option=self._option,
        )

    async def close(self) -> None:
        """Stop listening, and leave everybody."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="http")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    request = await _read(parser, reader)
            except h11.RemoteProtocolError as error:
                status = HTTPStatus(error.error_status_hint)
                await _write(parser, writer, text_response(str(error), status))
                return
            if request is not None:
                await self._respond(parser, reader, writer, request)
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("a request over HTTP failed: %r", error)
        finally:
            writer.close()

    async def _respond(
        self,
        parser: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: Request,
    ) -> None:
        try:
            response = await self._answer(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            response = text_response("a defect of the server; see its log", status)
        if isinstance(response.body, bytes):
            await _write(parser, writer, response)
            return
        # Whoever says more than one request, or leaves, is done with.
        leaving = asyncio.create_task(reader.read(1))
        writing = asyncio.create_task(_write(parser, writer, response))
        try:
            await asyncio.wait([leaving, writing], return_when="FIRST_COMPLETED")
        finally:
            leaving.cancel()
            writing.cancel()
            await asyncio.gather(leaving, writing, return_exceptions=True)


async def _read(parser: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """Return the request, or None if there is none.

    Raises:
        h11.RemoteProtocolError: what comes is no request, or too long.
    """
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError(
                    f"a body has at most {MAX_BODY} bytes",
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                )
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    try:
        target = urlsplit(head.target.decode("ascii"))
        query = dict(parse_qsl(target.query, max_num_fields=16))
    except ValueError as error:
        raise h11.RemoteProtocolError(f"not an address: {error}") from error
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode(), target.path, query, headers, body)


async def _write(
    parser: h11.Connection, writer: asyncio.StreamWriter, response: Response
) -> None:
    headers = {
        "Content-Type": response.kind,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **response.headers,
    }
    if isinstance(response.body, bytes):
        headers["Content-Length"] = str(len(response.body))
    event = h11.Response(
        status_code=response.status,
        reason=response.status.phrase,
        headers=list(headers.items()),
    )
    await _send(parser, writer, event)
    if isinstance(response.body, bytes):
        await _send(parser, writer, h11.Data(data=response.body))
    else:
        async with aclosing(response.body) as parts:
            async for part in parts:
                await _send(parser, writer, h11.Data(data=part))
    await _send(parser, writer, h11.EndOfMessage())


async def _send(
    parser: h11.Connection,
    writer: asyncio.StreamWriter,
    event: h11.Response | h11.Data | h11.EndOfMessage,
) -> None:
    data = parser.send(event)
    if data:
        writer.write(data)
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.drain()
