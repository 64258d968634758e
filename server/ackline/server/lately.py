"""What has ended lately, for people who look."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from ackline.proto.errors import code_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ackline.proto.messages import Outcome
    from ackline.server.handler import Handler

__all__ = ["Ended", "Lately", "failure"]

KEPT = 100
"""Streams remembered."""


class Ended(Struct, frozen=True):
    """A stream that has ended.

    Attributes:
        at: unix seconds.
        id: `SESSION/STREAM`.
        use: upload, fetch, publish or subscribe.
        name, resource: what it was about, and its stable id.
        identity: whose it was.
        position: where the outcome was decided.
        outcome: COMPLETED, FAILED or CANCELLED.
        error: code and text, empty if there is nothing to say.
    """

    at: float
    id: str
    use: str
    name: str
    resource: str
    identity: str
    position: int
    outcome: str
    error: str


class Lately:
    """The last streams that ended, in memory."""

    def __init__(self) -> None:
        self._ended = deque[Ended](maxlen=KEPT)

    def add(self, handler: Handler, outcome: Outcome) -> None:
        """Take note of one more."""
        stream = handler.stream
        self._ended.append(
            Ended(
                at=outcome.decided,
                id=f"{handler.session.session_id}/{stream.id}",
                use=stream.use.name.lower(),
                name=handler.name,
                resource=stream.resource,
                identity=handler.session.identity,
                position=outcome.position,
                outcome=outcome.outcome.name,
                error=failure(outcome),
            )
        )

    def __iter__(self) -> Iterator[Ended]:
        """The newest first."""
        return reversed(self._ended)


def failure(outcome: Outcome | None) -> str:
    """Return code and text of an outcome that has a code."""
    if outcome is None or not outcome.code:
        return ""
    return f"{code_name(outcome.code)}: {outcome.text}"
