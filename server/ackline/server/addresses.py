"""Where a server listens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

__all__ = ["Address", "ListenError", "listening"]


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
        reason = os.strerror(error.errno) if error.errno else str(error)
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
