"""The payloads of control frames and the values in them (`SPEC.md §5`).

Each is a MessagePack array with its fields in the order below; field names are those of
SPEC.md. A later version appends fields, and decoding ignores those it does not know.
Durations are seconds, sizes bytes, times of day unix seconds.

`encode` and `decode` are the way in and out. All that a payload is made of can be
imported from here: `values`, `details` and `codec` are apart for their readers.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Raw, Struct

from ackline.proto.codec import clipped, decode, encode
from ackline.proto.details import (
    FetchDetail,
    FetchOpened,
    OpenDetail,
    OpenedDetail,
    PublishDetail,
    PublishOpened,
    SubscribeDetail,
    SubscribeOpened,
    UploadDetail,
    UploadOpened,
    open_detail,
    opened_detail,
    raw,
)
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_ENTRIES
from ackline.proto.values import (
    U8,
    U16,
    U32,
    U64,
    Bin,
    Durability,
    Entry,
    Existing,
    GapReason,
    Intent,
    Limits,
    Object,
    OnTrimmed,
    Outcome,
    OutcomeKind,
    Proof,
    Range,
    Ranges,
    ResumedStream,
    Resumes,
    ResumeStream,
    Scope,
    Seconds,
    Session,
    Standing,
    Start,
    Text,
    Texts,
    Use,
    Value,
    Values,
    check_ranges,
    check_values,
)

__all__ = [
    "PAYLOADS",
    "Ack",
    "Cancel",
    "Configure",
    "Credit",
    "Delete",
    "Done",
    "Durability",
    "End",
    "Entry",
    "Error",
    "Existing",
    "FetchDetail",
    "FetchOpened",
    "GapReason",
    "GoAway",
    "Hello",
    "Intent",
    "Limits",
    "List",
    "Listed",
    "Message",
    "Object",
    "OnTrimmed",
    "Open",
    "OpenDetail",
    "Opened",
    "OpenedDetail",
    "Outcome",
    "OutcomeKind",
    "Pause",
    "Ping",
    "Proof",
    "PublishDetail",
    "PublishOpened",
    "Range",
    "Redirect",
    "Resume",
    "ResumeStream",
    "Resumed",
    "ResumedStream",
    "Resumes",
    "Scope",
    "Seal",
    "Session",
    "Standing",
    "Start",
    "Status",
    "StatusReport",
    "SubscribeDetail",
    "SubscribeOpened",
    "UploadDetail",
    "UploadOpened",
    "Use",
    "Value",
    "Welcome",
    "clipped",
    "decode",
    "encode",
    "open_detail",
    "opened_detail",
    "raw",
]


class Hello(Struct, array_like=True, frozen=True, gc=False):
    """The first frame: versions, identity and limits of the client (`SPEC.md §7`)."""

    version: U16
    oldest: U16
    scheme: Text
    credential: Bin
    agent: Text
    resume: bool
    limits: Limits
    capabilities: Texts = ()

    def __repr__(self) -> str:
        """Leave the credential out: a log line must not let its reader log in."""
        return (
            f"Hello(version={self.version}, oldest={self.oldest},"
            f" scheme={self.scheme!r}, agent={self.agent!r}, resume={self.resume},"
            f" limits={self.limits}, capabilities={self.capabilities})"
        )


class Welcome(Struct, array_like=True, frozen=True, gc=False):
    """The server's answer to HELLO (`SPEC.md §7`)."""

    version: U16
    agent: Text
    identity: Text
    limits: Limits
    session: Session | None
    capabilities: Texts = ()
    session_ttl: Seconds = 3600.0


class Resume(Struct, array_like=True, frozen=True, gc=False):
    """The session and streams a client wants back (`SPEC.md §8.2`)."""

    session_id: Text
    token: Bin
    streams: tuple[ResumeStream, ...]

    def __repr__(self) -> str:
        """Leave the token out: a log line must not let its reader resume."""
        return f"Resume(session_id={self.session_id!r}, streams={self.streams})"


class Resumed(Struct, array_like=True, frozen=True, gc=False):
    """The server's answer to RESUME (`SPEC.md §8.2`)."""

    code: U16
    text: Text
    session: Session
    streams: tuple[ResumedStream, ...]


class GoAway(Struct, array_like=True, frozen=True, gc=False):
    """The sender will close (`SPEC.md §18`)."""

    code: U16
    text: Text
    retry_after: Seconds = 0.0
    deadline: Seconds = 0.0


class Redirect(Struct, array_like=True, frozen=True, gc=False):
    """Connect to another server (`SPEC.md §18`)."""

    url: Text
    retry_after: Seconds = 0.0


class Error(Struct, array_like=True, frozen=True, gc=False):
    """A refusal, or why the connection is closed (`SPEC.md §20`)."""

    code: U16
    text: Text
    retry: bool
    retry_after: Seconds = 0.0


class Credit(Struct, array_like=True, frozen=True, gc=False):
    """The connection window's limits (`SPEC.md §12`)."""

    limit_units: U64
    limit_bytes: U64


class Ping(Struct, array_like=True, frozen=True, gc=False):
    """PING and PONG: frame bytes so far, as their sender counts (`SPEC.md §17`)."""

    sent_bytes: U64
    received_bytes: U64


class Open(Struct, array_like=True, frozen=True):
    """Opens a stream (`SPEC.md §9.2`); `open_detail` reads its detail."""

    use: Use
    resource: Text
    key: Text
    window_units: U64
    window_bytes: U64
    detail: Raw
    parameters: Values = {}
    priority: U8 | None = None
    deadline: Seconds = 0.0
    trace: Text = ""

    def __post_init__(self) -> None:
        check_values(self.parameters)


class Opened(Struct, array_like=True, frozen=True):
    """The server's answer to OPEN (§9.2); `opened_detail` reads its detail."""

    existing: bool
    id: Text
    durability: Durability
    standing: Standing
    detail: Raw


class End(Struct, array_like=True, frozen=True, gc=False):
    """The last numbered unit and what the sender means by it (`SPEC.md §14`)."""

    intent: Intent
    code: U16
    text: Text
    size: U64 = 0
    crc: U32 = 0
    digest: Bin = b""


class Ack(Struct, array_like=True, frozen=True, gc=False):
    """The receiver's state; the stored position is the sequence number (§13)."""

    limit_units: U64
    limit_bytes: U64
    consumed: U64
    durability: Durability
    ranges: Ranges = ()
    retry_after: Seconds = 0.0
    code: U16 = 0
    log_position: U64 = 0

    def __post_init__(self) -> None:
        if self.ranges:
            check_ranges(self.ranges)


class Pause(Struct, array_like=True, frozen=True, gc=False):
    """Whether its sender has paused the stream (`SPEC.md §14`)."""

    paused: bool
    text: Text = ""


class Cancel(Struct, array_like=True, frozen=True, gc=False):
    """Ends a stream, or the work behind it (`SPEC.md §14`)."""

    scope: Scope
    target: Text = ""
    text: Text = ""


class List(Struct, array_like=True, frozen=True, gc=False):
    """Asks for resources whose names begin with `prefix` (`SPEC.md §19`)."""

    prefix: Text
    after: Text = ""
    limit: U32 = 1000
    versions: bool = False
    after_version: U64 = 0


class Listed(Struct, array_like=True, frozen=True, gc=False):
    """The server's answer to LIST (`SPEC.md §19`)."""

    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]
    after: Text
    after_version: U64 = 0


class Status(Struct, array_like=True, frozen=True, gc=False):
    """Asks why something is not moving (`SPEC.md §19`)."""

    target: Text
    version: U64 = 0


class StatusReport(Struct, array_like=True, frozen=True):
    """The server's answer to STATUS (`SPEC.md §19`)."""

    target: Text
    state: Text
    reasons: Texts
    facts: Values
    metadata: Values = {}
    history: Texts = ()

    def __post_init__(self) -> None:
        check_values(self.facts)
        check_values(self.metadata)


class Delete(Struct, array_like=True, frozen=True, gc=False):
    """Deletes an object, a version of one, or a log (`SPEC.md §19`)."""

    target: Text
    version: U64 = 0


class Seal(Struct, array_like=True, frozen=True, gc=False):
    """Ends a log (`SPEC.md §19`)."""

    target: Text
    intent: Intent = Intent.COMPLETED
    code: U16 = 0
    text: Text = ""


class Configure(Struct, array_like=True, frozen=True):
    """Creates a log or changes its settings (`SPEC.md §19`)."""

    target: Text
    settings: Values

    def __post_init__(self) -> None:
        check_values(self.settings)


class Done(Struct, array_like=True, frozen=True, gc=False):
    """The server's answer to DELETE, SEAL and CONFIGURE (`SPEC.md §19`)."""

    text: Text = ""


Message: TypeAlias = (
    Hello
    | Welcome
    | Resume
    | Resumed
    | GoAway
    | Redirect
    | Error
    | Credit
    | Ping
    | Open
    | Opened
    | End
    | Ack
    | Pause
    | Cancel
    | Outcome
    | List
    | Listed
    | Status
    | StatusReport
    | Delete
    | Seal
    | Configure
    | Done
)

#: What the payload of each frame is. CHUNK and EVENTS are raw bytes, CONFIRM,
#: RELEASE and BLOCKED are empty, so they are not here.
PAYLOADS: Final[dict[FrameType, type[Message]]] = {
    FrameType.HELLO: Hello,
    FrameType.WELCOME: Welcome,
    FrameType.RESUME: Resume,
    FrameType.RESUMED: Resumed,
    FrameType.GOAWAY: GoAway,
    FrameType.REDIRECT: Redirect,
    FrameType.ERROR: Error,
    FrameType.CREDIT: Credit,
    FrameType.PING: Ping,
    FrameType.PONG: Ping,
    FrameType.OPEN: Open,
    FrameType.OPENED: Opened,
    FrameType.END: End,
    FrameType.ACK: Ack,
    FrameType.PAUSE: Pause,
    FrameType.CANCEL: Cancel,
    FrameType.OUTCOME: Outcome,
    FrameType.LIST: List,
    FrameType.LISTED: Listed,
    FrameType.STATUS: Status,
    FrameType.STATUS_REPORT: StatusReport,
    FrameType.DELETE: Delete,
    FrameType.SEAL: Seal,
    FrameType.CONFIGURE: Configure,
    FrameType.DONE: Done,
}
