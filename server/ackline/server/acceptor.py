"""Listening for clients, and letting them go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import deque
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ackline.aio import Pump, PumpProtocol, TlsLayer
from ackline.proto.errors import Code, code_name
from ackline.proto.frames import FrameType, encode_frame
from ackline.proto.messages import Error, encode
from ackline.proto.reader import scratch_buffer
from ackline.server.addresses import bound_sockets
from ackline.server.arrivals import Arrivals, origin
from ackline.server.clients import Client
from ackline.server.tls import handshake_fault, server_context

if TYPE_CHECKING:
    from ackline.server.arrivals import Arrival
    from ackline.server.service import Service

__all__ = ["Acceptor"]

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections the kernel may hold while the loop is busy: a fleet that reconnects."""

ACCEPTED_A_TURN = 2
"""Connections accepted, and begun, in one turn of the event loop, a millisecond of it:
a thousand that say something at once must not keep those waiting that are there."""

ACCEPT_COST, BEGIN_COST, TLS_COST = 20, 40, 150
"""What accepting, the first bytes and a TLS handshake cost, in units of 10 us. Under
pressure new connections get a fifth of the processor together (`Service.arriving`)."""

LAST_WORDS = 0.5
"""Seconds a connection gets to write what is left when it is closed."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_PAUSE = 0.2
"""Seconds until accepting is tried again when the system has no descriptor left."""
EXHAUSTED_TOLD = 10.0
"""Seconds between two warnings about that."""

TLS_RECORD = 0x16
"""First byte of every TLS connection; the second is 3. A frame that began so would be
369 MB long."""

NO_TLS_HERE = (
    "this port does not speak TLS: connect to ackline://, which is not encrypted, or"
    " start the server with --tls-cert"
)
TLS_HERE = "this port speaks TLS only: connect to acklines://"


class Acceptor:
    """The listening sockets and all connections that came from them.

    A connection is a socket until its first byte is there. Only then, and for TLS after
    the handshake, a `Client` is made of it.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        options = service.options
        self._sockets: list[socket.socket] = []
        self._context = server_context(options)
        self._encrypted = scratch_buffer() if self._context else memoryview(b"")
        self._arrivals = Arrivals(
            most=options.max_unauthenticated, timeout=options.handshake_timeout
        )
        self._begun: deque[tuple[socket.socket, Arrival]] = deque()
        self._told_exhausted = -EXHAUSTED_TOLD
        self.address = options.listen

    @property
    def tls(self) -> bool:
        """Whether clients have to use TLS."""
        return self._context is not None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._service.clients)

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be listened on.
        """
        self._sockets, self.address = await bound_sockets(
            self.address, backlog=BACKLOG, option="listen"
        )
        self._accept_on()
        if not self.tls and not _loopback(self.address.host):
            log.warning(
                "listening on %s without TLS: what is sent can be read and changed on"
                " the way",
                self.address,
            )

    def reload(self) -> None:
        """Read certificate, key and authorities again, for connections from now on.

        Raises:
            OptionError: a file cannot be used; what was read before stays in use.
        """
        if self.tls:
            self._context = server_context(self._service.options)
            log.info("certificates are read again")

    async def drain(self, seconds: float) -> None:
        """Accept nothing new, tell clients to go, and wait that long for them."""
        service = self._service
        service.draining = True
        service.rates.end_waits()
        self._stop_listening()
        self._arrivals.drop_all(Code.DRAINING, "the server is going away")
        for client in list(service.clients.values()):
            client.core.go_away(
                Code.DRAINING,
                "the server is going away: connect again and resume",
                retry_after=1.0,
                deadline=seconds,
            )
        await self._emptied(seconds)

    async def close(self) -> None:
        """Close all connections."""
        clients = list(self._service.clients.values())
        for client in clients:
            client.close()
        await self._emptied(LAST_WORDS)
        for client in list(self._service.clients.values()):
            client.abort()
        await self._emptied(LAST_WORDS)

    async def _emptied(self, seconds: float) -> None:
        """Wait until there is no connection, but not longer."""
        service = self._service
        until = service.now() + seconds
        while service.clients and (left := until - service.now()) > 0:
            closing = [client.closed for client in service.clients.values()]
            await asyncio.wait(closing, timeout=left)
            await asyncio.sleep(0)

    # Accepting

    def _accept_on(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.add_reader(listening, self._acceptable, listening)

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets = []

    def _acceptable(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                accepted, name = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._exhausted(error)
                return
            self._arrived(accepted, str(name[0]))
            rest = self._spend(ACCEPT_COST)
            if rest:
                self._pause(rest)
                return

    def _spend(self, units: int) -> float:
        """Count work for strangers; return the seconds to do none of it."""
        return self._service.arriving.spend(units, self._service.now())

    def _pause(self, seconds: float) -> None:
        """Accept nothing for a while: the sockets would stay readable."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
        loop.call_later(seconds, self._accept_on)

    def _exhausted(self, error: OSError) -> None:
        """Make room, and try again a little later."""
        service = self._service
        self._pause(EXHAUSTED_PAUSE)
        self._arrivals.drop_oldest("the server has no file descriptors left")
        if service.now() - self._told_exhausted >= EXHAUSTED_TOLD:
            self._told_exhausted = service.now()
            log.warning(
                "no connection can be accepted: %s; there are %d: raise the limit of"
                " open files (ulimit -n), or lower max_connections",
                error.strerror,
                self.connections,
            )

    def _arrived(self, accepted: socket.socket, host: str) -> None:
        """Count a connection, and wait for its first byte."""
        accepted.setblocking(False)
        came_from = origin(host)
        refusal = self._service.places.take(came_from)
        if refusal:
            self._turn_away(accepted, Code.TOO_MANY_CONNECTIONS, refusal)
            return
        loop = asyncio.get_running_loop()

        def drop(code: Code, text: str) -> None:
            loop.remove_reader(accepted)
            self._service.places.leave(came_from)
            self._turn_away(accepted, code, text)

        arrival = self._arrivals.begin(came_from, drop)
        loop.add_reader(accepted, self._speaks, accepted, arrival)

    def _turn_away(self, accepted: socket.socket, code: Code, text: str) -> None:
        """Close a connection of which nothing was read."""
        self._service.stats.errors_sent[code] += 1
        self._service.counters.logins_refused[code_name(code)] += 1
        if not self.tls:  # who has not begun TLS could not read it
            error = Error(code=code, text=text, retry=code.retry, retry_after=1.0)
            with contextlib.suppress(OSError):
                accepted.send(encode_frame(FrameType.ERROR, encode(error)))
        accepted.close()

    def _speaks(self, accepted: socket.socket, arrival: Arrival) -> None:
        """Take note of the first bytes; they are looked at in turn."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(accepted)
        self._begun.append((accepted, arrival))
        if len(self._begun) == 1:
            loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        rest = 0.0
        for _ in range(min(ACCEPTED_A_TURN, len(self._begun))):
            accepted, arrival = self._begun.popleft()
            if not arrival.ended:
                self._begin(accepted, arrival)
                rest = self._spend(TLS_COST if self.tls else BEGIN_COST)
        if self._begun:
            asyncio.get_running_loop().call_later(rest, self._begin_some)

    def _begin(self, accepted: socket.socket, arrival: Arrival) -> None:
        """Look at the first bytes: are they what this port is for?"""
        try:
            head = accepted.recv(2, socket.MSG_PEEK)
        except OSError:
            head = b""
        if not head:
            arrival.end()
            self._service.places.leave(arrival.origin)
            accepted.close()
            return
        secure = head[0] == TLS_RECORD
        fault = "" if secure == self.tls else NO_TLS_HERE if secure else TLS_HERE
        client = Client(self._service, arrival)
        protocol: PumpProtocol | TlsLayer = PumpProtocol(Pump(client))
        if fault:
            client.turn_away(Code.UNSUPPORTED, fault)
        elif self._context is not None:
            protocol = shaking = TlsLayer(protocol, self._context, self._encrypted)
            arrival.missing = "TLS handshake"
            arrival.proceed(lambda _code, _text: shaking.abort())
        self._service.tasks.spawn(self._open(accepted, protocol, arrival), "accept")

    async def _open(
        self,
        accepted: socket.socket,
        protocol: PumpProtocol | TlsLayer,
        arrival: Arrival,
    ) -> None:
        """Have the event loop serve a connection, and wait for TLS."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: protocol, accepted)
            if isinstance(protocol, TlsLayer):
                await protocol.handshake
        except OSError as error:
            arrival.end()
            self._service.places.leave(arrival.origin)
            self._service.counters.logins_refused["tls"] += 1
            log.info("no TLS with %s: %s", arrival.origin, handshake_fault(error))


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
