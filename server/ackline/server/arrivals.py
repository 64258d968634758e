"""Connections of clients that are not known yet: how many, how long, from where.

Until a client is authenticated it is a stranger, and what it may hold is bounded
(SPEC.md §6, §7): one socket until its first byte, a handshake of 8 KiB after that,
`handshake_timeout` for all of it. When there are too many strangers the one that has
been silent longest goes, so that no number of them keeps a newcomer out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from ackline.proto.errors import Code

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    #: Ends a connection with a code and a text, as far as it can be told.
    Drop: TypeAlias = Callable[[Code, str], None]

__all__ = ["Arrival", "Arrivals", "Places", "origin"]


class Arrival:
    """One connection until its client has a session.

    Attributes:
        origin: where it comes from, as `Places` counts.
        missing: what it has to send next, for the error it gets when it does not.
    """

    __slots__ = ("_arrivals", "_drop", "_timer", "missing", "origin")

    def __init__(self, arrivals: Arrivals, came_from: str, drop: Drop) -> None:
        self._arrivals = arrivals
        self.origin = came_from
        self.missing = "HELLO"
        self._drop = drop
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            arrivals.timeout, self._too_slow
        )

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._timer is None

    def proceed(self, drop: Drop) -> None:
        """Take note that another part has the connection, and how that ends it."""
        self._drop = drop

    def heard(self) -> None:
        """Take note that it waits for the server now: it is not dropped for others."""
        self._arrivals.forget(self)
        self.missing = "end of the authentication"

    def end(self) -> None:
        """Take note that it is over: there is a session, or no connection."""
        self._arrivals.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self, code: Code, text: str) -> None:
        """End the connection."""
        self.end()
        self._drop(code, text)

    def _too_slow(self) -> None:
        self.drop(
            Code.HANDSHAKE_TIMEOUT,
            f"no {self.missing} within {self._arrivals.timeout:g} s",
        )


class Arrivals:
    """All connections whose clients are waited for, the oldest first.

    Args:
        most: how many; one more has the oldest one dropped.
        timeout: seconds from the first packet to a session.
    """

    def __init__(self, *, most: int, timeout: float) -> None:
        self.timeout = timeout
        self._most = most
        self._waited_for: dict[Arrival, None] = {}

    def __len__(self) -> int:
        return len(self._waited_for)

    def begin(self, came_from: str, drop: Drop) -> Arrival:
        """Take up a connection; if there are too many, the oldest one goes."""
        if len(self._waited_for) >= self._most:
            self.drop_oldest("too many clients are in their handshake: try again")
        arrival = Arrival(self, came_from, drop)
        self._waited_for[arrival] = None
        return arrival

    def drop_oldest(self, text: str) -> None:
        """Make room, if there is anybody to be dropped."""
        oldest = next(iter(self._waited_for), None)
        if oldest is not None:
            oldest.drop(Code.TOO_MANY_CONNECTIONS, text)

    def drop_all(self, code: Code, text: str) -> None:
        """End them all: the server stops."""
        for arrival in list(self._waited_for):
            arrival.drop(code, text)

    def forget(self, arrival: Arrival) -> None:
        """Wait for this one no longer."""
        self._waited_for.pop(arrival, None)


class Places:
    """How many connections there are, in all and from each origin.

    Args:
        most: in all.
        most_each: from one origin.
    """

    def __init__(self, *, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._taken: Counter[str] = Counter()
        self._total = 0

    def take(self, came_from: str) -> str:
        """Count a connection; return why it cannot be, or nothing."""
        if self._total >= self._most:
            return f"the server has {self._most} connections: try again later"
        if self._taken[came_from] >= self._most_each:
            return (
                f"{self._most_each} connections come from {came_from}: close some, or"
                " raise max_connections_per_address"
            )
        self._taken[came_from] += 1
        self._total += 1
        return ""

    def leave(self, came_from: str) -> None:
        """Count one less."""
        self._total -= 1
        self._taken[came_from] -= 1
        if not self._taken[came_from]:
            del self._taken[came_from]


def origin(host: str) -> str:
    """Return what connections are counted by: an address, or of IPv6 its /64.

    Who has one address of IPv6 has 2^64 of them.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
