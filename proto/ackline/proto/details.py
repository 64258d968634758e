"""The `detail` of OPEN and OPENED, whose fields depend on the use (`SPEC.md §9.2`).

`raw` makes one; `open_detail` and `opened_detail` read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Raw, Struct

from ackline.proto.codec import decode, encode
from ackline.proto.values import (
    U32,
    U64,
    Bin,
    Durability,
    Existing,
    Kinds,
    Object,
    OnTrimmed,
    Proof,
    Resumes,
    Seconds,
    Start,
    Text,
    Use,
    Value,
    check_value,
)

if TYPE_CHECKING:
    from ackline.proto.messages import Open, Opened

__all__ = [
    "FetchDetail",
    "FetchOpened",
    "OpenDetail",
    "OpenedDetail",
    "PublishDetail",
    "PublishOpened",
    "SubscribeDetail",
    "SubscribeOpened",
    "UploadDetail",
    "UploadOpened",
    "open_detail",
    "opened_detail",
    "raw",
]


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
    linger: Seconds = 0.0

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
    ahead_units: U64 = 0
    ahead_bytes: U64 = 0


OpenDetail: TypeAlias = UploadDetail | FetchDetail | PublishDetail | SubscribeDetail
OpenedDetail: TypeAlias = UploadOpened | FetchOpened | PublishOpened | SubscribeOpened

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
