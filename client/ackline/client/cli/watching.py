"""The feed of a server's metrics port: what its live page is told every second."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode, urlsplit

import h11
import msgspec
from msgspec import Struct

from ackline.proto.errors import Code, ConnectionLost, Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

__all__ = ["Row", "Totals", "Update", "watch"]

WAIT_SECONDS = 10.0
"""Seconds without anything after which the server is lost."""

MAX_EVENT = 4 * 2**20
"""Bytes of one update: a hundred streams take some 40 kB."""

MAX_REASON = 1000
"""Bytes shown of what a server says that does not want to be looked at."""

S = TypeVar("S", bound=Struct)


class Totals(Struct, frozen=True):
    """Counters since the server's start, and gauges; more of them are ignored.

    Attributes:
        at: the server's monotonic seconds.
        uptime: seconds.
        received, sent: bytes of frames.
        units: by use.
        ack_latency: ACKs in each bucket, by use.
        connections, sessions, runs: now.
        streams: live ones by state.
        stuck: streams and runs that do not move.
        problems: why clients should not be sent to the server.
    """

    at: float
    uptime: float
    received: int
    sent: int
    units: dict[str, int]
    ack_latency: dict[str, list[int]]
    connections: int
    sessions: int
    runs: int
    streams: dict[str, int]
    stuck: int
    problems: list[str]


class Row(Struct, frozen=True):
    """One live stream or run."""

    id: str
    use: str
    name: str
    resource: str
    state: str
    reasons: list[str]
    position: int
    total: int | None = None
    window: int | None = None
    identity: str = ""
    peer: str = ""
    error: str = ""


class Update(Struct, frozen=True):
    """What comes every second: totals, and the newest of the streams that match."""

    totals: Totals
    rows: list[Row]
    matching: int


class Hello(Struct, frozen=True):
    """What comes first: the server, and the bounds of the latency buckets."""

    version: str
    bounds: list[float]


@asynccontextmanager
async def watch(
    url: str, query: Mapping[str, str]
) -> AsyncGenerator[tuple[Hello, AsyncGenerator[tuple[Update, bytes]]]]:
    """Read a feed: its first event, then updates and the JSON they came as.

    Args:
        url: of the metrics port, such as `http://127.0.0.1:9171`.
        query: `words`, `use` and `show`, as the page's search has them.

    Raises:
        UsageError: the URL is none.
        ConnectionLost: the server is not there, or no Ackline server.
        Refused: it does not want to be looked at, as when too many do.
    """
    host, port, path, secure = _address(url)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=secure or None
            )
    except (OSError, TimeoutError) as error:
        raise ConnectionLost(f"{url}: {error or 'no answer'}") from error
    try:
        parser = h11.Connection(h11.CLIENT)
        head = h11.Request(
            method="GET",
            target=f"{path}/feed?{urlencode(query)}",
            headers=[("Host", host), ("Accept", "text/event-stream")],
        )
        writer.write(parser.send(head) or b"")
        writer.write(parser.send(h11.EndOfMessage()) or b"")
        events = _events(url, parser, reader)
        hello = _decoded(url, await anext(events), Hello)
        yield hello, _updates(url, events)
    finally:
        writer.close()


def _address(url: str) -> tuple[str, int, str, bool]:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not http://HOST:PORT of a metrics port")
    secure = parts.scheme == "https"
    return (
        parts.hostname,
        port or (443 if secure else 80),
        parts.path.rstrip("/"),
        secure,
    )


async def _updates(
    url: str, events: AsyncGenerator[bytes]
) -> AsyncGenerator[tuple[Update, bytes]]:
    async for data in events:
        yield _decoded(url, data, Update), data


def _decoded(url: str, data: bytes, what: type[S]) -> S:
    try:
        return msgspec.json.decode(data, type=what)
    except msgspec.DecodeError as error:
        raise ConnectionLost(f"{url} is no Ackline server: {error}") from error


async def _events(
    url: str, parser: h11.Connection, reader: asyncio.StreamReader
) -> AsyncGenerator[bytes]:
    """Yield the data of each event."""
    pending = b""
    async for part in _body(url, parser, reader):
        pending += part
        *whole, pending = pending.split(b"\n\n")
        for event in whole:
            for line in event.split(b"\n"):
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ")
        if len(pending) > MAX_EVENT:
            break
    raise ConnectionLost(f"{url}: the server ended the feed")


async def _body(
    url: str, parser: h11.Connection, reader: asyncio.StreamReader
) -> AsyncGenerator[bytes]:
    """Yield the parts of the answer's body, if it is a feed."""
    status, told = HTTPStatus.OK, b""
    while True:
        event = await _event(url, parser, reader)
        if isinstance(event, h11.Response):
            status = HTTPStatus(event.status_code)
        elif isinstance(event, h11.Data) and status is HTTPStatus.OK:
            yield bytes(event.data)
        elif isinstance(event, h11.Data):
            told = (told + bytes(event.data))[:MAX_REASON]
        else:
            break
    text = told.decode(errors="replace").strip() or status.phrase
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        raise Refused(Code.OVERLOADED, text, retry=True, resource=url)
    if status is not HTTPStatus.OK:
        raise ConnectionLost(f"{url} is no metrics port of Ackline: {text}")


async def _event(
    url: str, parser: h11.Connection, reader: asyncio.StreamReader
) -> object:
    try:
        while (event := parser.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(WAIT_SECONDS):
                parser.receive_data(await reader.read(65_536))
    except h11.RemoteProtocolError as error:
        raise ConnectionLost(f"{url} is no metrics port of Ackline: {error}") from error
    except (OSError, TimeoutError) as error:
        raise ConnectionLost(f"{url}: {error or 'no answer'}") from error
    return event
