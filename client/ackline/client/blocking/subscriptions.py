"""A subscription, for programs without asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ackline.client.blocking.streams import Stream
from ackline.client.subscriptions import Subscription as AsyncSubscription

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from ackline.proto.batches import Event, Gap
    from ackline.proto.entries import LeftOut
    from ackline.proto.messages import Outcome
    from ackline.proto.policies import Policy

__all__ = ["Subscription"]


class Subscription(Stream[AsyncSubscription]):
    """Events in order, each once: `ackline.client.Subscription` that waits.

    One thread at a time iterates; `cancel()` and `close()` may come from another.
    """

    def __enter__(self) -> Self:
        self.portal.call(self.stream.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.portal.usable:
            self.close()

    def __iter__(self) -> Generator[Event | Gap, None, None]:
        # One way to the loop's thread and back for each batch.
        while (events := self.portal.call(self.stream.advance())) is not None:
            yield from events

    def batches(self) -> Generator[list[Event | Gap], None, None]:
        """Yield events in lists, as they arrived: for those who write them in bulk."""
        batches = self.stream.batches()
        while (events := self.portal.call(anext(batches, None))) is not None:
            yield events

    def ack(self, event_id: int) -> None:
        """State that the application keeps everything up to this event."""
        self.portal.do(lambda: self.stream.ack(event_id))

    def close(self) -> None:
        """Leave. What was not delivered stays where it is; nothing is cancelled.

        With `on_exit="cancel"` a run is cancelled, if it has not ended, and waited for.
        """
        self.portal.call(self.stream.close())

    def cancel(self, *, work: bool = False, text: str = "") -> Outcome:
        """End this subscription, and with `work` the run behind it."""
        return self.portal.call(self.stream.cancel(work=work, text=text))

    @property
    def waiting(self) -> bool:
        """Whether events have arrived that were not delivered yet."""
        return self.stream.waiting

    @property
    def position(self) -> int:
        """The id after the last event that was delivered."""
        return self.stream.position

    @property
    def received(self) -> int:
        """How many events came so far, gaps not counted."""
        return self.stream.received

    @property
    def left_out(self) -> LeftOut:
        """How many events are gaps so far, by reason."""
        return self.stream.left_out

    @property
    def generation(self) -> int:
        """Of the log or run; a log made again has another."""
        return self.stream.generation

    @property
    def policy(self) -> Policy:
        """What happens when this side is slow, and for how long an event may linger."""
        return self.stream.policy

    @property
    def run_id(self) -> str:
        """The run behind this subscription; "" for a log."""
        return self.stream.run_id

    @property
    def durable(self) -> bool:
        """Whether the events are on the server's disk, and not only in its memory."""
        return self.stream.durable

    @property
    def resumption(self) -> Literal["replay", "recompute", "none"]:
        """How the source resumes: `none` ends with its last consumer's connection."""
        return self.stream.resumption
