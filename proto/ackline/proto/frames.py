"""The frame: a 24-byte header and a payload (`SPEC.md §3`, `§4`).

```
 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+---------------------------------------------------------------+
|                       payload length (32)                     |
+---------------+---------------+-------------------------------+
|   type (8)    |   flags (8)   |       fragment number (16)    |
+---------------+---------------+-------------------------------+
|                         stream id (32)                        |
+---------------------------------------------------------------+
|                                                               |
+                      sequence number (64)                     +
|                                                               |
+---------------------------------------------------------------+
|                          CRC-32C (32)                         |
+---------------------------------------------------------------+
|                     payload (payload length bytes)            |
```

The CRC runs over the payload first and then over the first 20 bytes of the header, so
the CRC of a payload is computed once and finishes every frame that carries it.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.limits import MAX_PAYLOAD

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "DATA_FRAMES",
    "HEADER",
    "HEADER_SIZE",
    "LAST",
    "MORE",
    "OPTIONAL",
    "REWIND",
    "SPECIAL",
    "FrameType",
    "Header",
    "check",
    "decode_frame",
    "encode_frame",
    "frame_type",
    "pack_header",
]

HEADER: Final = Struct(">IBBHIQI")
HEADER_SIZE: Final = HEADER.size

#: The header without its CRC: the part that the CRC covers.
_COVERED: Final = Struct(">IBBHIQ")
_CRC: Final = Struct(">I")

#: Bit of a type that a receiver may skip if it does not know it.
OPTIONAL: Final = 0x80

#: CHUNK: this fragment completes its chunk.
LAST: Final = 0x01
#: EVENTS: an entry is a gap or a kind definition.
SPECIAL: Final = 0x01
#: ACK: units not acknowledged were discarded and are to be sent again.
REWIND: Final = 0x01
#: RESUME, RESUMED: another frame of the same follows.
MORE: Final = 0x01


class FrameType(IntEnum):
    """The type of a frame, in the order of `SPEC.md §4`."""

    HELLO = 0x01
    """Client: version, identity and limits; the first frame."""
    WELCOME = 0x02
    """Server: answers HELLO."""
    RESUME = 0x03
    """Client: a session and its streams, with positions."""
    RESUMED = 0x04
    """Server: answers RESUME."""
    CONFIRM = 0x05
    """Client: the successor token is stored."""
    GOAWAY = 0x06
    """The sender will close."""
    REDIRECT = 0x07
    """Server: connect elsewhere."""
    ERROR = 0x08
    """A refusal, or the reason for closing."""
    CREDIT = 0x09
    """The connection window's limits."""
    PING = 0x0A
    """Asks for a PONG."""
    PONG = 0x0B
    """Answers PING."""
    OPEN = 0x10
    """Client: opens a stream."""
    OPENED = 0x11
    """Server: answers OPEN."""
    CHUNK = 0x12
    """Sender: a fragment of a chunk."""
    EVENTS = 0x13
    """Sender: a batch of events."""
    END = 0x14
    """Sender: the last numbered unit."""
    ACK = 0x15
    """Receiver: what is stored, and the stream window's limits."""
    PAUSE = 0x16
    """Whether its sender has paused the stream."""
    CANCEL = 0x17
    """Client: end this stream, or the work behind it."""
    OUTCOME = 0x18
    """Server: how the stream ended."""
    RELEASE = 0x19
    """Client: will not ask for this stream again."""
    BLOCKED = 0x1A
    """Client: its next event needs a larger window than the stream has."""
    LIST = 0x20
    """Client: names of resources."""
    LISTED = 0x21
    """Server: answers LIST."""
    STATUS = 0x22
    """Client: why something is not moving."""
    STATUS_REPORT = 0x23
    """Server: answers STATUS."""
    DELETE = 0x24
    """Client: deletes an object or log."""
    SEAL = 0x25
    """Client: ends a log."""
    CONFIGURE = 0x26
    """Client: creates a log or changes its settings."""
    DONE = 0x27
    """Server: answers DELETE, SEAL and CONFIGURE."""


#: The frames that windows count or that carry a unit number; all others are control.
DATA_FRAMES: Final = frozenset({FrameType.CHUNK, FrameType.EVENTS, FrameType.END})

_TYPES: Final[dict[int, FrameType]] = {member.value: member for member in FrameType}


class Header(NamedTuple):
    """The fields of a header, in the order of the wire."""

    length: int
    type: int
    flags: int
    fragment: int
    stream_id: int
    sequence: int
    crc: int


def frame_type(number: int) -> FrameType | None:
    """Return the type with this number; None for an optional one to be skipped.

    Raises:
        ProtocolViolation: `unknown_frame`: not known, and its optional bit is not set.
    """
    known = _TYPES.get(number)
    if known is None and not number & OPTIONAL:
        raise ProtocolViolation(
            Code.UNKNOWN_FRAME,
            f"frame type 0x{number:02X} is not known and not optional;"
            " agree on a version that has it",
        )
    return known


def pack_header(
    type_: int,
    flags: int,
    fragment: int,
    stream_id: int,
    sequence: int,
    length: int,
    payload_crc: int,
) -> bytes:
    """Return the 24 bytes of a header, finishing the CRC from that of its payload."""
    covered = _COVERED.pack(length, type_, flags, fragment, stream_id, sequence)
    return covered + _CRC.pack(crc32c(covered, payload_crc))


def encode_frame(
    type_: int,
    payload: bytes = b"",
    *,
    flags: int = 0,
    fragment: int = 0,
    stream_id: int = 0,
    sequence: int = 0,
) -> bytes:
    """Return a whole frame as one object.

    Meant for control frames, which are small: a large payload is better written after
    its header than copied behind it.
    """
    crc = crc32c(payload)
    return (
        pack_header(type_, flags, fragment, stream_id, sequence, len(payload), crc)
        + payload
    )


def check(covered: Buffer, payload_crc: int, crc: int) -> None:
    """Compare the CRC of a frame (`SPEC.md §3`).

    Args:
        covered: The first 20 bytes of the header.
        payload_crc: CRC of the payload; 0 if it is empty.
        crc: The CRC that the header states.

    Raises:
        ProtocolViolation: `bad_crc`: they differ.
    """
    found = crc32c(covered, payload_crc)
    if found != crc:
        raise ProtocolViolation(
            Code.BAD_CRC,
            f"the header states CRC 0x{crc:08X}, the bytes have 0x{found:08X};"
            " reconnect and resume",
        )


def decode_frame(
    data: Buffer, *, max_payload: int = MAX_PAYLOAD
) -> tuple[Header, bytes, bytes] | None:
    """Return the first frame of `data` as header, payload and what follows it.

    Copies all it returns: for tests and tools, not for a connection. Types are not
    looked at; see `frame_type`.

    Returns:
        None if the frame is not complete yet.

    Raises:
        ProtocolViolation: `frame_too_large`, as soon as the header is complete;
            `bad_crc`.
    """
    view = memoryview(data)
    if len(view) < HEADER_SIZE:
        return None
    header = Header(*HEADER.unpack_from(view))
    if header.length > max_payload:
        raise ProtocolViolation(
            Code.FRAME_TOO_LARGE,
            f"a payload of {header.length} bytes; at most {max_payload} are accepted",
        )
    end = HEADER_SIZE + header.length
    if len(view) < end:
        return None
    payload = bytes(view[HEADER_SIZE:end])
    check(view[: _COVERED.size], crc32c(payload), header.crc)
    return header, payload, bytes(view[end:])
