"""The small HTTP server: what is hostile to it, and what it does then."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ackline.server import Address
from ackline.server.web import http
from ackline.server.web.http import HttpServer, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

ANYWHERE = Address("127.0.0.1", 0)


@asynccontextmanager
async def serving(
    answer: Callable[[Request], Awaitable[Response]],
) -> AsyncGenerator[HttpServer]:
    server = HttpServer(ANYWHERE, answer, option="metrics")
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def echo(request: Request) -> Response:
    words = [request.method, request.path, *request.query.values()]
    return Response(" ".join(words).encode() + request.body)


async def say(server: HttpServer, text: bytes) -> bytes:
    """Return everything that is answered until the connection is closed."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(text)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_a_request_has_method_path_query_and_body() -> None:
    async with serving(echo) as server:
        answer = await say(
            server,
            b"POST /a%20b?q=x%26y HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nPOST /a%20b x&yabc")
    assert b"nosniff" in answer


async def test_head_has_no_body() -> None:
    async with serving(echo) as server:
        answer = await say(server, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 7" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"\x00\x01\x02 garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"a" * 9000,
         b"413"),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
    ids=["garbage", "no-host", "long-head", "long-body", "no-address"],
)  # fmt: skip
async def test_what_is_no_request_is_refused(text: bytes, status: bytes) -> None:
    async with serving(echo) as server:
        assert (await say(server, text)).split()[1] == status
        assert b" 200 " in await say(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_who_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)
    async with serving(echo) as server:
        assert await say(server, b"GET / HT") == b""


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    async with serving(echo) as server:
        waiting = [await asyncio.open_connection(*server.address) for _ in range(2)]
        assert await say(server, b"") == b""
        for _, writer in waiting:
            writer.close()
        answer = b""
        while b" 200 " not in answer:
            answer = await say(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_a_stream_ends_when_its_reader_leaves() -> None:
    left = asyncio.Event()

    async def parts() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"part"
                await asyncio.sleep(0.001)
        finally:
            left.set()

    async def answer(_request: Request) -> Response:
        return Response(parts())

    async with serving(answer) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"part")
        writer.close()
        await asyncio.wait_for(left.wait(), 10)


async def test_who_does_not_read_a_stream_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "WRITE_SECONDS", 0.05)
    left = asyncio.Event()

    async def parts() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            left.set()

    async def answer(_request: Request) -> Response:
        return Response(parts())

    async with serving(answer) as server:
        _, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(left.wait(), 10)
        writer.close()


async def test_a_defect_is_an_answer() -> None:
    async def answer(_request: Request) -> Response:
        raise RuntimeError("no")

    async with serving(answer) as server:
        assert b" 500 " in await say(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
