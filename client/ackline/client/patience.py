"""What comes after a connection: how long to wait, and when there is no sense in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ackline.client.addresses import parse_url
from ackline.client.backoff import Backoff, spread
from ackline.proto.errors import (
    Code,
    ConnectionLost,
    Refused,
    TakenOver,
    UsageError,
)
from ackline.proto.limits import MAX_REDIRECTS

if TYPE_CHECKING:
    from ackline.client.addresses import Address
    from ackline.client.options import ClientOptions
    from ackline.proto.messages import GoAway, Redirect
    from ackline.proto.notices import ConnectionFailed

__all__ = ["BAD_TOKENS", "Attempt", "Patience"]

LONG_ENOUGH = 10.0
"""Seconds after which a connection was of use, whatever it moved (SPEC.md §17)."""

SHORTEST_TRY = 0.05
"""Seconds that the last attempt before giving up has, at least."""

STUBBORN = 3
"""Times in a row that the same error, which trying again does not mend, may end a
connection before the client takes it for final."""

FINAL = frozenset({Code.UNAUTHENTICATED, Code.UNSUPPORTED_VERSION})
BAD_TOKENS = frozenset({Code.TOKEN_SUPERSEDED, Code.TOKEN_INVALID})


class Attempt(Struct):
    """One connection, from the first try to its end.

    Attributes:
        began: when, in seconds of the loop's clock.
        established: whether the server answered and the session is there.
        resumed: whether it is the session of before.
        moved: whether it moved anything.
        reason: why it ended.
        failed: the ERROR it ended with, if it did.
        session_code: why RESUMED resumed nothing.
        left: the server's GOAWAY.
        redirect: the server's REDIRECT.
    """

    began: float
    established: bool = False
    resumed: bool = False
    moved: bool = False
    reason: str = ""
    failed: ConnectionFailed | None = None
    session_code: int = 0
    left: GoAway | None = None
    redirect: Redirect | None = None

    @property
    def retry_after(self) -> float:
        """Seconds the server asked for."""
        asked = [self.failed, self.left, self.redirect]
        return max(each.retry_after if each is not None else 0.0 for each in asked)


class Patience:
    """Looks back over the connections so far.

    After each one call `judge()`, then `delay()`.

    Attributes:
        address: where to connect to next.
        lost_at: since when there is no connection.
    """

    def __init__(self, address: Address, options: ClientOptions) -> None:
        self.address = address
        self.lost_at = 0.0
        self._options = options
        self._backoff = Backoff(options.backoff_first, options.backoff_last)
        self._redirects = 0
        self._stubborn: tuple[int, int] = (0, 0)

    @property
    def attempt(self) -> int:
        """Number of the next attempt since the last connection that was of use."""
        return self._backoff.attempts + 1

    def connecting(self, now: float) -> float:
        """Return the seconds that the next attempt may take."""
        patience, limit = self._options.connect_timeout, self._options.give_up_after
        if limit is not None:
            patience = min(patience, max(limit - (now - self.lost_at), SHORTEST_TRY))
        return patience

    def judge(self, attempt: Attempt, *, first: bool) -> None:
        """Raise if there is no sense in a further connection.

        Args:
            attempt: the one that ended.
            first: whether no connection was ever established.
        """
        failed = attempt.failed
        if attempt.session_code in BAD_TOKENS:
            raise ConnectionLost(
                "the session cannot be resumed: " + attempt.reason,
                code=attempt.session_code,
            )
        if failed is not None:
            if failed.code == Code.TAKEN_OVER:
                raise TakenOver
            if failed.code in FINAL:
                raise Refused(failed.code, failed.text, resource=str(self.address))
            if attempt.established:
                self._count(failed)
        if first and not self._options.wait_for_server and attempt.redirect is None:
            code = failed.code if failed is not None else None
            raise ConnectionLost(attempt.reason, code=code)

    def delay(self, attempt: Attempt, now: float) -> float:
        """Return how long to wait before the next attempt.

        Raises:
            ConnectionLost: there was no connection for too long, or the redirects lead
                nowhere.
        """
        if attempt.established and (
            attempt.moved or now - attempt.began >= LONG_ENOUGH
        ):
            self._backoff.reset()
        if attempt.redirect is not None:
            self._follow(attempt.redirect)
            return spread(attempt.retry_after)
        self._redirects = 0
        if attempt.left is not None and attempt.established:
            return spread(attempt.retry_after)
        delay = self._backoff.delay(at_least=attempt.retry_after)
        limit = self._options.give_up_after
        if limit is not None and now + delay - self.lost_at > limit:
            raise ConnectionLost(
                f"there was no connection for {limit:g} s: {attempt.reason}"
            )
        return delay

    def _count(self, failed: ConnectionFailed) -> None:
        """Give up on what no further try mends."""
        known = failed.code in Code.__members__.values()
        if failed.retry or (known and Code(failed.code).retry):
            self._stubborn = (0, 0)
            return
        code, times = self._stubborn
        times = times + 1 if code == failed.code else 1
        self._stubborn = (failed.code, times)
        if times >= STUBBORN:
            raise ConnectionLost(
                f"the connection ended {times} times in a row by: {failed.text}",
                code=failed.code,
            )

    def _follow(self, redirect: Redirect) -> None:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise ConnectionLost(
                f"more than {MAX_REDIRECTS} redirects in a row, the last one to"
                f" {redirect.url}"
            )
        try:
            address = parse_url(redirect.url)
        except UsageError as error:
            raise ConnectionLost(f"a redirect to nowhere: {error}") from None
        if self.address.tls and not address.tls:
            raise ConnectionLost(f"a redirect away from TLS, to {address}")
        self.address = address
