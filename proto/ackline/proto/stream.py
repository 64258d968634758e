"""One stream: its identity, its state, and its sending or receiving half.

A stream outlives connections: `attached()` and `detached()` are called by them, and
`connection` is None in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.lifecycle import Lifecycle, PauseReason
from ackline.proto.messages import Outcome, Use
from ackline.proto.notices import ChunkWanted, SenderHeld, StoredMoved, StreamBroken

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.connection import Connection
    from ackline.proto.messages import Cancel, Open, Opened, Standing
    from ackline.proto.notices import Notice
    from ackline.proto.receiver import Receiver
    from ackline.proto.sender import Sender

__all__ = ["DEFAULT_PRIORITIES", "Stream"]

DEFAULT_PRIORITIES = {True: 4, False: 2}
"""By whether the units are chunks: a token must not wait behind a file."""


class Stream:
    """A stream on one side.

    Attributes:
        id: in its session.
        open: the OPEN that made it; a server may let go of it, see `answered()`.
        notify: takes its notices, with or without a connection.
        sender, receiver: its half; exactly one of them, once it is known.
        resource: the stable id from OPENED (`uploads/ID`, `runs/ID`, `logs/NAME`, …).
        generation, epoch: as OPENED said.
        outcome: once decided.
        opened: whether OPENED was ever sent or received.
        established: client: whether the present session knows the stream, as OPENED
            says; a stream that was opened again in a new session waits for it.
        cancelling: whether CANCEL was sent or received.
        cancel: client: the CANCEL, to be sent again until the outcome is known.
        context: whatever the layer above keeps with the stream.
    """

    __deletable__: ClassVar = ["open"]  # for the compiler: see `answered()`
    __slots__ = (
        "cancel",
        "cancelling",
        "connection",
        "context",
        "epoch",
        "established",
        "generation",
        "id",
        "last_opened",
        "lifecycle",
        "notify",
        "open",
        "opened",
        "outcome",
        "paused_here",
        "paused_there",
        "receiver",
        "released",
        "resource",
        "sender",
        "use",
    )

    def __init__(
        self, stream_id: int, message: Open, *, notify: Callable[[Notice], None]
    ) -> None:
        self.id = stream_id
        self.open = message
        self.use = Use(message.use)
        self.notify = notify
        self.lifecycle = Lifecycle()
        self.sender: Sender | None = None
        self.receiver: Receiver | None = None
        self.connection: Connection | None = None
        self.resource = message.resource
        self.generation = 0
        self.epoch = 0
        self.outcome: Outcome | None = None
        self.opened = False
        self.established = False
        self.last_opened: Opened | None = None
        self.cancelling = False
        self.cancel: Cancel | None = None
        self.released = False
        self.paused_here = False
        self.paused_there = False
        self.context: Any = None

    @property
    def priority(self) -> int:
        """Class of the scheduler, 0 (first) to 7."""
        priority = self.open.priority
        return DEFAULT_PRIORITIES[self.use.chunks] if priority is None else priority

    @property
    def ended(self) -> bool:
        """Whether the outcome is known or nobody wants the stream any more."""
        return self.outcome is not None or self.released

    @property
    def paused(self) -> bool:
        """Whether either side has paused."""
        return self.paused_here or self.paused_there

    def answered(self) -> None:
        """Server: let go of the OPEN, if it says nothing that is asked for later.

        An idle subscription would hold 0.5 KB for it.
        """
        del self.open

    # Connections

    def attached(self, connection: Connection) -> None:
        """Take note of the connection that carries the stream from now on."""
        self.connection = connection
        self.lifecycle.continue_(PauseReason.DISCONNECTED)

    def detached(self) -> None:
        """Take note that the connection is gone."""
        self.connection = None
        self.lifecycle.pause(PauseReason.DISCONNECTED)
        half = self.sender or self.receiver
        if half is not None:
            half.detach()

    def go_on(self, standing: Standing) -> None:
        """Client: continue where the server stands (SPEC.md §8.2)."""
        self.generation, self.epoch = standing.generation, standing.epoch
        self.peer_paused(paused=standing.paused)
        if self.sender is not None:
            try:
                self.sender.attach(standing)
            except ProtocolViolation as violation:
                self.broken(violation.code, violation.text)

    def opened_early(self, standing: Standing) -> None:
        """Client: go on after data was sent without waiting for OPENED."""
        assert self.sender is not None
        self.epoch = standing.epoch
        self.peer_paused(paused=standing.paused)
        try:
            self.sender.opened_early(standing)
        except ProtocolViolation as violation:
            self.broken(violation.code, violation.text)

    # What the halves say

    def notice(self, notice: Notice) -> None:
        """Pass a notice on."""
        self.notify(notice)

    def unit_moved(self) -> None:
        """Take note that a unit was sent or received."""
        self.lifecycle.unit()

    def stored_moved(self, position: int) -> None:
        """Tell that the receiver keeps everything before `position`."""
        self.notify(StoredMoved(self, position))

    def sender_held(self, code: int) -> None:
        """Tell what the receiver is short of."""
        self.notify(SenderHeld(self, code))

    def wants_chunk(self) -> None:
        """Tell that the sender may want chunks."""
        if self.connection is not None and not self.ended:
            self.notify(ChunkWanted(self))

    def broken(self, code: int, text: str) -> None:
        """Tell that the two sides disagree."""
        self.notify(StreamBroken(self, code, text))

    def ack_due(self) -> None:
        """Have an ACK sent with the next write.

        Before OPENED there is none (SPEC.md §4): the window is in OPEN, or will be in
        OPENED.
        """
        if self._acknowledging and self.connection is not None:
            self.connection.ack_due(self)

    def ack_soon(self) -> bool:
        """Have an ACK sent shortly, unless one is due before; return whether it is."""
        if not self._acknowledging or self.connection is None:
            return False
        self.connection.ack_soon(self)
        return True

    def conflict(self, index: int) -> None:
        """Refuse a stored chunk that came with other bytes; nothing changes."""
        if self.connection is not None:
            self.connection.refuse(
                self,
                Code.CHECKSUM_CONFLICT,
                f"chunk {index} is stored with another checksum; the file was changed:"
                " upload it under a new key",
            )

    # Pause and outcome

    def pause(self, *, paused: bool, text: str = "") -> None:
        """Pause or continue, from this side."""
        if paused == self.paused_here:
            return
        self.paused_here = paused
        self._reason(
            PauseReason.BY_CLIENT if self._of_client else PauseReason.BY_SERVER,
            paused=paused,
        )
        if self.connection is not None:
            self.connection.pause_due(self, text)
        self._woken()

    def peer_paused(self, *, paused: bool) -> None:
        """Take note that the peer has paused or continued."""
        if paused == self.paused_there:
            return
        self.paused_there = paused
        self._reason(
            PauseReason.BY_SERVER if self._of_client else PauseReason.BY_CLIENT,
            paused=paused,
        )
        self._woken()

    def decide(self, outcome: Outcome) -> bool:
        """Record the outcome; return False if there was one, which stays.

        On a server this also sends it.
        """
        if self.outcome is not None:
            return False
        self.outcome = outcome
        self.lifecycle.end(outcome.outcome)
        self.close()
        connection = self.connection
        if connection is not None and not connection.is_client:
            connection.outcome_due(self)
        return True

    def close(self) -> None:
        """Give back what the half holds: nothing more comes or goes."""
        half = self.sender or self.receiver
        if half is not None:
            half.close()

    @property
    def _acknowledging(self) -> bool:
        """Whether the other side takes an ACK: it knows the stream in this session."""
        known = self.established if self._of_client else self.opened
        return known and not self.ended

    @property
    def _of_client(self) -> bool:
        """Whether this is the client's side, known without a connection too.

        A receiving half is there from the beginning, a sending one perhaps later.
        """
        return (self.receiver is None) == self.use.client_sends

    def _reason(self, reason: PauseReason, *, paused: bool) -> None:
        if paused:
            self.lifecycle.pause(reason)
        else:
            self.lifecycle.continue_(reason)

    def _woken(self) -> None:
        if self.sender is not None and not self.paused:
            self.sender.wake()
