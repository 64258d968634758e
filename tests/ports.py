"""Ports for servers that are started, stopped and started again."""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["free_port"]

# Below what systems take for outgoing connections (Linux: from 32768 on): one of those
# could otherwise have the port of a server that is just being started again.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses.

    Raises:
        AssertionError: All of a hundred that were tried are in use.
    """
    for port in random.sample(_PORTS, 100):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise AssertionError("no port from 20000 to 31999 is free")
