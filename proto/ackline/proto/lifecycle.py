"""The states of a stream: one table for both ends and both directions (`SPEC.md §14`).

A test compares `TRANSITIONS` with the table printed in SPEC.md.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ackline.proto.errors import UsageError
from ackline.proto.messages import OutcomeKind

__all__ = ["TERMINAL", "TRANSITIONS", "Input", "Lifecycle", "PauseReason", "State"]


class State(Enum):
    """Where a stream is in its life."""

    CREATED = "CREATED"
    STREAMING = "STREAMING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Input(Enum):
    """What moves a stream from one state to another."""

    UNIT = "unit"
    PAUSE = "pause"
    CONTINUE = "continue"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


class PauseReason(Enum):
    """Why a stream is paused; several can hold at once."""

    DISCONNECTED = "disconnected"
    BY_CLIENT = "by_client"
    BY_SERVER = "by_server"


#: The states that no input leaves: the first outcome wins.
TERMINAL: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})

TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.CREATED, Input.UNIT): State.STREAMING,
    (State.CREATED, Input.PAUSE): State.CREATED,
    (State.CREATED, Input.CONTINUE): State.CREATED,
    (State.CREATED, Input.COMPLETE): State.COMPLETED,
    (State.CREATED, Input.FAIL): State.FAILED,
    (State.CREATED, Input.CANCEL): State.CANCELLED,
    (State.STREAMING, Input.UNIT): State.STREAMING,
    (State.STREAMING, Input.PAUSE): State.PAUSED,
    (State.STREAMING, Input.CONTINUE): State.STREAMING,
    (State.STREAMING, Input.COMPLETE): State.COMPLETED,
    (State.STREAMING, Input.FAIL): State.FAILED,
    (State.STREAMING, Input.CANCEL): State.CANCELLED,
    (State.PAUSED, Input.UNIT): State.PAUSED,
    (State.PAUSED, Input.PAUSE): State.PAUSED,
    (State.PAUSED, Input.CONTINUE): State.STREAMING,
    (State.PAUSED, Input.COMPLETE): State.COMPLETED,
    (State.PAUSED, Input.FAIL): State.FAILED,
    (State.PAUSED, Input.CANCEL): State.CANCELLED,
    **{(state, each): state for state in TERMINAL for each in Input},
}

_ENDINGS: Final[dict[OutcomeKind, Input]] = {
    OutcomeKind.COMPLETED: Input.COMPLETE,
    OutcomeKind.FAILED: Input.FAIL,
    OutcomeKind.CANCELLED: Input.CANCEL,
}

_NO_REASONS: Final[frozenset[PauseReason]] = frozenset()


class Lifecycle:
    """The state of one stream and the reasons it is paused for.

    Attributes:
        state: Read it freely; only the methods change it.
        ended: Whether the stream has its outcome. Kept, because it is asked for each
            event: an enum's hash is a Python call.
        reasons: The pause reasons that hold. They are kept in CREATED too. Frozen: all
            streams share the empty one; a set of its own takes 216 bytes.
    """

    __slots__ = ("ended", "reasons", "state")

    def __init__(self) -> None:
        self.state = State.CREATED
        self.ended = False
        self.reasons = _NO_REASONS

    def unit(self) -> None:
        """Take note that a unit was sent or received.

        In-flight units are accepted while paused, so PAUSED stays PAUSED. The first
        unit of a stream paused before it goes to PAUSED at once.
        """
        if self.state is State.STREAMING:  # nearly every call
            return
        self._apply(Input.UNIT)
        if self.reasons:
            self._apply(Input.PAUSE)

    def pause(self, reason: PauseReason) -> None:
        """Add a pause reason; adding one that holds already changes nothing."""
        self.reasons |= {reason}
        self._apply(Input.PAUSE)

    def continue_(self, reason: PauseReason) -> None:
        """Remove a pause reason; the stream goes on when none is left."""
        self.reasons = self.reasons - {reason} or _NO_REASONS
        if not self.reasons:
            self._apply(Input.CONTINUE)

    def end(self, kind: OutcomeKind) -> bool:
        """Record the outcome.

        Returns:
            Whether this outcome is the one that holds: False if the stream had one.

        Raises:
            UsageError: *still stopping* is a message on the way, not an outcome.
        """
        ending = _ENDINGS.get(kind)
        if ending is None:
            raise UsageError(f"{kind.name} ends no stream; wait for its outcome")
        decided = not self.ended
        self._apply(ending)
        return decided

    def _apply(self, moved_by: Input) -> None:
        self.state = TRANSITIONS[self.state, moved_by]
        self.ended = self.state in TERMINAL
