"""One direction of a connection: what it lets through, and when."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.link.options import CutMode, LinkOptions, Way

__all__ = ["BUFFER", "PATIENCE", "CutReachedError", "Lane", "Path", "shut"]

# Bytes received at a time. Pages of it that no byte ever touched cost nothing, so a
# thousand connections of a few bytes each do not need a thousand times this.
BUFFER = 2**18

# Seconds of a limited line that one read takes. Shorter ones would be rounded up to the
# millisecond of the selector, and the line would stay below its rate.
_SLICE = 0.01

# Seconds to wait before a cut until the receiver has the bytes that precede it, and
# after a FIN until the peers have closed.
PATIENCE = 1.0


class CutReachedError(Exception):
    """A connection is to be cut: ends its coroutines."""

    def __init__(self, mode: CutMode) -> None:
        super().__init__(mode)
        self.mode = mode


class Lane:
    """What all connections share in one direction."""

    def __init__(self, way: Way) -> None:
        self.moving = asyncio.Event()
        self.moving.set()
        self.blackhole = False
        self.forwarded = 0
        self.discarded = 0
        self.flips = 0
        self.flips_left = set(way.flip_at)
        self._cuts_left = deque(way.cut_at) if way.in_total else deque[int]()
        self._cut_every = way.cut_every if way.in_total else None
        self.next_cut: int | None = None
        self.advance()

    def advance(self) -> None:
        """Move on to the next count that cuts."""
        if self._cut_every is not None:
            self.next_cut = (self.next_cut or 0) + self._cut_every
        else:
            self.next_cut = self._cuts_left.popleft() if self._cuts_left else None


class Path:
    """One direction of one connection."""

    def __init__(
        self,
        *,
        number: int,
        source: socket.socket,
        destination: socket.socket,
        options: LinkOptions,
        way: Way,
        lane: Lane,
        randomness: Random,
        observe: Callable[[memoryview], None],
    ) -> None:
        self._observe = observe
        self._options = options
        self._way = way
        self._lane = lane
        self._random = randomness
        self._source = source
        self._destination = destination
        self._loop = asyncio.get_running_loop()
        self._position = 0
        self._blackhole = False
        self._cut: int | None = None
        if not self._way.in_total:
            points = self._way.cut_at[number : number + 1]
            self._cut = points[0] if points else self._way.cut_every

    async def run(self) -> None:
        """Forward until the source ends.

        Raises:
            CutReachedError: A count of bytes was reached that cuts.
            OSError: One of the ends is gone.
        """
        way = self._way
        if way.latency or way.jitter or way.bandwidth:
            await self._delayed()
        else:
            await self._direct()

    async def _direct(self) -> None:
        view = memoryview(bytearray(BUFFER))
        while size := await self._receive(view):
            await self._forward(view[:size])
            # Neither call suspends while both sockets are ready, and one busy
            # connection would keep all others from running.
            await asyncio.sleep(0)
        await self._end()

    async def _delayed(self) -> None:
        line = _Line(self._options.in_flight)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._enter(line))
            group.create_task(self._leave(line))

    async def _enter(self, line: _Line) -> None:
        """Put what the source sends on the line, each read with its time to leave."""
        way = self._way
        size = BUFFER
        if way.bandwidth:
            size = max(1, min(size, int(way.bandwidth * _SLICE)))
        view = memoryview(bytearray(size))
        free = due = 0.0  # when the line has sent all so far; when the last one leaves
        received = size
        while received:
            await line.room.wait()
            # One slice ahead, or the line would be idle while this sleep ends late.
            if (ahead := free - _SLICE - self._loop.time()) > 0:
                await asyncio.sleep(ahead)
            received = await self._receive(view)
            free = max(free, self._loop.time())
            if way.bandwidth:
                free += received / way.bandwidth
            delay = way.latency + way.jitter * self._random.random()
            due = max(due, free + delay)
            line.put(due, bytearray(view[:received]))

    async def _leave(self, line: _Line) -> None:
        """Forward what is on the line when its time has come."""
        while True:
            await line.filled.wait()
            due, data = line.first()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                await self._end()
                return
            await self._forward(memoryview(data))
            line.pop()

    async def _receive(self, view: memoryview) -> int:
        try:
            received = await self._loop.sock_recv_into(self._source, view)
        except OSError:
            if self._is_blackhole():
                self._blackhole = True
                return 0
            raise
        self._observe(view[:received])
        return received

    def _is_blackhole(self) -> bool:
        point = self._way.blackhole_at
        return (
            self._blackhole
            or self._lane.blackhole
            or (point is not None and self._position >= point)
        )

    async def _forward(self, data: memoryview) -> None:
        """Send data as far as the options let it through."""
        while data:
            await self._obey()
            if self._is_blackhole():
                self._blackhole = True
                self._lane.discarded += len(data)
                return
            start = self._position
            size = self._take(len(data))
            await self._send(self._flipped(data[:size], start))
            data = data[size:]
        await self._obey()

    def _take(self, size: int) -> int:
        """Count bytes as forwarded, up to the next point where something happens.

        Counts before the send suspends, because other connections count meanwhile.
        """
        lane = self._lane
        if lane.next_cut is not None:
            size = min(size, lane.next_cut - lane.forwarded)
        for point in (self._cut, self._way.blackhole_at):
            if point is not None:
                size = min(size, point - self._position)
        self._position += size
        lane.forwarded += size
        if lane.next_cut is not None and lane.forwarded >= lane.next_cut:
            lane.advance()
            self._cut = self._position
        return size

    async def _obey(self) -> None:
        """Stall or cut if it is time.

        Raises:
            CutReachedError: It is time to cut.
        """
        if not self._lane.moving.is_set():
            await self._lane.moving.wait()
        if self._cut is not None and self._position >= self._cut:
            # A test that cuts after 3 MB expects 3 MB to have arrived, and a reset
            # discards what the kernel still has to send.
            await _delivered(self._destination)
            raise CutReachedError(self._options.cut_mode)

    def _flipped(self, data: memoryview, start: int) -> memoryview:
        for offset in self._way.flip_at:
            if not start <= offset < start + len(data):
                continue
            if self._way.flip_every or offset in self._lane.flips_left:
                self._lane.flips_left.discard(offset)
                self._lane.flips += 1
                data[offset - start] ^= 1
        return data

    async def _send(self, data: memoryview) -> None:
        segment = self._way.segment
        if segment is None:
            await self._loop.sock_sendall(self._destination, data)
            return
        for start in range(0, len(data), segment):
            await self._loop.sock_sendall(
                self._destination, data[start : start + segment]
            )
            # Two turns: in the first one this coroutine would run before the receiver,
            # whose socket is polled only then.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _end(self) -> None:
        """Pass the end of the stream on, unless it falls into the black hole too."""
        await self._obey()
        if self._is_blackhole():
            await self._loop.create_future()  # until the link cuts or closes
        shut(self._destination)


class _Line:
    """Bytes on their way, with the times at which they leave."""

    def __init__(self, limit: int) -> None:
        self.room = asyncio.Event()
        self.room.set()
        self.filled = asyncio.Event()
        self._limit = limit
        self._size = 0
        self._entries: deque[tuple[float, bytearray]] = deque()

    def put(self, due: float, data: bytearray) -> None:
        self._entries.append((due, data))
        self._size += len(data)
        self._update()

    def first(self) -> tuple[float, bytearray]:
        return self._entries[0]

    def pop(self) -> None:
        _, data = self._entries.popleft()
        self._size -= len(data)
        self._update()

    def _update(self) -> None:
        for event, state in (
            (self.room, self._size < self._limit),
            (self.filled, bool(self._entries)),
        ):
            if state:
                event.set()
            else:
                event.clear()


def shut(end: socket.socket) -> None:
    """Send a FIN, if there is still someone to send it to."""
    try:
        end.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # the peer reset it: nothing left to end
            raise


async def _delivered(end: socket.socket) -> None:
    """Wait until the peer's kernel has what was sent, or patience ends."""
    if sys.platform != "linux":
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while loop.time() < deadline:
        (unacknowledged,) = struct.unpack("i", ioctl(end, TIOCOUTQ, bytes(4)))
        if not unacknowledged:
            return
        await asyncio.sleep(0.001)
