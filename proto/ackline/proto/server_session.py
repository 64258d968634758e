"""A server's session: its streams, its tokens, and resuming both (SPEC.md §8)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.messages import ResumedStream, ResumeStream, Standing

if TYPE_CHECKING:
    from ackline.proto.server_connection import ServerConnection
    from ackline.proto.stream import Stream

__all__ = ["ServerSession", "TokenCheck", "Tokens", "resume_stream", "sender_standing"]

HEAD = 512
"""Bytes, at most, of OPENED or RESUMED besides the names of kinds."""


class TokenCheck(Enum):
    """What a presented token is."""

    VALID = "valid"
    SUPERSEDED = "superseded"
    INVALID = "invalid"


class Tokens:
    """The hashes of a session's tokens (SPEC.md §8.1).

    Attributes:
        current: the token that was confirmed last.
        successor: one that was issued since and is not confirmed yet.
        superseded: the one before `current`: told from a wrong one, for the log.
    """

    __slots__ = ("current", "successor", "superseded")

    def __init__(
        self,
        current: bytes,
        successor: bytes | None = None,
        superseded: bytes | None = None,
    ) -> None:
        self.current = current
        self.successor = successor
        self.superseded = superseded

    def present(self, token_hash: bytes) -> TokenCheck:
        """Check a token; using a successor confirms it."""
        if self.successor is not None and token_hash == self.successor:
            self.confirm()
        if token_hash == self.current:
            return TokenCheck.VALID
        if token_hash == self.superseded:
            return TokenCheck.SUPERSEDED
        return TokenCheck.INVALID

    def issue(self, token_hash: bytes) -> None:
        """Add a successor; one that was never confirmed is replaced."""
        self.successor = token_hash

    def confirm(self) -> None:
        """Make the successor the only valid token."""
        if self.successor is not None:
            self.superseded, self.current = self.current, self.successor
            self.successor = None


class ServerSession:
    """What a server keeps of a session, with or without a connection.

    Attributes:
        session_id, identity: as WELCOME said.
        tokens: hashes only.
        epoch: number of attachments.
        streams: all that were opened and not released, by id.
        highest_id: of all streams ever opened, so that none is used again.
        connection: the one attached, or None.
        detached_at: monotonic seconds since when there is none.
    """

    __slots__ = (
        "connection",
        "detached_at",
        "epoch",
        "highest_id",
        "identity",
        "session_id",
        "streams",
        "tokens",
    )

    def __init__(
        self, session_id: str, identity: str, tokens: Tokens, *, epoch: int = 1
    ) -> None:
        self.session_id = session_id
        self.identity = identity
        self.tokens = tokens
        self.epoch = epoch
        self.streams: dict[int, Stream] = {}
        self.highest_id = 0
        self.connection: ServerConnection | None = None
        self.detached_at = 0.0


def sender_standing(
    stream: Stream, *, verified: bool = False, held: int = 0, held_crc: int = 0
) -> Standing:
    """Return where a sending half stands, for OPENED and RESUMED."""
    sender = stream.sender
    assert sender is not None
    position = sender.stored
    kinds: tuple[str, ...] = ()
    if isinstance(sender, EventSender):
        position, kinds = sender.position, sender.feed.kinds.listed()
    return Standing(
        generation=stream.generation,
        epoch=stream.epoch,
        position=position,
        durable=position,
        limit_units=0,
        limit_bytes=0,
        held=held,
        held_crc=held_crc,
        verified=verified,
        paused=stream.paused_here,
        kinds=kinds,
        outcome=stream.outcome,
    )


def resume_stream(
    stream: Stream, wanted: ResumeStream, connection: ServerConnection
) -> ResumedStream:
    """Bring one stream back on a new connection (SPEC.md §8.2).

    Everything received on the old connection has been stored or dropped. A server opens
    what it sends in the same way.
    """
    if stream.outcome is not None:
        connection.adopt([stream])
        return ResumedStream(stream.id, 0, "", _outcome_standing(stream))
    if wanted.generation and wanted.generation != stream.generation:
        return _gone(stream, Code.GENERATION_CHANGED, "it was deleted and made again")
    connection.adopt([stream])
    stream.peer_paused(paused=wanted.paused)
    if stream.receiver is not None:
        stream.receiver.attach()
        if stream.receiver.stored < wanted.position:
            return _gone(
                stream,
                Code.POSITION_LOST,
                f"position {wanted.position} was acknowledged, {stream.receiver.stored}"
                " is what is left: call a person",
            )
        return ResumedStream(stream.id, 0, "", stream.receiver.standing())
    if isinstance(stream.sender, EventSender):
        return _resume_events(stream, stream.sender, wanted, connection)
    assert isinstance(stream.sender, ChunkSender)
    return _resume_chunks(stream, stream.sender, wanted)


def _resume_events(
    stream: Stream,
    sender: EventSender,
    wanted: ResumeStream,
    connection: ServerConnection,
) -> ResumedStream:
    feed, position = sender.feed, wanted.position
    if position > feed.next_id:
        return _gone(
            stream,
            Code.POSITION_BEYOND,
            f"position {position} was asked for, the newest is {feed.next_id}",
        )
    if position < feed.first_id:
        return _gone(
            stream,
            Code.POSITION_TRIMMED,
            f"position {position} was asked for, {feed.first_id} is the oldest kept",
        )
    names = sum(len(name.encode()) + 2 for name in feed.kinds.listed())
    if names + HEAD > connection.peer_payload:
        return _gone(
            stream,
            Code.LIMIT_EXCEEDED,
            f"the names of its kinds take {names} bytes and have to fit one frame; your"
            f" max_payload is {connection.peer_payload}: raise it",
        )
    verified = None if wanted.proof is None else sender.verify(wanted.proof)
    if verified is False:
        return _gone(
            stream,
            Code.PROOF_MISMATCH,
            f"the client holds other events before {position}",
        )
    sender.begin(wanted.window_units, wanted.window_bytes)
    sender.move(position)
    return ResumedStream(
        stream.id, 0, "", sender_standing(stream, verified=bool(verified))
    )


def _resume_chunks(
    stream: Stream, sender: ChunkSender, wanted: ResumeStream
) -> ResumedStream:
    total = sender.total
    if total is not None and wanted.position > total:
        return _gone(
            stream,
            Code.POSITION_BEYOND,
            f"chunk {wanted.position} was asked for, there are {total}",
        )
    # The proof is over what the client has stored; it may have received more.
    proof = wanted.proof
    ours = None if proof is None else sender.prefix_crc(proof.position)
    verified = ours is not None
    if proof is not None and verified and proof.bodies_crc != ours:
        return _gone(
            stream,
            Code.PROOF_MISMATCH,
            f"the client holds other bytes before chunk {wanted.position}",
        )
    position, held = wanted.position, wanted.held
    length = max(0, sender.length_of(position))
    if held > length:
        return _gone(
            stream,
            Code.POSITION_BEYOND,
            f"chunk {position} has {length} bytes, {held} were said to be held",
        )
    if held and held == length:
        # Who has only a file cannot know that its last, short chunk is whole.
        if sender.crc_of(position) not in (None, wanted.held_crc):
            return _gone(
                stream,
                Code.PROOF_MISMATCH,
                f"the client holds other bytes of chunk {position}",
            )
        position, held = position + 1, 0
    held_crc = wanted.held_crc if held else 0
    sender.begin(wanted.window_units, wanted.window_bytes)
    sender.move(position, held=held, held_crc=held_crc)
    return ResumedStream(
        stream.id,
        0,
        "",
        sender_standing(stream, verified=verified, held=held, held_crc=held_crc),
    )


def _outcome_standing(stream: Stream) -> Standing:
    assert stream.outcome is not None
    position = stream.outcome.position
    return Standing(
        generation=stream.generation,
        epoch=stream.epoch,
        position=position,
        durable=position,
        limit_units=0,
        limit_bytes=0,
        outcome=stream.outcome,
    )


def _gone(stream: Stream, code: Code, text: str) -> ResumedStream:
    return ResumedStream(stream.id, code, text, None)
