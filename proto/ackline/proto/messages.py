"""The payloads of control frames and the values in them (`SPEC.md §5`).

Each is a MessagePack array with its fields in the order below; field names are those of
SPEC.md. A later version appends fields, and decoding ignores those it does not know.
Durations are seconds, sizes bytes, times of day unix seconds.

`encode` and `decode` are the way in and out. The `detail` of OPEN and OPENED depends on
the use: `raw` makes one, `open_detail` and `opened_detail` read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Meta, Raw, Struct

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_ENTRIES, MAX_STRING
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
    Kinds,
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
    check_value,
    check_values,
    too_long,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

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


class UploadDetail(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPEN for an upload."""

    chunk_size: U32
    size: U64 | None
    algorithm: Text = "crc32c"
    digest: Bin = b""
    existing: Existing = Existing.REFUSE
    durability: Durability = Durability.SYNCED
    early: bool = False


class FetchDetail(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPEN for a fetch."""

    chunk_size: U32
    object_id: Text = ""
    version: U64 = 0
    start: U64 = 0
    length: U64 | None = None
    position: U64 = 0
    held: U32 = 0
    held_crc: U32 = 0
    proof: Proof | None = None


class PublishDetail(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPEN for a publisher."""

    kinds: Kinds = ()


class SubscribeDetail(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPEN for a subscription."""

    start: Start
    value: U64 = 0
    policy: Text = "block"
    policy_value: Value = None
    on_trimmed: OnTrimmed = OnTrimmed.ERROR
    generation: U64 = 0
    proof: Proof | None = None

    def __post_init__(self) -> None:
        check_value("policy_value", self.policy_value)


class UploadOpened(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPENED for an upload."""

    chunk_size: U32


class FetchOpened(Struct, array_like=True, frozen=True):
    """`detail` of OPENED for a fetch."""

    chunk_size: U32
    object: Object
    start: U64
    length: U64


class PublishOpened(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPENED for a publisher."""

    log_position: U64


class SubscribeOpened(Struct, array_like=True, frozen=True, gc=False):
    """`detail` of OPENED for a subscription."""

    resumes: Resumes
    first: U64


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


class Listed(Struct, array_like=True, frozen=True, gc=False):
    """The server's answer to LIST (`SPEC.md §19`)."""

    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]
    after: Text


class Status(Struct, array_like=True, frozen=True, gc=False):
    """Asks why something is not moving (`SPEC.md §19`)."""

    target: Text


class StatusReport(Struct, array_like=True, frozen=True):
    """The server's answer to STATUS (`SPEC.md §19`)."""

    target: Text
    state: Text
    reasons: Texts
    facts: Values

    def __post_init__(self) -> None:
        check_values(self.facts)


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


OpenDetail: TypeAlias = UploadDetail | FetchDetail | PublishDetail | SubscribeDetail
OpenedDetail: TypeAlias = UploadOpened | FetchOpened | PublishOpened | SubscribeOpened
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

#: What the payload of each frame is. CHUNK and EVENTS are raw bytes, CONFIRM and
#: RELEASE are empty, so they are not here.
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

_OPEN_DETAILS: Final[dict[Use, type[OpenDetail]]] = {
    Use.UPLOAD: UploadDetail,
    Use.FETCH: FetchDetail,
    Use.PUBLISH: PublishDetail,
    Use.SUBSCRIBE: SubscribeDetail,
}

_OPENED_DETAILS: Final[dict[Use, type[OpenedDetail]]] = {
    Use.UPLOAD: UploadOpened,
    Use.FETCH: FetchOpened,
    Use.PUBLISH: PublishOpened,
    Use.SUBSCRIBE: SubscribeOpened,
}

_T = TypeVar("_T", bound=Struct)

_DECODERS: Final[dict[type[Struct], Callable[[Buffer], Struct]]] = {
    each: msgspec.msgpack.Decoder(each).decode
    for each in (
        *PAYLOADS.values(),
        *_OPEN_DETAILS.values(),
        *_OPENED_DETAILS.values(),
    )
}

#: These hold a `Raw`, which is a view of the bytes it was decoded from.
_KEPT: Final = frozenset[type[Struct]]({Open, Opened})

encode: Final[Callable[[Struct], bytes]] = msgspec.msgpack.Encoder().encode
"""Return the payload of a message; all fields, defaults included, are written."""


def decode(message: type[_T], payload: Buffer) -> _T:
    """Return the message in a payload.

    The result keeps no reference to `payload`, so a receive buffer can be reused.

    Raises:
        ProtocolViolation: `bad_frame`: not the MessagePack array of this message. The
            text names the field and what was expected.
    """
    if message in _KEPT:
        payload = bytes(payload)
    try:
        decoded = _DECODERS[message](payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(
            Code.BAD_FRAME, f"{message.__name__} payload: {error}"
        ) from None
    if memoryview(payload).nbytes > MAX_STRING:  # else no string can be too long
        _check_strings(message.__name__, decoded)
    return decoded  # type: ignore[return-value]


def raw(detail: OpenDetail | OpenedDetail) -> Raw:
    """Return a detail as OPEN and OPENED carry it."""
    return Raw(encode(detail))


def open_detail(opened: Open) -> OpenDetail:
    """Return the detail of an OPEN; its class follows from the use.

    Raises:
        ProtocolViolation: `bad_frame`: the detail is not one of that use.
    """
    return decode(_OPEN_DETAILS[opened.use], opened.detail)


def opened_detail(use: Use, opened: Opened) -> OpenedDetail:
    """Return the detail of an OPENED that answers an OPEN with `use`.

    Raises:
        ProtocolViolation: `bad_frame`: the detail is not one of that use.
    """
    return decode(_OPENED_DETAILS[use], opened.detail)


def clipped(text: str) -> str:
    """Return `text` cut to what a string of the wire may hold.

    For texts that are not ours, such as that of an exception in a user's source.
    Surrogates that are not UTF-8 are replaced.
    """
    data = text.encode(errors="replace")
    if len(data) <= MAX_STRING:
        return data.decode()
    return data[: MAX_STRING - 3].decode(errors="ignore") + "…"


def _check_strings(where: str, value: object) -> None:
    """Refuse a string of more than 4 KiB, which `Text` cannot: it counts characters.

    Raises:
        ProtocolViolation: `bad_frame`.
    """
    if isinstance(value, str) and too_long(value):
        raise ProtocolViolation(
            Code.BAD_FRAME, f"{where} has a string of more than {MAX_STRING} bytes"
        )
    parts: Iterable[object] = ()
    if isinstance(value, Struct):
        parts = [getattr(value, each) for each in value.__struct_fields__]
    elif isinstance(value, (tuple, dict)):  # of a map its keys; values were checked
        parts = cast("Iterable[object]", value)
    for part in parts:
        _check_strings(where, part)
