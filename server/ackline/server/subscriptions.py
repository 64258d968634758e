"""Subscriptions: what cursors on logs and runs have in common (SPEC.md §9, §11)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING

from msgspec import structs

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.event_sender import EventSender
from ackline.proto.messages import (
    Durability,
    OnTrimmed,
    OutcomeKind,
    Resumes,
    ResumeStream,
    Start,
    SubscribeDetail,
    SubscribeOpened,
    open_detail,
)
from ackline.proto.notices import StoredMoved
from ackline.proto.policies import BLOCK, parse_policy
from ackline.proto.policy_sender import PolicySender
from ackline.proto.server_session import resume_stream
from ackline.server import outcomes
from ackline.server.handler import Answer, Handler
from ackline.server.logfeed import LogFeed
from ackline.server.refusals import Refusal, code_of, refusal_of

if TYPE_CHECKING:
    from ackline.proto.messages import Proof
    from ackline.proto.notices import Notice
    from ackline.proto.runfeed import RunFeed
    from ackline.proto.stream import Stream
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.errors import StoreError

__all__ = ["Subscription"]

log = logging.getLogger(__name__)


class Subscription(Handler):
    """A cursor: what logs and runs have in common.

    Attributes:
        detail: what OPEN asks for; gone once that is answered.
        policy: what the client gets when it is behind.
    """

    __slots__ = ("_existing", "_start", "detail", "policy")

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        detail = open_detail(stream.open)
        assert isinstance(detail, SubscribeDetail)
        self.detail = detail
        self._start = 0
        self._existing = False
        try:
            self.policy = parse_policy(
                detail.policy, detail.policy_value, detail.linger
            )
        except ProtocolViolation as violation:
            raise refusal_of(violation) from None

    @property
    @abstractmethod
    def durability(self) -> Durability:
        """How the events are kept."""

    @property
    def position(self) -> int:
        """The id after the last event sent."""
        sender = self.stream.sender
        return self._start if sender is None else sender.sent_position

    @property
    def stored_position(self) -> int:
        """The id after the last event the client keeps."""
        sender = self.stream.sender
        return self._start if sender is None else sender.acknowledged_units

    @property
    def sender(self) -> EventSender:
        """The sending half."""
        assert isinstance(self.stream.sender, EventSender)
        return self.stream.sender

    @property
    @abstractmethod
    def feed(self) -> LogFeed | RunFeed:
        """Where the events come from."""

    @property
    @abstractmethod
    def opened_detail(self) -> SubscribeOpened:
        """What OPENED says of the source."""

    def answer(self) -> Answer:
        """Begin where the client asked for, if its proof holds.

        Raises:
            Refusal: that position is not there, or the client holds other events.
        """
        stream, message = self.stream, self.stream.open
        if self.recorded is not None:
            return Answer(
                existing=True,
                durability=self.durability,
                detail=SubscribeOpened(resumes=Resumes.REPLAY, first=0),
                standing=self.end_as_recorded(self.recorded),
            )
        self._make_sender()
        resumed = resume_stream(
            stream,
            ResumeStream(
                stream_id=stream.id,
                generation=self.detail.generation,
                position=self._start,
                held=0,
                held_crc=0,
                proof=self.detail.proof,
                window_units=message.window_units,
                window_bytes=message.window_bytes,
            ),
            self.service.connection_of(stream),
        )
        if resumed.code or resumed.standing is None:
            raise Refusal(Code(resumed.code), resumed.text)
        return Answer(
            existing=self._existing,
            durability=self.durability,
            detail=self.opened_detail,
            standing=resumed.standing,
        )

    def opened(self) -> None:
        """Let go of what was asked for: there are many idle subscriptions."""
        super().opened()
        self.target = ""
        self.stream.answered()
        del self.detail

    def noticed(self, notice: Notice) -> None:
        """See whether the client has everything."""
        if not isinstance(notice, StoredMoved):
            return
        end = self.sender.end
        if self.sender.end_acknowledged and end is not None:
            self.decide(outcomes.ended(end.intent, end.code, end.text, self.position))

    async def settle(self, wanted: ResumeStream) -> None:
        """Nothing comes from the client that would have to be stored."""

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """End this cursor."""
        self.decide(outcomes.ended(kind, code, text, self.position))

    def close(self) -> None:
        """Leave the feed."""
        if self.stream.sender is not None:
            self.sender.close()

    def part(self) -> None:
        """Leave no cycle behind: with the half, and with the feed it reads."""
        self._start = self.position
        super().part()
        self._half = None

    def feed_failed(self, error: StoreError) -> None:
        """Fail: the feed cannot go on."""
        self.fail_soon(code_of(error), str(error))

    @property
    def progress(self) -> str:
        """Policy, position and what was left out, for people."""
        words = [f"{self.policy} at {self.position}"]
        if isinstance(self.stream.sender, EventSender):
            counts = structs.asdict(self.stream.sender.left_out)
            words += [f"{count} {name}" for name, count in counts.items() if count]
        return ", ".join(words)

    @property
    def whereabouts(self) -> str:
        """Session, stream and address, for people."""
        connection = self.stream.connection
        words = f"stream {self.stream.id} of sessions/{self.session.session_id}"
        if connection is None:
            return words
        peer = self.service.client_of(self.service.connection_of(self.stream)).peer
        return f"{words} from {peer}"

    @property
    def blocks(self) -> bool:
        """Whether nothing may be left out that the client has not got."""
        return self.policy.blocks

    @property
    def tells_gaps(self) -> bool:
        """Whether the feed tells what is not retained; else the policy does."""
        return self.blocks and self._gap_will_do

    @property
    def _gap_will_do(self) -> bool:
        return self.detail.on_trimmed == OnTrimmed.GAP

    def _make_sender(self) -> None:
        stream, start = self.stream, self._start
        if self.policy is BLOCK:
            stream.sender = EventSender(
                stream, self.feed, position=start, priority=stream.priority
            )
        else:
            stream.sender = PolicySender(
                stream, self.feed, position=start, policy=self.policy
            )

    def _begin_at(self, first: int, following: int) -> int:
        """Return where to begin in events from `first` to before `following`."""
        value = self.detail.value
        match self.detail.start:
            case Start.FIRST:
                return first
            case Start.LAST:
                return max(first, following - 1)
            case Start.LAST_EVENTS:
                return max(first, following - value)
            case Start.NEXT:
                return following
            case Start.ID:
                if value < first and not self.blocks and not self._gap_will_do:
                    # Later on, with this policy, it would be a gap.
                    raise Refusal(
                        Code.POSITION_TRIMMED,
                        f"position {value} was asked for, {first} is the oldest kept",
                    )
                return value
            case Start.TIME:
                raise Refusal(
                    Code.UNSUPPORTED, "the events of a run have no time: use an id"
                )

    def _proof_positions(self, proof: Proof | None, position: int) -> list[int]:
        positions = [position]
        if proof is not None:
            positions += [proof.base, proof.position]
        return positions
