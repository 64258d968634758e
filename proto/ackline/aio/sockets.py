"""What the kernel holds of a connection: tokens wait behind all of it (SPEC.md §21)."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from pathlib import Path

__all__ = ["limit_unread", "limit_unsent", "most_unread", "send_at_once"]

INTERNET = (socket.AF_INET, socket.AF_INET6)

LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
INFO: int | None = getattr(socket, "TCP_INFO", None)

MIN_RTT = struct.Struct("148xI")
"""`tcpi_min_rtt` of Linux's `struct tcp_info`, in microseconds."""

UNREAD = 2**20
NEAR = 500
"""Bytes that may wait to be read if the peer is nearer than so many microseconds:
2 GB/s need no more. Left to itself Linux lets 6 MB pile up, or 32, where the reader is
slower: at 0.5 GB/s each of them is 2 ms for a token. With 256 KiB fragments, tokens
beside a fetch: p50 1.9 -> 0.7 ms, p99 5.7 -> 2.3 ms, at 0.92 of its speed."""

MOST = Path("/proc/sys/net/core/rmem_max")
"""What a program may ask for, in bytes."""


def send_at_once(sock: socket.socket) -> None:
    """Have small writes wait for nothing."""
    if sock.family in INTERNET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def limit_unsent(sock: socket.socket, size: int) -> None:
    """Let the kernel hold about `size` bytes that are not sent yet, and no more."""
    if LOWAT is not None and sock.family in INTERNET:
        sock.setsockopt(socket.IPPROTO_TCP, LOWAT, size)


def limit_unread(sock: socket.socket) -> None:
    """Bound what a near peer may have sent and nobody has read.

    A farther one needs what the kernel finds out by itself.
    """
    if INFO is None or sock.family not in INTERNET:
        return
    info = sock.getsockopt(socket.IPPROTO_TCP, INFO, MIN_RTT.size)
    if len(info) < MIN_RTT.size or not 0 < MIN_RTT.unpack(info)[0] < NEAR:
        return
    if most_unread() >= UNREAD:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD)


@lru_cache(maxsize=1)
def most_unread() -> int:
    """Return what a program may ask for, in bytes; 0 if that is not known."""
    try:
        return int(MOST.read_text())
    except (OSError, ValueError):
        return 0
