"""Where a server listens."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["Address", "ListenError", "bound_sockets", "listening"]


class Address(NamedTuple):
    """Where to listen; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ListenError(OSError):
    """Report an address that cannot be listened on."""

    def __init__(self, address: Address, error: OSError, *, option: str) -> None:
        reason = str(error)
        if isinstance(error, socket.gaierror):
            reason = str(error.strerror)
        elif error.errno:
            reason = os.strerror(error.errno)
        super().__init__(
            f"cannot listen on {address}: {reason}; option {option} chooses another"
        )
        self.address = address


async def listening(
    address: Address, opening: Awaitable[asyncio.Server], *, option: str
) -> tuple[asyncio.Server, Address]:
    """Return a server that listens, and where it really does.

    Raises:
        ListenError: it cannot.
    """
    try:
        server = await opening
    except OSError as error:
        raise ListenError(address, error, option=option) from error
    name = server.sockets[0].getsockname()
    return server, Address(str(name[0]), int(name[1]))


async def bound_sockets(
    address: Address, *, backlog: int, option: str
) -> tuple[list[socket.socket], Address]:
    """Return sockets that listen on all that an address stands for, and where.

    Raises:
        ListenError: one of them cannot.
    """
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(
            address.host or None,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        for family, _, _, _, place in dict.fromkeys(found):
            try:
                listening = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                continue  # the kernel has no IPv6, say
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(place)
            listening.listen(backlog)
    except OSError as error:
        for listening in sockets:
            listening.close()
        raise ListenError(address, error, option=option) from error
    if not sockets:
        none = OSError(errno.EAFNOSUPPORT, "no such address family")
        raise ListenError(address, none, option=option)
    name = sockets[0].getsockname()
    return sockets, Address(str(name[0]), int(name[1]))
