"""A link that cuts the first connection, and tells what went through it.

`python -m bench.cut_link --to PORT [--cut-at BYTES]` prints its port. It cuts after so
many bytes towards the server, or whenever it reads a line; at the end of its standard
input it prints `Seen` as a line of JSON. It reads the frames itself, so that no side is
asked about its own work. The client's role starts it: its processor time and memory
count to the client's side.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import uvloop
from msgspec import Struct
from tests.link import Direction, Link, LinkOptions, Way

from ackline.proto.frames import HEADER, HEADER_SIZE, FrameType
from ackline.proto.messages import Ack, decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["DELAY", "Cut", "Seen", "cut_link"]

DELAY = 0.010
"""Seconds each way: a round trip more than needed shows."""
IN_FLIGHT = 1 << 26
"""Bytes on their way that limit the link to 6 GB/s."""


class Seen(Struct, frozen=True, kw_only=True):
    """What a link saw.

    Attributes:
        accepted: when each connection was (`time.monotonic()`).
        resumed: when RESUMED came from the server on the last one.
        first_unit: when the first CHUNK came from the client on the last one.
        sent: bytes of each chunk that were sent on the first connection.
        again: the same on the last one.
        acknowledged: ranges of chunks the server acknowledged on the first one.
    """

    accepted: list[float]
    resumed: float
    first_unit: float
    sent: dict[int, int]
    again: dict[int, int]
    acknowledged: list[tuple[int, int]]


class Frames:
    """Finds the frames in a stream of bytes.

    Args:
        take: called with type, sequence number, bytes of the payload that are here, and
            the payload of an ACK, as soon as they are.
    """

    def __init__(self, take: Callable[[int, int, int, bytes], None]) -> None:
        self._take = take
        self._head = bytearray()
        self._left = 0
        self._ack: bytearray | None = None
        self._kind = self._number = 0

    def feed(self, data: memoryview) -> None:
        """Take the next bytes."""
        while data:
            if self._left == 0:
                wanted = HEADER_SIZE - len(self._head)
                self._head += data[:wanted]
                data = data[wanted:]
                if len(self._head) == HEADER_SIZE:
                    self._begin()
                continue
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if self._ack is None:
                self._take(self._kind, self._number, len(part), b"")
                continue
            self._ack += part
            if self._left == 0:
                self._take(self._kind, self._number, 0, bytes(self._ack))

    def _begin(self) -> None:
        self._left, self._kind, _, _, _, self._number, _ = HEADER.unpack(self._head)
        self._head.clear()
        self._ack = bytearray() if self._kind == FrameType.ACK else None
        if self._ack is None:
            self._take(self._kind, self._number, 0, b"")


class Watch:
    """Sees what enters the link."""

    def __init__(self) -> None:
        self.accepted_at: list[float] = []
        self.sent: list[Counter[int]] = []
        self.resumed = self.first_unit = 0.0
        self.acknowledged: list[tuple[int, int]] = []
        self._frames: dict[tuple[int, Direction], Frames] = {}

    def accepted(self, connection: int) -> None:
        self.accepted_at.append(time.monotonic())
        sent = Counter[int]()
        self.sent.append(sent)

        def from_client(kind: int, number: int, size: int, _ack: bytes) -> None:
            if kind == FrameType.CHUNK:
                sent[number] += size
                self.first_unit = self.first_unit or time.monotonic()

        def from_server(kind: int, number: int, _size: int, ack: bytes) -> None:
            if kind == FrameType.RESUMED:
                self.resumed = time.monotonic()
            elif kind == FrameType.ACK and connection == 0:
                ranges = decode(Ack, memoryview(ack)).ranges
                self.acknowledged = [(0, number), *ranges]

        self.first_unit = 0.0
        self._frames[connection, Direction.TO_SERVER] = Frames(from_client)
        self._frames[connection, Direction.TO_CLIENT] = Frames(from_server)

    def entered(self, connection: int, direction: Direction, data: memoryview) -> None:
        self._frames[connection, direction].feed(data)

    def seen(self) -> Seen:
        return Seen(
            accepted=self.accepted_at,
            resumed=self.resumed,
            first_unit=self.first_unit,
            sent=self.sent[0],
            again=self.sent[-1],
            acknowledged=self.acknowledged,
        )


class Cut:
    """The process, as the client's role sees it.

    Attributes:
        port: of the link.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    def now(self) -> None:
        """Cut the connections."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def seen(self) -> Seen:
        """End the link and return what it saw."""
        out, _ = await self._process.communicate(b"")  # ends its input
        return msgspec.json.decode(out, type=Seen)


@contextlib.asynccontextmanager
async def cut_link(port: int, cut_at: int = 0) -> AsyncIterator[Cut]:
    """Run a link to a port of 127.0.0.1."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.cut_link",
        f"--to={port}",
        f"--cut-at={cut_at}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield Cut(process, int(await process.stdout.readline()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _run(port: int, cut_at: int) -> None:
    watch = Watch()
    cuts = (cut_at,) if cut_at else ()
    options = LinkOptions(
        to_server=Way(latency=DELAY, cut_at=cuts),
        to_client=Way(latency=DELAY),
        in_flight=IN_FLIGHT,
    )
    async with Link(target_port=port, options=options, observer=watch) as link:
        print(link.port, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            await link.cut()
        sys.stdout.buffer.write(msgspec.json.encode(watch.seen()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--cut-at", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(_run(arguments.to, arguments.cut_at))
