"""From messages to payloads and back: MessagePack with the rules of `SPEC.md §5`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec
from msgspec import Struct

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.limits import MAX_STRING
from ackline.proto.values import too_long

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

__all__ = ["clipped", "decode", "encode"]

_T = TypeVar("_T", bound=Struct)

encode: Final[Callable[[Struct], bytes]] = msgspec.msgpack.Encoder().encode
"""Return the payload of a message; all fields, defaults included, are written."""


def decode(message: type[_T], payload: Buffer) -> _T:
    """Return the message in a payload.

    The result keeps no reference to `payload`, so a receive buffer can be reused.

    Raises:
        ProtocolViolation: `bad_frame`: not the MessagePack array of this message. The
            text names the field and what was expected.
    """
    data = bytes(payload)  # control payloads are small, and details stay views of it
    try:
        decoded = _decoder(message)(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(
            Code.BAD_FRAME, f"{message.__name__} payload: {error}"
        ) from None
    if len(data) > MAX_STRING:  # else no string can be too long
        _check_strings(message.__name__, decoded)
    return cast("_T", decoded)


def clipped(text: str) -> str:
    """Return `text` cut to what a string of the wire may hold.

    For texts that are not ours, such as that of an exception in a user's source.
    Surrogates that are not UTF-8 are replaced.
    """
    data = text.encode(errors="replace")
    if len(data) <= MAX_STRING:
        return data.decode()
    return data[: MAX_STRING - 3].decode(errors="ignore") + "…"


@cache
def _decoder(message: type[Struct]) -> Callable[[bytes], Struct]:
    """Return the compiled decoder of a type; there are some forty types."""
    return msgspec.msgpack.Decoder(message).decode


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
