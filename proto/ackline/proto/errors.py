"""Every exception of Ackline, and the codes of the wire.

```
AcklineError
├── UsageError             the caller misused this library (also a ValueError)
├── ProtocolViolation      the peer broke the protocol; carries the wire code
├── Refused                the peer refused a request or a stream, with a code
│   └── ChecksumConflict   a stored chunk was sent again with other bytes
├── ConnectionLost         the connection is gone; says nothing about streams
│   └── TakenOver          a newer connection has the session: do not reconnect
└── StreamEnded            the stream has an outcome other than completed
    ├── StreamFailed
    └── StreamCancelled
```

The core raises `ProtocolViolation` where it finds one; one place turns it into an ERROR
frame with its code. What the peer sends as an ERROR becomes `Refused` or
`ConnectionLost`, and what it sends as an OUTCOME becomes a `StreamEnded`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ackline.proto.messages import Outcome

__all__ = [
    "RETRYABLE",
    "AcklineError",
    "ChecksumConflict",
    "Code",
    "ConnectionLost",
    "ProtocolViolation",
    "Refused",
    "StreamCancelled",
    "StreamEnded",
    "StreamFailed",
    "TakenOver",
    "UsageError",
    "code_name",
]


class Code(IntEnum):
    """A code of `SPEC.md §20`, in its order."""

    OK = 0
    """Nothing went wrong."""
    BAD_FRAME = 1
    """Malformed header or payload, or units out of place."""
    BAD_CRC = 2
    """The CRC does not match."""
    FRAME_TOO_LARGE = 3
    """Payload above the receiver's limit."""
    UNSUPPORTED_VERSION = 4
    """No version in common."""
    UNKNOWN_FRAME = 5
    """Mandatory type not known."""
    WRONG_STATE = 6
    """Frame not allowed now, or from this side."""
    UNKNOWN_STREAM = 7
    """Id never opened."""
    FLOW_CONTROL = 8
    """More than the window allows."""
    HANDSHAKE_TIMEOUT = 9
    """No HELLO in time."""
    PEER_LOST = 10
    """Silence, or output not taken."""
    UNAUTHENTICATED = 11
    """Credential refused."""
    TOO_MANY_CONNECTIONS = 12
    """The server holds as many connections as it may."""
    TAKEN_OVER = 13
    """A newer connection has the session."""
    DRAINING = 14
    """The server is going away."""
    INTERNAL_ERROR = 15
    """A defect of the peer; see its log."""
    OVERLOADED = 16
    """Try later."""
    LIMIT_EXCEEDED = 17
    """A limit of `SPEC.md §6` or `§17`."""
    UNKNOWN_SESSION = 64
    """Never existed, expired, or not yours."""
    TOKEN_SUPERSEDED = 65
    """The token's successor was confirmed."""
    TOKEN_INVALID = 66
    """Not this session's token."""
    PERMISSION_DENIED = 80
    """The identity may not do this."""
    NOT_FOUND = 81
    """Nothing of that name."""
    ALREADY_EXISTS = 82
    """The name is taken."""
    INVALID_ARGUMENT = 83
    """A value that cannot be used; the text says which."""
    TOO_MANY_STREAMS = 84
    """More streams open at once than the server allows."""
    QUOTA_EXCEEDED = 85
    """The identity has used what it was given."""
    INSUFFICIENT_STORAGE = 86
    """The disk is full."""
    UNSUPPORTED = 87
    """Not offered by this server."""
    KEY_CONFLICT = 88
    """Key known with other parameters."""
    POSITION_TRIMMED = 89
    """Older than what is retained."""
    GENERATION_CHANGED = 90
    """Deleted and made again."""
    SEALED = 91
    """The log takes no more."""
    POSITION_BEYOND = 92
    """Position higher than what exists."""
    MOVED = 93
    """Opened again elsewhere with the same key."""
    CANCELLED_BY_CLIENT = 112
    """The client cancelled the stream."""
    CANCELLED_BY_OPERATOR = 113
    """An operator of the server cancelled the stream."""
    EXPIRED = 114
    """Abandoned too long."""
    DEADLINE_EXCEEDED = 115
    """The stream's deadline passed."""
    CHECKSUM_CONFLICT = 116
    """A stored chunk came again with other bytes."""
    DIGEST_MISMATCH = 117
    """Whole object differs from its digest."""
    SIZE_MISMATCH = 118
    """Whole object differs from its size."""
    SOURCE_CHANGED = 119
    """The file changed while it was read."""
    SOURCE_FAILED = 120
    """The source raised or its process failed."""
    PRODUCER_LOST = 121
    """The process that ran it died."""
    POSITION_LOST = 122
    """Durable data is missing: call a person."""
    PROOF_MISMATCH = 123
    """The two sides hold different data."""
    STORAGE_FAILED = 124
    """Write or sync failed."""
    NO_CONSUMER = 125
    """Nobody listened."""
    SINK_FAILED = 126
    """The consumer of the committed object raised."""

    @property
    def retry(self) -> bool:
        """Whether the same thing, tried again, can succeed."""
        return self in RETRYABLE


#: The codes that `SPEC.md §20` marks with *retry*.
RETRYABLE: frozenset[Code] = frozenset(
    {
        Code.BAD_FRAME,
        Code.BAD_CRC,
        Code.HANDSHAKE_TIMEOUT,
        Code.PEER_LOST,
        Code.TOO_MANY_CONNECTIONS,
        Code.DRAINING,
        Code.INTERNAL_ERROR,
        Code.OVERLOADED,
        Code.TOO_MANY_STREAMS,
        Code.QUOTA_EXCEEDED,
        Code.INSUFFICIENT_STORAGE,
        Code.EXPIRED,
        Code.DIGEST_MISMATCH,
        Code.SOURCE_CHANGED,
        Code.STORAGE_FAILED,
        Code.SINK_FAILED,
    }
)

#: Characters of a violation's text: 4 bytes each are within the 4 KiB of a string.
_MAX_TEXT = 1_000

_NAMES: dict[int, str] = {code.value: code.name.lower() for code in Code}


def code_name(number: int) -> str:
    """Return the name that logs and metrics use for a code, known or not.

    A number that is not in `SPEC.md §20` is treated as `internal_error` and kept.
    """
    return _NAMES.get(number) or f"internal_error({number})"


class AcklineError(Exception):
    """What every exception of Ackline is."""


class UsageError(AcklineError, ValueError):
    """The caller asked for something that cannot be; nothing was sent."""


class ProtocolViolation(AcklineError):  # noqa: N818
    """The peer broke the protocol, and the code tells it how.

    Attributes:
        code: The code of the ERROR frame that answers (`SPEC.md §20`).
        text: What was wrong, without the code. It is cut so that it fits the frame: it
            may quote the peer, who could send what we must not.
    """

    def __init__(self, code: Code, text: str) -> None:
        if len(text) > _MAX_TEXT:
            text = text[: _MAX_TEXT - 1] + "…"
        super().__init__(f"{code_name(code)}: {text}")
        self.code = code
        self.text = text


class Refused(AcklineError):  # noqa: N818
    """The peer refused a request or a stream.

    Attributes:
        code: The code it gave; a number not in `Code` is kept.
        text: The reason it gave.
        retry: Whether the same request can succeed later.
        retry_after: Seconds to wait before that; 0 if the peer did not say.
        resource: What the request was about; empty if it was not about one.
        stream: The stream's id; 0 if it was not about a stream.
    """

    def __init__(
        self,
        code: int,
        text: str,
        *,
        retry: bool = False,
        retry_after: float = 0.0,
        resource: str = "",
        stream: int = 0,
    ) -> None:
        about = f"{resource}: " if resource else ""
        if not retry:
            advice = "the same request would be refused again"
        elif retry_after:
            advice = f"try again in {retry_after:g} s"
        else:
            advice = "trying again can succeed"
        super().__init__(f"{about}{code_name(code)}: {text} ({advice})")
        self.code = code
        self.text = text
        self.retry = retry
        self.retry_after = retry_after
        self.resource = resource
        self.stream = stream


class ChecksumConflict(Refused):
    """A stored chunk was sent again with other bytes; nothing changed at the peer.

    The file was probably edited since the upload began: upload it under a new key.
    """


class ConnectionLost(AcklineError):  # noqa: N818
    """The connection is gone. Streams are not: they end by an outcome only.

    Attributes:
        text: What happened.
        code: The code of the ERROR that ended the connection, if there was one.
    """

    def __init__(self, text: str, *, code: int | None = None) -> None:
        super().__init__(text if code is None else f"{code_name(code)}: {text}")
        self.text = text
        self.code = code


class TakenOver(ConnectionLost):
    """A newer connection has the session; this one must not reconnect (§8.2)."""

    def __init__(
        self, text: str = "a newer connection has this session; use that one"
    ) -> None:
        super().__init__(text, code=Code.TAKEN_OVER)


class StreamEnded(AcklineError):  # noqa: N818
    """The stream has an outcome other than completed.

    Attributes:
        outcome: The outcome the server recorded (`SPEC.md §14`).
    """

    def __init__(self, outcome: Outcome) -> None:
        text = f": {outcome.text}" if outcome.text else ""
        super().__init__(
            f"{code_name(outcome.code)} at position {outcome.position}{text}"
        )
        self.outcome = outcome


class StreamFailed(StreamEnded):
    """The stream failed; `outcome.code` says whether trying again can succeed."""


class StreamCancelled(StreamEnded):
    """The stream was cancelled, by this client or by an operator."""
