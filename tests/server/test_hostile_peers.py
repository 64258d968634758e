"""Peers that take what they can: each limit, what they are told, and what it costs.

SPEC.md §6, §20. Memory is looked at where it would grow: in queues, tasks and sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ackline.aio import pump
from ackline.proto.errors import Code
from ackline.proto.frames import HEADER_SIZE, FrameType, encode_frame
from ackline.proto.messages import (
    Ack,
    Durability,
    Error,
    Hello,
    List,
    Listed,
    Open,
    Ping,
    PublishDetail,
    SubscribeDetail,
    Use,
    decode,
    encode,
    raw,
)
from ackline.proto.messages import (
    Start as From,
)
from ackline.proto.server_connection import MAX_UNSENT
from ackline.server import Server, opening, sessions
from tests.server.peer import LIMITS, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from ackline.server import Serving
    from ackline.server.service import Service
    from tests.server.conftest import Start

HELLO = encode_frame(
    FrameType.HELLO, encode(Hello(1, 1, "", b"", "hostile", False, LIMITS))
)


def service_of(serving: Serving) -> Service:
    return serving._acceptor._service


class Raw:
    """A connection without a protocol."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, kind: FrameType, message: object = None, **header: int) -> None:
        payload = b"" if message is None else encode(message)  # type: ignore[arg-type]
        self.writer.write(encode_frame(kind, payload, **header))

    async def frame(self) -> tuple[int, bytes]:
        """Return type and payload of the next frame."""
        async with asyncio.timeout(10):
            header = await self.reader.readexactly(HEADER_SIZE)
            length = int.from_bytes(header[:4], "big")
            return header[4], await self.reader.readexactly(length)

    async def trickle(self, data: bytes) -> Error:
        """Send 50 bytes a second; return the ERROR that this is answered with."""

        async def send() -> None:
            for byte in data:
                self.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(send())
        try:
            return await self.error()
        finally:
            sending.cancel()

    async def error(self) -> Error:
        """Return the ERROR that ends the connection."""
        while True:
            kind, payload = await self.frame()
            if kind == FrameType.ERROR:
                async with asyncio.timeout(10):
                    # What it did not read, the server answers with a reset.
                    with contextlib.suppress(ConnectionError):
                        assert not await self.reader.read()
                return decode(Error, payload)


@asynccontextmanager
async def connected(
    port: int, *, greet: bool = True, address: str = "127.0.0.1"
) -> AsyncGenerator[Raw]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(address, 0)
    )
    raw_one = Raw(reader, writer)
    try:
        if greet:
            writer.write(HELLO)
            assert (await raw_one.frame())[0] == FrameType.WELCOME
        yield raw_one
    finally:
        writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# Before the handshake is over


async def test_of_too_many_strangers_the_oldest_goes(start: Start) -> None:
    async with start(max_unauthenticated=8) as serving:
        strangers = [
            await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(20)
        ]
        for reader, _ in strangers[:12]:
            async with asyncio.timeout(10):
                answer = await reader.read()
            error = decode(Error, answer[HEADER_SIZE:])
            assert error.code == Code.TOO_MANY_CONNECTIONS
            assert error.retry
        assert len(serving._acceptor._arrivals) == 8
        async with Peer(serving.port) as peer:  # a newcomer finds its place
            await peer.upload("a", b"x").ended()
        assert service_of(serving).places._total <= 9
        for _, writer in strangers:
            writer.close()
        await until(lambda: not service_of(serving).places._total)


async def test_a_hello_that_trickles_has_so_much_time_in_all(start: Start) -> None:
    async with (
        start(handshake_timeout=0.2) as serving,
        connected(serving.port, greet=False) as slow,
    ):
        assert (await slow.trickle(HELLO)).code == Code.HANDSHAKE_TIMEOUT


async def test_nothing_is_read_beyond_a_small_frame_before_welcome(
    start: Start,
) -> None:
    async with start() as serving, connected(serving.port, greet=False) as large:
        large.writer.write((8193).to_bytes(4, "big") + bytes(20))
        assert (await large.error()).code == Code.FRAME_TOO_LARGE


async def test_one_address_cannot_take_all_places(start: Start) -> None:
    async with start(max_connections_per_address=2) as serving:
        async with connected(serving.port), connected(serving.port):
            async with connected(serving.port, greet=False) as third:
                error = await third.error()
                assert error.code == Code.TOO_MANY_CONNECTIONS
                assert "127.0.0.1" in error.text
            async with connected(serving.port, address="127.0.0.2"):
                pass
        await until(lambda: not service_of(serving).places._total)
        async with connected(serving.port):
            pass


async def test_without_file_descriptors_the_server_waits_and_goes_on(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    loop = asyncio.get_running_loop()
    async with start() as serving, Peer(serving.port) as peer:
        sockets = [socket.socket() for _ in range(20)]
        for each in sockets:
            each.setblocking(False)
        try:
            most = max(each.fileno() for each in sockets) + 5
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
            for each in sockets:
                await loop.sock_connect(each, ("127.0.0.1", serving.port))
            await until(lambda: "raise the limit of open files" in caplog.text)
            busy = time.thread_time()
            await asyncio.sleep(0.1)
            assert time.thread_time() - busy < 0.07  # it does not spin
            await peer.upload("a", b"x").stored(0)
        finally:
            for each in sockets:
                each.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        async with Peer(serving.port) as newcomer:
            await newcomer.upload("b", b"x").ended()


# Slow, silent and deaf


async def test_a_frame_that_trickles_ends_its_connection(start: Start) -> None:
    async with start(heartbeat=0.05) as serving, connected(serving.port) as slow:
        frame = encode_frame(FrameType.PING, encode(Ping(0, 0)))
        error = await slow.trickle(frame)
        assert error.code == Code.PEER_LOST
        assert "come to its end" in error.text


async def test_who_asks_and_never_reads_has_one_answer_made(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "LINGER_SECONDS", 0.1)
    server = Server()
    for number in range(1_000):
        server.source(f"{number:0200}")(ticks)
    async with start(server, heartbeat=0.1) as serving:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", serving.port, limit=1
        )
        deaf = Raw(reader, writer)
        writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )
        writer.write(HELLO)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: bool(service_of(serving).clients))
        (core,) = service_of(serving).clients
        for number in range(1, 65):
            deaf.send(FrameType.LIST, List("sources/"), sequence=number)
        largest = 0
        while service_of(serving).clients:
            largest = max(largest, core._outbox.size)
            await asyncio.sleep(0.001)
        assert largest < MAX_UNSENT + 400_000
        assert service_of(serving).stats.errors_sent[Code.PEER_LOST] == 1
        writer.transport.abort()


async def ticks() -> AsyncGenerator[str]:
    yield "x"
    await asyncio.Event().wait()


# Floods


async def test_pings_have_a_limit(start: Start) -> None:
    async with start() as serving, connected(serving.port) as flooding:
        for number in range(1, 13):
            flooding.send(FrameType.PING, Ping(0, 0), sequence=number)
        assert (await flooding.error()).code == Code.LIMIT_EXCEEDED


async def test_requests_have_a_limit(start: Start) -> None:
    async with start() as serving, connected(serving.port) as flooding:
        for number in range(1, 300):
            flooding.send(FrameType.LIST, List("objects/"), sequence=number)
        answers = 0
        while True:
            kind, payload = await flooding.frame()
            if kind == FrameType.ERROR:
                break
            assert decode(Listed, payload).entries == ()
            answers += 1
        assert decode(Error, payload).code == Code.LIMIT_EXCEEDED
        assert answers < 299


async def test_what_was_never_sent_cannot_be_acknowledged(start: Start) -> None:
    server = Server()
    server.source("ticks")(ticks)
    async with start(server) as serving, connected(serving.port) as lying:
        detail = raw(SubscribeDetail(From.FIRST))
        lying.send(
            FrameType.OPEN,
            Open(Use.SUBSCRIBE, "sources/ticks", "", 10, 1000, detail),
            stream_id=1,
        )
        assert (await lying.frame())[0] == FrameType.OPENED
        ack = Ack(99, 9999, 0, Durability.MEMORY)
        lying.send(FrameType.ACK, ack, stream_id=1, sequence=50)
        assert (await lying.error()).code == Code.BAD_FRAME


async def test_opening_and_releasing_as_fast_as_can_be_piles_up_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAX_OPENING", 16)
    async with (
        start() as serving,
        connected(serving.port) as storming,
        Peer(serving.port) as honest,
    ):
        service, most = service_of(serving), 0
        message = Open(Use.PUBLISH, "logs/x", "", 0, 0, raw(PublishDetail()))
        for number in range(1, 401):
            storming.send(FrameType.OPEN, message, stream_id=number)
            storming.send(FrameType.RELEASE, stream_id=number)
        attacker = next(iter(service.clients.values()))
        work = honest.upload("a", b"x" * 100_000)
        while attacker.opening or attacker.core.highest_id < 400:
            most = max(most, attacker.opening)
            assert len(service.tasks) < 100
            await asyncio.sleep(0)
        assert 0 < most <= 16 + 8  # what one turn may open besides
        await work.ended()
        await until(lambda: not attacker.core.streams)
        storming.send(FrameType.LIST, List("objects/"), sequence=1)
        while (await storming.frame())[0] != FrameType.LISTED:
            pass


async def test_sessions_that_nobody_uses_are_bounded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_EMPTY", 5)
    async with start(max_connections=10) as serving:
        service = service_of(serving)
        for _ in range(12):
            async with connected(serving.port):
                pass
            await until(lambda: not service.clients)
        assert len(service.sessions) == 5
        peers: list[Peer] = []
        for number in range(12):  # with streams they are worth more
            peers.append(await Peer(serving.port).connect())
            await peers[-1].upload(f"n{number}", b"x" * 100_000, end=False).opened()
            await peers[-1].drop()
            await until(lambda: not service.clients)
        assert len(service.sessions) == 15
        await peers[-1].connect()  # the newest is still there
        assert service.counters.sessions_resumed["resumed"] == 1
        await peers[-1].drop()


async def test_resuming_again_and_again_is_one_session(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        work = peer.upload("a", b"x" * 300_000, end=False)
        await work.opened()
        for _ in range(20):
            await peer.drop()
            await peer.connect()
        service = service_of(serving)
        assert len(service.sessions) == 1
        assert service.counters.sessions_resumed["resumed"] == 20
        await work.stored(4)
        await peer.drop()


async def test_streams_that_move_are_not_remembered_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_MOVED", 3)
    async with start() as serving, Peer(serving.port) as one, Peer(serving.port) as two:
        for number in range(12):
            peer = (one, two)[number % 2]
            await peer.upload("a", b"x" * 100_000, key="k", end=False).opened()
        moved = [len(session.moved) for session in service_of(serving).sessions.all()]
        assert moved == [3, 3]
