"""Moves bytes between a transport and a `Connection`, and nothing else.

What is read goes straight into the place the core names; what is written is pulled from
the core only when the transport has taken everything before it, so that at most one
fragment waits below the core's scheduler (SPEC.md §21).
"""

from __future__ import annotations

import asyncio
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakKeyDictionary

from ackline.aio.sockets import limit_unread, limit_unsent, send_at_once
from ackline.proto.reader import scratch_buffer

if TYPE_CHECKING:
    import socket

    from ackline.proto.connection import Connection

__all__ = ["Owner", "Pump", "shared_scratch"]

FRAGMENTS_A_TURN = 4
BYTES_A_TURN = 2**20
READING_SECONDS = 0.001
"""What is written, and what is read, in one turn of the event loop: about a
millisecond, before other connections and timers have their turn. libuv reads up to 32
times in a row while there is more: of a fast transfer that is 32 MiB. Writing what was
read into a file in memory may take the time of all that, for a system that has to get
the memory first."""

COPIED = 16 * 2**10
"""Bytes of many parts that are copied into one: the kernel is then told of one piece,
where 64 events would be 64."""

LINGER_SECONDS = 2.0
"""Seconds a closing connection has to write its last ERROR, and the peer to read it."""

DRAINED = 2**16
"""Bytes that are read of its peer meanwhile: mostly all that was under way. One that
goes on finds that nothing is read, or it would cost as much as an upload."""

FLOODED_SECONDS = 0.1
"""Seconds until such a one is closed: what it sent on stays in the system's memory."""


_SCRATCH: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def shared_scratch(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the read buffer that all connections of an event loop share.

    Clients too: of a thousand in one process each would have 256 KiB, and what one
    reads would never be in the processor's cache.
    """
    buffer = _SCRATCH.get(loop)
    if buffer is None:
        buffer = _SCRATCH[loop] = scratch_buffer()
    return buffer


class Owner(Protocol):
    """Who a pump belongs to."""

    def pump_made(self, pump: Pump) -> Connection:
        """Return the core for a connection that was just made."""
        ...

    def pump_lost(self, pump: Pump, error: Exception | None) -> None:
        """Take note that the socket is closed; the core knows already."""
        ...


class Pump:
    """One socket and its core; `PumpProtocol` is what the event loop gets.

    Args:
        owner: makes the core, and is told of the end.

    Attributes:
        core: the connection; set once the socket is connected.
        peer: address of the other side, for logs.
    """

    __slots__ = (
        "_began",
        "_blocked",
        "_bounded",
        "_closed",
        "_closing",
        "_drained",
        "_draining",
        "_due",
        "_flushing",
        "_lingering",
        "_loop",
        "_lost",
        "_lowat",
        "_owner",
        "_read",
        "_reading",
        "_resting",
        "_scheduled",
        "_socket",
        "_timer",
        "_transport",
        "_turned_at",
        "_unwritten",
        "core",
        "peer",
    )

    core: Connection

    def __init__(self, owner: Owner) -> None:
        self._owner: Owner | None = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._blocked = False
        self._unwritten = 0
        self._scheduled = False
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._read = 0
        self._turned_at = self._began = 0.0
        self._bounded = False
        self._reading = True
        self._resting = False
        self._closing = False
        self._draining = False
        self._drained = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._lowat = 0
        self.peer = ""
        self._lost = False
        self._closed: asyncio.Future[None] | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, once connected."""
        assert self._transport is not None
        return self._transport

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the socket is closed."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            if self._lost:
                self._closed.set_result(None)
        return self._closed

    def on_output(self) -> None:
        """Write soon: for the core."""
        if not self._scheduled and not self._flushing:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def close(self) -> None:
        """Write what the core has left, then close."""
        if self._transport is not None and not self._closing:
            self._closing = True
            self._turn()
            if self._blocked:  # a peer that takes nothing: its ERROR goes last
                self._transport.writelines(self.core.data_to_send(self._loop.time()))
            if self.core.failed and not self._transport.is_closing():
                # What the peer sent meanwhile is read and dropped until it closes: with
                # bytes that are not read the system resets a connection that is closed,
                # and the peer never sees the ERROR.
                self._draining = True
                self._transport.write_eof()
                self._follow_reading()
            else:
                self._transport.close()
            self._lingering = self._loop.call_later(LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # For `PumpProtocol`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        # What the kernel does not take at once counts as blocked. Not high=0: uvloop's
        # TLS transport then takes an empty buffer for a full one.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None:
            send_at_once(self._socket)
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
        assert self._owner is not None
        self.core = self._owner.pump_made(self)
        self._follow_rate()
        self._arm()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return self.core.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if self._draining:
            self._drained += nbytes
            self._follow_reading()
            if self._drained >= DRAINED and self._lingering is not None:
                self._lingering.cancel()
                self._lingering = self._loop.call_later(FLOODED_SECONDS, self.abort)
            return
        core, now = self.core, self._loop.time()
        if now != self._turned_at:  # uvloop's time stands still within a turn
            self._turned_at, self._began, self._read = now, perf_counter(), 0
        core.received(nbytes, now)
        self._read += nbytes
        if (
            self._read >= BYTES_A_TURN
            or perf_counter() - self._began >= READING_SECONDS
        ):
            self._rest()
        self._follow_reading()
        if core.closing:
            self.on_output()

    def pause_writing(self) -> None:
        """Stop pulling from the core."""
        self._blocked = True
        self.core.output_blocked(self._loop.time())

    def resume_writing(self) -> None:
        """Go on pulling."""
        self._blocked = False
        self.core.output_taken(self._loop.time(), self._unwritten)
        self._follow_rate()
        self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        if self._lingering is not None:  # it holds on to all there was
            self._lingering.cancel()
        self._transport = None
        self.core.lost()
        self._lost = True
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        owner, self._owner = self._owner, None  # it has the pump: a cycle
        if owner is not None:
            owner.pump_lost(self, exc)

    # Private

    def _turn(self) -> None:
        """Write what the core has, within this turn's budget."""
        self._scheduled = False
        transport = self._transport
        if transport is None or self._flushing or self._draining:
            return
        core = self.core
        self._flushing = True
        try:
            written = 0
            for _ in range(FRAGMENTS_A_TURN):
                if self._blocked or self._spent(written):
                    break
                parts = core.data_to_send(self._loop.time())
                if not parts:
                    break
                self._write(transport, parts)
                written += self._unwritten
                if not core.more_to_send:
                    break
            else:
                self._turn_soon()
        finally:
            self._flushing = False
        self._follow_reading()
        if core.closing:
            self.close()
        elif not self._scheduled:
            self._arm()

    def _write(
        self, transport: asyncio.Transport, parts: list[bytes | memoryview]
    ) -> None:
        self._unwritten = 0
        for part in parts:
            self._unwritten += len(part)
        if len(parts) > 2 and self._unwritten <= COPIED:
            transport.write(b"".join(parts))
        else:
            transport.writelines(parts)
        rate = self.core.rate
        if not self._blocked and self._unwritten >= rate.fragment:
            rate.free(self._unwritten, self._loop.time())
            self._follow_rate()

    def _spent(self, written: int) -> bool:
        """Go on in the next turn, if enough was written in this one."""
        if written < BYTES_A_TURN:
            return False
        self._turn_soon()
        return True

    def _turn_soon(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._turn)

    def _rest(self) -> None:
        """Read on in the next turn."""
        shared = self.core.rate.is_shared(self.core.now)
        if shared and not self._bounded and self._socket is not None:
            self._bounded = True
            limit_unread(self._socket)
        self._turned_at = 0.0
        if not self._resting:
            self._resting = True
            self._loop.call_soon(self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._follow_reading()

    def _follow_reading(self) -> None:
        wanted = self._drained < DRAINED if self._draining else self.core.reading
        reading = wanted and not self._resting
        if reading != self._reading and self._transport is not None:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _follow_rate(self) -> None:
        """Let the kernel hold one fragment that is not sent yet, and no more.

        Without this a token would wait behind megabytes of a file in the socket buffer.
        """
        fragment = self.core.rate.fragment
        if self._lowat // 2 < fragment < self._lowat * 2:
            return
        self._lowat = fragment
        if self._socket is not None:
            limit_unsent(self._socket, fragment)

    def _arm(self) -> None:
        """Have one timer, no later than the core asks for.

        It is moved forward only when it fires: an active connection postpones its
        heartbeat with every byte, and that must cost nothing.
        """
        if self._transport is None:
            return
        when = self.core.next_timeout()
        if when == inf:
            return
        if self._timer is not None:
            if self._due <= when:
                return
            self._timer.cancel()
        # Kept here: uvloop's handle of a time that has passed does not tell it.
        self._due = when
        self._timer = self._loop.call_at(when, self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        self.core.handle_timeout(self._loop.time())
        self._follow_reading()
        if not self._scheduled:
            self._arm()
