"""What one turn of the event loop may read and write (SPEC.md §21)."""

from __future__ import annotations

import asyncio
import fcntl
import random
import socket
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from ackline.aio import pump as pumps
from ackline.proto.frames import OPTIONAL, FrameType, encode_frame
from ackline.proto.messages import Hello, encode
from ackline.proto.notices import OpenReceived
from ackline.proto.reader import SCRATCH_SIZE
from tests.client.scripted import LIMITS, ScriptedServer, accept_upload
from tests.server.peer import PATIENCE, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.notices import Notice
    from ackline.proto.server_connection import ServerConnection

BODY = 8 * 2**10
WAITING = 4 * BODY
"""Bytes that wait to be read: eight reads, because after a body that was not complete
each header and each body has its own."""

HELLO = encode_frame(
    FrameType.HELLO, encode(Hello(1, 1, "", b"", "test", resume=False, limits=LIMITS))
)


UNKNOWN = encode_frame(OPTIONAL | 0x7F, bytes(BODY))
"""A frame that a later version may have: it is read, checked and skipped."""


class PumpKept(ScriptedServer):
    """Keeps the pump of its newest connection, and accepts every upload."""

    def __init__(self) -> None:
        super().__init__(self._happened)

    def pump_made(self, pump: pumps.Pump) -> ServerConnection:
        self.pump = pump
        return super().pump_made(pump)

    def _happened(self, core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, OpenReceived):
            accept_upload(core, notice.stream)


class Flood(threading.Thread):
    """Sends frames that nobody knows, as fast as they are taken."""

    def __init__(self, port: int, frames: int) -> None:
        super().__init__()
        self._port, self._frames = port, frames

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as sock:
            sock.sendall(HELLO)
            sock.recv(1024)
            sock.sendall(UNKNOWN * self._frames)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1024):
                pass


class Turns:
    """How much a counter moves between two turns of the event loop."""

    def __init__(self, counter: Callable[[], int]) -> None:
        self._counter = counter
        self._before = counter()
        self.most = 0
        self._look()

    def _look(self) -> None:
        now = self._counter()
        self.most = max(self.most, now - self._before)
        self._before = now
        self._next = asyncio.get_running_loop().call_soon(self._look)

    async def until(self, condition: Callable[[], bool]) -> int:
        """Return the most that it moved by then."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0)
        self._next.cancel()
        return self.most


def wait_for(sock: socket.socket, size: int) -> None:
    """Return once `size` bytes wait to be read; the event loop stands still."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"1234"))[0] >= size:
            return
        time.sleep(0.0005)
    raise AssertionError(f"{size} bytes never waited to be read")


async def flooded(frames: int = 64) -> int:
    """Return the most that is read in a turn while there is always more."""
    async with PumpKept() as server:
        flood = Flood(server.port, frames)
        flood.start()
        async with asyncio.timeout(PATIENCE):
            while not server.connections or server.connections[0].reader.frames < 4:
                await asyncio.sleep(0)
        core = server.connections[0]
        turns = Turns(lambda: core.reader.bytes)
        sock = server.pump.transport.get_extra_info("socket")
        wait_for(sock, WAITING)
        most = await turns.until(lambda: core.reader.frames == frames + 1)
        server.pump.abort()
        await asyncio.to_thread(flood.join)
        return most


@pytest.mark.parametrize(
    ("size", "seconds"),
    [
        pytest.param(BODY, 60.0, id="bytes"),
        pytest.param(2**30, 0.0, id="time"),
    ],
)
def test_a_turn_reads_no_more_than_its_budget(
    size: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop reads on while there is more, up to 32 times a turn."""
    monkeypatch.setattr(pumps, "BYTES_A_TURN", size)
    monkeypatch.setattr(pumps, "READING_SECONDS", seconds)
    assert uvloop.run(flooded()) <= 2 * len(UNKNOWN)


def test_a_turn_writes_no_more_than_its_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pumps, "BYTES_A_TURN", 1)

    async def upload() -> tuple[int, int]:
        data = random.Random(1).randbytes(2**21)
        async with PumpKept() as server, Peer(server.port) as peer:
            turns = Turns(lambda: peer.core.bytes_sent)
            work = peer.upload("object", data, chunk_size=2**20)
            most = await turns.until(lambda: server.connections[0].reader.bytes > 2**19)
            assert work.outcome is None
            return most, peer.core.rate.fragment

    most, fragment = uvloop.run(upload())
    assert most <= fragment + 1024


def test_what_waits_to_be_read_is_bounded_once_events_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounded: list[object] = []
    monkeypatch.setattr(pumps, "limit_unread", bounded.append)
    monkeypatch.setattr(pumps, "READING_SECONDS", 0.0)

    async def publish() -> None:
        async with PumpKept() as server, Peer(server.port) as peer:
            peer.upload("object", bytes(2**20), chunk_size=2**20)
            turns = Turns(lambda: 0)
            reader = server.connections[0].reader
            await turns.until(lambda: reader.bytes > 2**18)
            assert not bounded
            rate = server.connections[0].rate
            rate.shared(asyncio.get_running_loop().time())
            await Turns(lambda: 0).until(lambda: reader.bytes > 2**20)
            assert len(bounded) == 1

    uvloop.run(publish())


def test_a_peer_that_goes_on_after_its_connection_failed_costs_little() -> None:
    """What comes late is read for a peer that reads; not all that it has."""

    async def flood() -> None:
        loop = asyncio.get_running_loop()
        raised: list[object] = []
        loop.set_exception_handler(lambda _loop, context: raised.append(context))
        async with PumpKept() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HELLO + bytes(pumps.DRAINED * 32))
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await reader.read()
                    while server.pump._drained < pumps.DRAINED:
                        await asyncio.sleep(0)
                server.connections[0].go_away()  # nobody is told any more
                for _ in range(10):
                    await asyncio.sleep(0)
                assert server.pump._drained < pumps.DRAINED + SCRATCH_SIZE
            finally:
                server.pump.abort()
                writer.transport.abort()
                await server.pump.closed
        assert answer[4] == FrameType.ERROR
        assert not raised

    uvloop.run(flood())
