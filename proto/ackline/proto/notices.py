"""What the core tells the layer above it, in the past tense.

A notice is passed to the `notify` function of its connection or stream at once, while
a frame is taken or a timer handled; whoever gets it must not call back into the
reader.

They are structs, which are defined in a tenth of the time that as many dataclasses take
of the import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from ackline.proto.messages import (
        Cancel,
        Configure,
        Delete,
        Done,
        End,
        Error,
        GoAway,
        Hello,
        List,
        Listed,
        Open,
        Opened,
        Outcome,
        Redirect,
        ResumeStream,
        Seal,
        Status,
        StatusReport,
        Welcome,
    )
    from ackline.proto.stream import Stream

    Request: TypeAlias = List | Status | Delete | Seal | Configure | Cancel
    Reply: TypeAlias = Listed | StatusReport | Done | Outcome | Error

__all__ = [
    "BatchReceived",
    "CancelReceived",
    "ChunkParked",
    "ChunkReceived",
    "ChunkWanted",
    "ConnectionFailed",
    "EndReceived",
    "HelloReceived",
    "Notice",
    "OpenReceived",
    "OutcomeReceived",
    "PeerLeft",
    "PeerPaused",
    "PongReceived",
    "Redirected",
    "ReleaseReceived",
    "ReplyReceived",
    "RequestReceived",
    "ResumeReceived",
    "SenderHeld",
    "SessionConfirmed",
    "SessionResumed",
    "StoredMoved",
    "StreamBroken",
    "StreamError",
    "StreamOpened",
    "StreamRefused",
    "Welcomed",
]


class HelloReceived(Struct, frozen=True):
    """Server: a client says who it is; answer with `welcome()` or `fail()`."""

    hello: Hello


class ResumeReceived(Struct, frozen=True):
    """Server: a client wants its session back; answer with `resumed()`."""

    session_id: str
    token: bytes
    streams: list[ResumeStream]


class SessionConfirmed(Struct, frozen=True):
    """Server: the client has stored the successor token."""

    epoch: int


class Welcomed(Struct, frozen=True):
    """Client: the server's limits are known."""

    welcome: Welcome


class SessionResumed(Struct, frozen=True):
    """Client: RESUMED came; `code` is not 0 if nothing was resumed."""

    code: int
    text: str


class ConnectionFailed(Struct, frozen=True):
    """The connection is over: by our ERROR or the peer's, or a timer.

    `stream_id` is that of the frame that broke a rule here; 0 if none did.
    """

    code: int
    text: str
    by_peer: bool
    retry: bool
    retry_after: float
    stream_id: int = 0


class PeerLeft(Struct, frozen=True):
    """GOAWAY came: from a client it is done, from a server it drains."""

    message: GoAway


class PongReceived(Struct, frozen=True):
    """The PONG to a `Connection.ping()` came."""

    number: int


class Redirected(Struct, frozen=True):
    """Client: connect to another server."""

    message: Redirect


class RequestReceived(Struct, frozen=True):
    """Server: answer with `reply(request_id, message)`."""

    request_id: int
    message: Request


class ReplyReceived(Struct, frozen=True):
    """Client: the answer to a request."""

    request_id: int
    message: Reply


class OpenReceived(Struct, frozen=True):
    """Server: answer with `accept()` or `refuse()`; the stream may get data already."""

    stream: Stream
    message: Open


class StreamOpened(Struct, frozen=True):
    """Client: the server accepted the stream."""

    stream: Stream
    message: Opened


class StreamRefused(Struct, frozen=True):
    """Client: the stream never existed."""

    stream: Stream
    message: Error


class StreamError(Struct, frozen=True):
    """Client: ERROR on an open stream, such as a conflict; the stream goes on."""

    stream: Stream
    message: Error


class ChunkReceived(Struct, frozen=True):
    """A chunk is whole; answer with `chunk_stored()` or `chunk_refused()`.

    `data` are its bytes from `offset` on, or nothing if they were written as they came
    (`ChunkReceiver.write`); `length` and `crc` are of the whole chunk.
    """

    stream: Stream
    index: int
    offset: int
    data: memoryview
    length: int
    crc: int


class ChunkParked(Struct, frozen=True):
    """The connection went with a chunk half received; answer with `chunk_parked()`.

    The first `size` bytes of `data` are the chunk's bytes from `offset` on.
    """

    stream: Stream
    index: int
    offset: int
    data: memoryview
    size: int


class BatchReceived(Struct, frozen=True):
    """There are batches to `take()` where there were none."""

    stream: Stream


class EndReceived(Struct, frozen=True):
    """The END is in; what came before it may still be on its way to the store."""

    stream: Stream
    end: End


class ChunkWanted(Struct, frozen=True):
    """The sender may want chunks: ask `wanted()` until it says None."""

    stream: Stream


class StoredMoved(Struct, frozen=True):
    """The receiver keeps everything before `position`."""

    stream: Stream
    position: int


class SenderHeld(Struct, frozen=True):
    """The receiver is short of something, and no new unit is begun; 0: not any more.

    Attributes:
        stream: which.
        code: what it is short of, such as `insufficient_storage`.
    """

    stream: Stream
    code: int


class CancelReceived(Struct, frozen=True):
    """Server: stop, then `decide()` the outcome."""

    stream: Stream
    message: Cancel


class PeerPaused(Struct, frozen=True):
    """Server: the client has paused the stream, or goes on."""

    stream: Stream
    paused: bool
    text: str


class ReleaseReceived(Struct, frozen=True):
    """Server: the client will not ask for this stream again."""

    stream: Stream


class OutcomeReceived(Struct, frozen=True):
    """Client: the stream has ended."""

    stream: Stream
    outcome: Outcome


class StreamBroken(Struct, frozen=True):
    """The two sides disagree about this stream: it fails, the connection goes on."""

    stream: Stream
    code: int
    text: str


Notice: TypeAlias = (
    HelloReceived
    | ResumeReceived
    | SessionConfirmed
    | Welcomed
    | SessionResumed
    | ConnectionFailed
    | PeerLeft
    | PongReceived
    | Redirected
    | RequestReceived
    | ReplyReceived
    | OpenReceived
    | StreamOpened
    | StreamRefused
    | StreamError
    | ChunkReceived
    | ChunkParked
    | BatchReceived
    | EndReceived
    | ChunkWanted
    | StoredMoved
    | SenderHeld
    | CancelReceived
    | PeerPaused
    | ReleaseReceived
    | OutcomeReceived
    | StreamBroken
)
