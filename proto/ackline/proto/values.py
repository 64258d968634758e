"""The values that control payloads are made of (`SPEC.md §5`).

Plain types with their ranges, enumerations, and the structures that several payloads
share. Everything a payload needs is also importable from `ackline.proto.messages`.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise
from math import isfinite
from sys import float_info
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from msgspec import Meta, Struct

from ackline.proto.errors import UsageError
from ackline.proto.limits import MAX_KINDS, MAX_MAP, MAX_RANGES, MAX_STRING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "U8",
    "U16",
    "U32",
    "U64",
    "Bin",
    "Durability",
    "Entry",
    "Existing",
    "GapReason",
    "Intent",
    "Kinds",
    "Limits",
    "Object",
    "OnTrimmed",
    "Outcome",
    "OutcomeKind",
    "Proof",
    "Range",
    "Ranges",
    "ResumeStream",
    "ResumedStream",
    "Resumes",
    "Scope",
    "Seconds",
    "Session",
    "Standing",
    "Start",
    "Text",
    "Texts",
    "Use",
    "Value",
    "Values",
    "check_ranges",
    "check_value",
    "check_values",
    "too_long",
]

U8: TypeAlias = Annotated[int, Meta(ge=0, le=2**8 - 1)]
U16: TypeAlias = Annotated[int, Meta(ge=0, le=2**16 - 1)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
#: MessagePack has no larger integer, so an upper bound would never be met.
U64: TypeAlias = Annotated[int, Meta(ge=0)]
#: Seconds or a time of day. The bounds exclude infinities, and NaN, which meets none.
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=float_info.max)]
#: 4 KiB of UTF-8 have no more characters than that; `decode` counts the bytes.
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_STRING)]
Bin: TypeAlias = Annotated[bytes, Meta(max_length=MAX_STRING)]
Texts: TypeAlias = tuple[Text, ...]
Kinds: TypeAlias = Annotated[tuple[Text, ...], Meta(max_length=MAX_KINDS)]
#: A half-open range of units: first and end.
Range: TypeAlias = tuple[U64, U64]
Ranges: TypeAlias = Annotated[tuple[Range, ...], Meta(max_length=MAX_RANGES)]

if TYPE_CHECKING:
    #: What a map may hold.
    Value: TypeAlias = bool | int | float | str | bytes | None
else:
    # msgspec tells str from bytes in no union; `check_value` does.
    Value: TypeAlias = Any

Values: TypeAlias = Annotated[dict[Text, Value], Meta(max_length=MAX_MAP)]


class Use(IntEnum):
    """What a stream is for: the kind of its units and their direction."""

    UPLOAD = 1
    """Chunks from the client."""
    FETCH = 2
    """Chunks from the server."""
    PUBLISH = 3
    """Events from the client."""
    SUBSCRIBE = 4
    """Events from the server."""

    @property
    def client_sends(self) -> bool:
        """Whether the client is the sender."""
        return self in (Use.UPLOAD, Use.PUBLISH)

    @property
    def chunks(self) -> bool:
        """Whether the units are chunks."""
        return self in (Use.UPLOAD, Use.FETCH)


class Durability(IntEnum):
    """What an ACK promises about a unit."""

    MEMORY = 0
    """The process has it."""
    WRITTEN = 1
    """The operating system has it."""
    SYNCED = 2
    """It is on stable storage."""
    REPLICATED = 3
    """Other machines have it too."""


class Intent(IntEnum):
    """What a sender says in END."""

    COMPLETED = 1
    FAILED = 2
    CANCELLED = 3


class OutcomeKind(IntEnum):
    """How a stream ended."""

    STILL_STOPPING = 0
    """Not ended yet: user code is still cleaning up after a CANCEL."""
    COMPLETED = 1
    FAILED = 2
    CANCELLED = 3


class Scope(IntEnum):
    """What a CANCEL ends."""

    STREAM = 0
    """This stream only."""
    WORK = 1
    """The run or upload behind it too."""


class Start(IntEnum):
    """Where a subscription starts."""

    FIRST = 0
    """The first retained event."""
    LAST = 1
    """The last event."""
    LAST_EVENTS = 2
    """The last `value` events."""
    NEXT = 3
    """Only what comes next."""
    ID = 4
    """The event with id `value`."""
    TIME = 5
    """The first event at or after `value`, in unix milliseconds."""


class Existing(IntEnum):
    """What an upload does with an object of its name."""

    REFUSE = 0
    REPLACE = 1
    ADD_VERSION = 2


class Resumes(IntEnum):
    """How a source resumes."""

    REPLAY = 0
    """A log, or a run whose history is kept."""
    RECOMPUTE = 1
    """A run that starts again from an id, deterministically."""
    NONE = 2
    """Not at all."""


class OnTrimmed(IntEnum):
    """What becomes of a position that is no longer retained."""

    ERROR = 0
    GAP = 1


class GapReason(IntEnum):
    """Why events were left out."""

    MERGED = 1
    """A newer event took their place."""
    DROPPED = 2
    """There was no room for them."""
    TRIMMED = 3
    """Retention removed them."""


def check_value(name: str, value: object) -> None:
    """Refuse what a *value* cannot be (`SPEC.md §5`).

    Raises:
        UsageError: `value` is not nil, bool, integer, finite float, str or bin.
    """
    if isinstance(value, float):
        if not isfinite(value):
            raise UsageError(f"{name!r} is {value}; only finite numbers can be sent")
    elif isinstance(value, (str, bytes)):
        if too_long(value):
            raise UsageError(f"{name!r} is longer than {MAX_STRING} bytes")
    elif value is not None and not isinstance(value, int):
        raise UsageError(
            f"{name!r} is a {type(value).__name__}; a value is"
            " nil, bool, integer, float, str or bin"
        )


def check_values(values: Mapping[str, Value]) -> None:
    """Refuse a map that cannot be sent.

    Raises:
        UsageError: It has too many entries, or a value that is none.
    """
    if len(values) > MAX_MAP:
        raise UsageError(f"a map of {len(values)} entries; at most {MAX_MAP} are sent")
    for name, value in values.items():
        check_value(name, value)


def check_ranges(ranges: tuple[Range, ...]) -> None:
    """Refuse ranges that are empty, overlap or do not ascend (`SPEC.md §13`).

    Raises:
        UsageError: They are out of order.
    """
    if any(first >= end for first, end in ranges) or any(
        left[1] > right[0] for left, right in pairwise(ranges)
    ):
        raise UsageError(f"the ranges {ranges} are empty or do not ascend")


def too_long(value: str | bytes) -> bool:
    """Tell whether a str or bin is longer than one may be."""
    if isinstance(value, str) and len(value) > MAX_STRING // 4:
        value = value.encode()
    return len(value) > MAX_STRING


class Limits(Struct, array_like=True, frozen=True, gc=False):
    """What a side enforces as a receiver (`SPEC.md §6`)."""

    max_payload: U32
    max_chunk_size: U32
    max_streams: U32
    window_units: U64
    window_bytes: U64
    initial_units: U64
    initial_bytes: U64
    heartbeat: Seconds


class Session(Struct, array_like=True, frozen=True, gc=False):
    """A session's name, its newest token, and the epoch of this attachment (§8.1)."""

    session_id: Text
    token: Bin
    epoch: U64

    def __repr__(self) -> str:
        """Leave the token out: a log line must not let its reader resume."""
        return f"Session(session_id={self.session_id!r}, epoch={self.epoch})"


class Proof(Struct, array_like=True, frozen=True, gc=False):
    """What a side holds from `base` up to `position` (`SPEC.md §15`)."""

    base: U64
    position: U64
    bytes: U64
    lengths_crc: U32
    bodies_crc: U32


class Object(Struct, array_like=True, frozen=True):
    """A committed object."""

    object_id: Text
    name: Text
    version: U64
    size: U64
    crc: U32
    algorithm: Text
    digest: Bin
    created: Seconds
    metadata: Values = {}

    def __post_init__(self) -> None:
        check_values(self.metadata)


class Outcome(Struct, array_like=True, frozen=True):
    """How a stream ended, and where (`SPEC.md §14`)."""

    outcome: OutcomeKind
    code: U16
    text: Text
    position: U64
    decided: Seconds
    object: Object | None = None


class ResumeStream(Struct, array_like=True, frozen=True, gc=False):
    """What the client knows of a stream it resumes (`SPEC.md §8.2`)."""

    stream_id: U32
    generation: U64
    position: U64
    held: U32
    held_crc: U32
    proof: Proof | None
    window_units: U64
    window_bytes: U64
    paused: bool = False


class Standing(Struct, array_like=True, frozen=True):
    """Where a stream stands at the server, in OPENED and RESUMED (`SPEC.md §8.2`)."""

    generation: U64
    epoch: U64
    position: U64
    durable: U64
    limit_units: U64
    limit_bytes: U64
    ranges: Ranges = ()
    held: U32 = 0
    held_crc: U32 = 0
    proof: Proof | None = None
    verified: bool = False
    paused: bool = False
    kinds: Kinds = ()
    outcome: Outcome | None = None
    log_position: U64 = 0

    def __post_init__(self) -> None:
        if self.ranges:
            check_ranges(self.ranges)


class ResumedStream(Struct, array_like=True, frozen=True):
    """A stream that RESUME named, or why it is gone (`SPEC.md §8.2`)."""

    stream_id: U32
    code: U16
    text: Text
    standing: Standing | None


class Entry(Struct, array_like=True, frozen=True):
    """A resource in a LISTED."""

    resource: Text
    state: Text
    size: U64
    created: Seconds
    facts: Values
    metadata: Values = {}

    def __post_init__(self) -> None:
        check_values(self.facts)
        check_values(self.metadata)
