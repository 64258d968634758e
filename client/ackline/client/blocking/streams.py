"""What a subscription and a publisher have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ackline.client.handles import Handle

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.client.blocking.portal import Portal
    from ackline.proto.messages import Outcome

__all__ = ["Stream"]

H = TypeVar("H", bound=Handle)


class Stream(Generic[H]):
    """A stream that lives in the portal's thread."""

    def __init__(self, portal: Portal, stream: H) -> None:
        self._portal = portal
        self._stream = stream

    @property
    def resource(self) -> str:
        """The stable resource of the stream, such as `runs/ID` or `logs/NAME`."""
        return self._stream.resource

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None before that."""
        return self._stream.outcome

    @property
    def resumes(self) -> int:
        """Connections it was brought back on, after the first."""
        return self._stream.resumes

    def pause(self, text: str = "") -> None:
        """Have the sender begin no new unit, over reconnects too."""
        self._do(lambda: self._stream.pause(text))

    def unpause(self) -> None:
        """End `pause()`."""
        self._do(self._stream.unpause)

    def _do(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, and wait for it."""

        async def call() -> None:
            function()

        self._portal.call(call())
