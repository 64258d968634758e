"""What the core tells the layer above it, in the past tense.

A notice is passed to the `notify` function of its connection or stream at once, while
a frame is taken or a timer handled; whoever gets it must not call back into the
reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

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
    "PongReceived",
    "Redirected",
    "ReleaseReceived",
    "ReplyReceived",
    "RequestReceived",
    "ResumeReceived",
    "SessionConfirmed",
    "SessionResumed",
    "StoredMoved",
    "StreamBroken",
    "StreamError",
    "StreamOpened",
    "StreamRefused",
    "Welcomed",
]


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """Server: a client says who it is; answer with `welcome()` or `fail()`."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class ResumeReceived:
    """Server: a client wants its session back; answer with `resumed()`."""

    session_id: str
    token: bytes
    streams: list[ResumeStream]


@dataclass(frozen=True, slots=True)
class SessionConfirmed:
    """Server: the client has stored the successor token."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Welcomed:
    """Client: the server's limits are known."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """Client: RESUMED came; `code` is not 0 if nothing was resumed."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection is over: by our ERROR or the peer's, or a timer.

    `stream_id` is that of the frame that broke a rule here; 0 if none did.
    """

    code: int
    text: str
    by_peer: bool
    retry: bool
    retry_after: float
    stream_id: int = 0


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """GOAWAY came: from a client it is done, from a server it drains."""

    message: GoAway


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The PONG to a `Connection.ping()` came."""

    number: int


@dataclass(frozen=True, slots=True)
class Redirected:
    """Client: connect to another server."""

    message: Redirect


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """Server: answer with `reply(request_id, message)`."""

    request_id: int
    message: Request


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """Client: the answer to a request."""

    request_id: int
    message: Reply


@dataclass(frozen=True, slots=True)
class OpenReceived:
    """Server: answer with `accept()` or `refuse()`; the stream may get data already."""

    stream: Stream
    message: Open


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """Client: the server accepted the stream."""

    stream: Stream
    message: Opened


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """Client: the stream never existed."""

    stream: Stream
    message: Error


@dataclass(frozen=True, slots=True)
class StreamError:
    """Client: ERROR on an open stream, such as a conflict; the stream goes on."""

    stream: Stream
    message: Error


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """A chunk is whole; answer with `chunk_stored()` or `chunk_refused()`.

    `data` are its bytes from `offset` on; `length` and `crc` are of the whole chunk.
    """

    stream: Stream
    index: int
    offset: int
    data: memoryview
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class ChunkParked:
    """The connection went with a chunk half received; answer with `chunk_parked()`.

    The first `size` bytes of `data` are the chunk's bytes from `offset` on.
    """

    stream: Stream
    index: int
    offset: int
    data: memoryview
    size: int


@dataclass(frozen=True, slots=True)
class BatchReceived:
    """There are batches to `take()` where there were none."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The END is in; what came before it may still be on its way to the store."""

    stream: Stream
    end: End


@dataclass(frozen=True, slots=True)
class ChunkWanted:
    """The sender may want chunks: ask `wanted()` until it says None."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StoredMoved:
    """The receiver keeps everything before `position`."""

    stream: Stream
    position: int


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """Server: stop, then `decide()` the outcome."""

    stream: Stream
    message: Cancel


@dataclass(frozen=True, slots=True)
class ReleaseReceived:
    """Server: the client will not ask for this stream again."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class OutcomeReceived:
    """Client: the stream has ended."""

    stream: Stream
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class StreamBroken:
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
    | CancelReceived
    | ReleaseReceived
    | OutcomeReceived
    | StreamBroken
)
