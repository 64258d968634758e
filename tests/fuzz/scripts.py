"""What a peer does, as bytes that a fuzzer can change at any place.

```
step   what u8 | type u8 | flags u8 | fragment u8 | stream u8 | sequence u16
       | length u16 | length bytes
```

Checksums are not part of it: nothing behind them would ever be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING

from ackline.proto.frames import HEADER, HEADER_SIZE, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Step", "What", "pack", "script_of", "steps"]

_STEP = Struct(">BBBBBHH")
MAX_STEPS = 200
"""So that a script takes milliseconds."""


class What(IntEnum):
    """What happens in a step; the number is taken modulo their count."""

    FRAME = 0
    """A frame with a right checksum."""
    LAST_NUMBERS = 1
    """The same, with a sequence number counted from the end of u64."""
    WRONG_CRC = 2
    RAW = 3
    """The bytes alone."""
    TIME = 4
    """As many hundredths of a second pass as the sequence number says."""
    OUTPUT = 5
    """What is to be sent is taken away."""
    STORE = 6
    """The layer above holds what it is to store, or lets all of it go."""
    RECONNECT = 7
    """The connection is lost, and there is another one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        data: bytes on the wire; empty if it is about something else.
        number: the sequence number.
    """

    what: What
    data: bytes
    number: int


def steps(script: bytes) -> Iterator[Step]:
    """Read a script; what is missing at its end is left out."""
    at = 0
    for _ in range(MAX_STEPS):
        if at + _STEP.size > len(script):
            return
        what, kind, flags, fragment, stream, number, size = _STEP.unpack_from(
            script, at
        )
        at += _STEP.size
        body = script[at : at + size]
        at += size
        chosen = What(what % len(What))
        if chosen is What.RAW:
            yield Step(chosen, body, number)
            continue
        if chosen > What.RAW:
            yield Step(chosen, b"", number)
            continue
        frame = encode_frame(
            kind,
            body,
            flags=flags,
            fragment=fragment,
            stream_id=stream,
            sequence=2**64 - 1 - number if chosen is What.LAST_NUMBERS else number,
        )
        if chosen is What.WRONG_CRC:
            frame = (
                frame[: HEADER_SIZE - 1] + bytes([frame[HEADER_SIZE - 1] ^ 1]) + body
            )
        yield Step(chosen, frame, number)


def pack(what: What, *, number: int = 0, body: bytes = b"") -> bytes:
    """Write a step that is not a frame."""
    return _STEP.pack(what, 0, 0, 0, 0, number, len(body)) + body


def script_of(wire: bytes) -> bytes:
    """Write the script that sends these frames; those too long for it are left out."""
    return b"".join(_written(wire))


def _written(wire: bytes) -> Iterable[bytes]:
    at = 0
    while at + HEADER_SIZE <= len(wire):
        size, kind, flags, fragment, stream, sequence, _ = HEADER.unpack_from(wire, at)
        body = wire[at + HEADER_SIZE : at + HEADER_SIZE + size]
        at += HEADER_SIZE + size
        what = What.FRAME
        if sequence >= 2**63:
            what, sequence = What.LAST_NUMBERS, 2**64 - 1 - sequence
        if size < 2**16:
            yield (
                _STEP.pack(
                    what,
                    kind,
                    flags & 0xFF,
                    fragment & 0xFF,
                    stream & 0xFF,
                    sequence & 0xFFFF,
                    size,
                )
                + body
            )
