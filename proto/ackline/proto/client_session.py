"""A client's session: its streams, its token, and how to bring both back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.messages import (
    FetchDetail,
    OnTrimmed,
    Open,
    PublishDetail,
    ResumeStream,
    Session,
    Start,
    SubscribeDetail,
    UploadDetail,
    open_detail,
    raw,
)
from ackline.proto.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.notices import Notice

__all__ = ["ClientSession"]


class ClientSession:
    """What a client keeps between connections.

    Attributes:
        session: id, newest token and epoch; None before the first WELCOME.
        streams: all that have not ended, by id.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self.streams: dict[int, Stream] = {}
        self._next_id = 1

    def new_stream(self, message: Open, *, notify: Callable[[Notice], None]) -> Stream:
        """Make a stream; its half is set before a connection opens it."""
        stream = Stream(self._next_id, message, notify=notify)
        self._next_id += 1
        self.streams[stream.id] = stream
        return stream

    def forget(self, stream: Stream) -> None:
        """Keep a stream no longer."""
        self.streams.pop(stream.id, None)

    def renumber(self, stream: Stream) -> None:
        """Give a stream whose OPEN was not answered a new id, to open it again.

        The server may have taken the OPEN, and a later one has perhaps been answered:
        ids only go up in the life of a session (SPEC.md §9.1). What it took under the
        old id is released, because RESUME does not name it.
        """
        self.forget(stream)
        stream.id = self._next_id
        self._next_id += 1
        self.streams[stream.id] = stream

    def resume_streams(self) -> list[ResumeStream]:
        """Return what RESUME says of every stream (SPEC.md §8.2)."""
        return [_resume(stream) for stream in self.established()]

    def established(self) -> list[Stream]:
        """Return the streams that the session knows and that have not ended."""
        return [s for s in self.streams.values() if s.established and not s.ended]

    def reopened(self, stream: Stream) -> Open | None:
        """Return the OPEN that continues a stream in a new session, or None.

        None where only the lost session knew it: a publisher without a name.
        """
        message = stream.open
        detail = open_detail(message)
        window = (0, 0)
        if stream.receiver is not None:
            stream.receiver.attach()
            grant = stream.receiver.grant
            window = (grant.limit_units, grant.limit_bytes)
        resource = message.resource
        if isinstance(detail, UploadDetail):
            detail = structs.replace(detail, early=False)
        elif isinstance(detail, PublishDetail):
            if not message.key and stream.opened:
                return None
        elif isinstance(detail, FetchDetail):
            detail = _fetch_again(stream, detail)
        elif stream.opened:
            detail = _subscribe_again(stream, detail)
            resource = stream.resource
        return structs.replace(
            message,
            resource=resource,
            window_units=window[0],
            window_bytes=window[1],
            detail=raw(detail),
        )


def _resume(stream: Stream) -> ResumeStream:
    held, held_crc, proof, units, size = 0, 0, None, 0, 0
    if stream.receiver is not None:
        receiver = stream.receiver
        receiver.attach()
        position = _position(stream)
        held, held_crc = receiver.held()
        proof = receiver.proof()
        units, size = receiver.grant.limit_units, receiver.grant.limit_bytes
    else:
        assert stream.sender is not None
        position = stream.sender.acknowledged_units
    return ResumeStream(
        stream_id=stream.id,
        generation=stream.generation,
        position=position,
        held=held,
        held_crc=held_crc,
        proof=proof,
        window_units=units,
        window_bytes=size,
        paused=stream.paused_here,
    )


def _position(stream: Stream) -> int:
    receiver = stream.receiver
    if isinstance(receiver, EventReceiver):
        return receiver.position
    assert isinstance(receiver, ChunkReceiver)
    return receiver.wanted


def _fetch_again(stream: Stream, detail: FetchDetail) -> FetchDetail:
    receiver = stream.receiver
    assert isinstance(receiver, ChunkReceiver)
    held, held_crc = receiver.held()
    return structs.replace(
        detail,
        object_id=stream.resource.removeprefix("objects/")
        if stream.opened
        else detail.object_id,
        chunk_size=receiver.chunk_size,
        position=receiver.wanted,
        held=held,
        held_crc=held_crc,
        proof=receiver.proof(),
    )


def _subscribe_again(stream: Stream, detail: SubscribeDetail) -> SubscribeDetail:
    receiver = stream.receiver
    assert isinstance(receiver, EventReceiver)
    receiver.opened_again()
    return structs.replace(
        detail,
        start=Start.ID,
        value=receiver.position,
        # Who agreed to be left behind is not refused for having been away.
        on_trimmed=detail.on_trimmed if detail.policy == "block" else OnTrimmed.GAP,
        generation=stream.generation,
        proof=receiver.proof(),
    )


LOST_PUBLISHER = (
    Code.UNKNOWN_SESSION,
    (
        "the session is gone, and this publisher has no name to continue by:"
        " publish with a key"
    ),
)
"""Why `reopened()` returns None."""
