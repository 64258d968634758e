"""Listening for clients, and letting them go."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ackline.aio import Pump
from ackline.proto.errors import Code
from ackline.server.addresses import listening
from ackline.server.clients import Client
from ackline.server.tls import server_context

if TYPE_CHECKING:
    from ackline.server.service import Service

__all__ = ["Acceptor"]

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections the kernel may hold while the loop is busy: a fleet that reconnects."""

LAST_WORDS = 0.5
"""Seconds a connection gets to write what is left when it is closed."""


class Acceptor:
    """The listening socket and all connections that came from it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: asyncio.Server | None = None
        self.tls = service.options.tls_cert is not None
        self.address = service.options.listen

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._service.clients)

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be listened on.
            OptionError: the certificate cannot be used.
        """
        options = self._service.options
        host, port = options.listen
        context = server_context(options)
        loop = asyncio.get_running_loop()
        self._server, self.address = await listening(
            self.address,
            loop.create_server(
                self._made,
                host,
                port,
                backlog=BACKLOG,
                ssl=context,
                ssl_handshake_timeout=options.handshake_timeout if context else None,
            ),
            option="listen",
        )
        if not self.tls and not _loopback(self.address.host):
            log.warning(
                "listening on %s without TLS: what is sent can be read and changed on"
                " the way",
                self.address,
            )

    async def drain(self, seconds: float) -> None:
        """Accept nothing new, tell clients to go, and wait that long for them."""
        service = self._service
        service.draining = True
        if self._server is not None:
            self._server.close()
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

    def _made(self) -> Pump:
        return Pump(Client(self._service))

    async def _emptied(self, seconds: float) -> None:
        """Wait until there is no connection, but not longer."""
        service = self._service
        until = service.now() + seconds
        while service.clients and (left := until - service.now()) > 0:
            closing = [client.closed for client in service.clients.values()]
            await asyncio.wait(closing, timeout=left)
            await asyncio.sleep(0)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
