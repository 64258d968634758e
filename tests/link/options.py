"""What a link is asked to do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

__all__ = [
    "BOTH",
    "Counters",
    "CutMode",
    "Direction",
    "LinkOptions",
    "Observer",
    "Way",
]


class Direction(Enum):
    """Where bytes go."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


BOTH = (Direction.TO_SERVER, Direction.TO_CLIENT)


class CutMode(Enum):
    """What both ends see when the link cuts a connection."""

    RESET = "reset"
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one direction behaves. Sizes are bytes, durations are seconds.

    Attributes:
        latency: Delay of every byte. Bytes on their way are kept in memory, at most
            `LinkOptions.in_flight` of them, so latency limits throughput to
            in_flight / latency.
        jitter: Largest additional delay, drawn evenly for each read. Order is kept.
        bandwidth: Bytes a second of each connection; None for as fast as it goes.
        segment: Largest single send; 1 sends byte after byte, and whoever receives in
            the same event loop gets to run in between.
        cut_at: Counts of forwarded bytes after which to cut: the n-th entry cuts the
            n-th connection, later connections live. With `in_total`, ascending counts
            over all connections; the one that forwards that byte is cut.
        cut_every: Cut every connection after that many bytes; with `in_total`, cut
            whenever all connections together forwarded that many more.
        in_total: Whether cuts count all connections together.
        flip_at: Offsets of bytes in a connection whose lowest bit is flipped.
        flip_every: Whether to do so in every connection, not only in the first one
            that gets as far as that offset.
        blackhole_at: After that many bytes of a connection, receive and discard. The
            end of the connection is discarded as well; both sockets stay open.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    segment: int | None = None
    cut_at: tuple[int, ...] = ()
    cut_every: int | None = None
    in_total: bool = False
    flip_at: tuple[int, ...] = ()
    flip_every: bool = False
    blackhole_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """How a link behaves. The default forwards everything unchanged, at once.

    Attributes:
        to_server: From the client to the server.
        to_client: From the server to the client.
        cut_mode: What the ends see at a cut.
        down_after_cut: Seconds to refuse new connections after each cut.
        in_flight: Bytes kept for each direction of a connection that has latency,
            jitter or limited bandwidth.
        socket_buffer: Bytes of each kernel buffer of the link; None for the system's
            choice, which is megabytes on loopback. Behind a limited bandwidth they are
            a queue, as in a router: a test of latency under load has to set this.
        seed: Of the jitter.
    """

    to_server: Way = field(default_factory=Way)
    to_client: Way = field(default_factory=Way)
    cut_mode: CutMode = CutMode.RESET
    down_after_cut: float = 0.0
    in_flight: int = 2**22
    socket_buffer: int | None = None
    seed: int = 0

    def way(self, direction: Direction) -> Way:
        """Return how a direction behaves."""
        return self.to_server if direction is Direction.TO_SERVER else self.to_client


class Observer(Protocol):
    """Sees what enters a link. Connections are counted from 0."""

    def accepted(self, connection: int) -> None:
        """Take note of a connection."""

    def entered(self, connection: int, direction: Direction, data: memoryview) -> None:
        """Take note of bytes, before they are delayed, cut or flipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a link did so far.

    Attributes:
        bytes_to_server: Bytes forwarded, or just being forwarded, to the server.
        bytes_to_client: The same to the client.
        connections: Connections accepted.
        open: Connections that exist now.
        cuts: Connections cut, by a count or by `Link.cut`.
        flips: Bits flipped.
        discarded: Bytes that fell into the black hole.
    """

    bytes_to_server: int
    bytes_to_client: int
    connections: int
    open: int
    cuts: int
    flips: int
    discarded: int
