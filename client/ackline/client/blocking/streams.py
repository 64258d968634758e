"""What a subscription and a publisher have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ackline.client.handles import Handle

if TYPE_CHECKING:
    from ackline.client.blocking.portal import Portal
    from ackline.proto.messages import Outcome

__all__ = ["Stream"]

H = TypeVar("H", bound=Handle)


class Stream(Generic[H]):
    """A stream that lives in the portal's thread.

    Attributes:
        portal, stream: the way to that thread, and the stream that is there.
    """

    def __init__(self, portal: Portal, stream: H) -> None:
        self.portal = portal
        self.stream = stream

    @property
    def resource(self) -> str:
        """The stable resource of the stream, such as `runs/ID` or `logs/NAME`."""
        return self.stream.resource

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None before that."""
        return self.stream.outcome

    @property
    def resumes(self) -> int:
        """Connections it was brought back on, after the first."""
        return self.stream.resumes

    def pause(self, text: str = "") -> None:
        """Have the sender begin no new unit, over reconnects too."""
        self.portal.do(lambda: self.stream.pause(text))

    def unpause(self) -> None:
        """End `pause()`."""
        self.portal.do(self.stream.unpause)
