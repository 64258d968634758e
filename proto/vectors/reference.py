#!/usr/bin/env python3
"""A second, plain implementation of the wire, to make the golden vectors with.

It shares nothing with `ackline.proto`: vectors made by the code they test would only
show that the code agrees with itself. Nothing here is fast, and nothing is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = [
    "TYPES",
    "Fields",
    "Map",
    "Value",
    "batch",
    "crc32c",
    "definition",
    "entry",
    "frame",
    "gap",
    "header",
    "pack",
]


class Map(dict[str, "Value"]):
    """A MessagePack map; a plain dict stands for an array of named fields."""


Value: TypeAlias = (
    "bool | int | float | str | bytes | Sequence[Value] | Mapping[str, Value] | None"
)
Fields: TypeAlias = dict[str, Value]

#: Types by name, as in SPEC.md §4.
TYPES = {
    "HELLO": 0x01,
    "WELCOME": 0x02,
    "RESUME": 0x03,
    "RESUMED": 0x04,
    "CONFIRM": 0x05,
    "GOAWAY": 0x06,
    "REDIRECT": 0x07,
    "ERROR": 0x08,
    "CREDIT": 0x09,
    "PING": 0x0A,
    "PONG": 0x0B,
    "OPEN": 0x10,
    "OPENED": 0x11,
    "CHUNK": 0x12,
    "EVENTS": 0x13,
    "END": 0x14,
    "ACK": 0x15,
    "PAUSE": 0x16,
    "CANCEL": 0x17,
    "OUTCOME": 0x18,
    "RELEASE": 0x19,
    "BLOCKED": 0x1A,
    "LIST": 0x20,
    "LISTED": 0x21,
    "STATUS": 0x22,
    "STATUS_REPORT": 0x23,
    "DELETE": 0x24,
    "SEAL": 0x25,
    "CONFIGURE": 0x26,
    "DONE": 0x27,
}


def crc32c(data: bytes, crc: int = 0) -> int:
    """Return the CRC-32C of `data`, bit by bit, after bytes whose CRC is `crc`."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def header(
    type_: int,
    length: int,
    payload_crc: int,
    *,
    flags: int = 0,
    fragment: int = 0,
    stream_id: int = 0,
    sequence: int = 0,
) -> bytes:
    """Return the 24 bytes of a header (`SPEC.md §3`)."""
    covered = (
        length.to_bytes(4, "big")
        + bytes((type_, flags))
        + fragment.to_bytes(2, "big")
        + stream_id.to_bytes(4, "big")
        + sequence.to_bytes(8, "big")
    )
    return covered + crc32c(covered, payload_crc).to_bytes(4, "big")


def frame(
    type_: int,
    payload: bytes = b"",
    *,
    flags: int = 0,
    fragment: int = 0,
    stream_id: int = 0,
    sequence: int = 0,
) -> bytes:
    """Return a frame (`SPEC.md §3`)."""
    first = header(
        type_,
        len(payload),
        crc32c(payload),
        flags=flags,
        fragment=fragment,
        stream_id=stream_id,
        sequence=sequence,
    )
    return first + payload


def pack(value: Value) -> bytes:
    """Return `value` in the shortest MessagePack form; floats are 64 bits."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _integer(value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str() | bytes():
            return _string(value)
        case _:
            return _container(value)


def entry(kind: int, body: bytes) -> tuple[int, bytes]:
    """Return the entry and body of an event (`SPEC.md §11`)."""
    return kind << 24 | len(body), body


def definition(number: int, name: str) -> tuple[int, bytes]:
    """Return the entry and body of a kind definition (`SPEC.md §11`)."""
    return entry(254, bytes((number,)) + name.encode())


def gap(count: int, reason: int) -> tuple[int, bytes]:
    """Return the entry and body of a gap (`SPEC.md §11`)."""
    return entry(255, count.to_bytes(8, "big") + bytes((reason,)))


def batch(*entries: tuple[int, bytes]) -> bytes:
    """Return the payload of EVENTS (`SPEC.md §11`)."""
    words = [len(entries), *(word for word, _ in entries)]
    return b"".join(
        [word.to_bytes(4, "big") for word in words] + [body for _, body in entries]
    )


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack(">b", value)
    if value >= 0:
        sizes = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
        first, size = next(each for each in sizes.items() if value < 256 ** each[1])
        return bytes((first,)) + value.to_bytes(size, "big")
    sizes = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    first, size = next(each for each in sizes.items() if -value <= 256 ** each[1] // 2)
    return bytes((first,)) + value.to_bytes(size, "big", signed=True)


def _string(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return _sized(value, {8: 0xC4, 16: 0xC5, 32: 0xC6})
    data = value.encode()
    if len(data) < 32:
        return bytes((0xA0 | len(data),)) + data
    return _sized(data, {8: 0xD9, 16: 0xDA, 32: 0xDB})


def _container(value: Sequence[Value] | Mapping[str, Value]) -> bytes:
    if isinstance(value, Map):
        items = [pack(part) for item in value.items() for part in item]
        return _count(len(value), 0x80, 0xDE) + b"".join(items)
    values = list(value.values()) if isinstance(value, Mapping) else value
    return _count(len(values), 0x90, 0xDC) + b"".join(map(pack, values))


def _sized(data: bytes, first: Mapping[int, int]) -> bytes:
    bits = next(bits for bits in first if len(data) < 1 << bits)
    return bytes((first[bits],)) + len(data).to_bytes(bits // 8, "big") + data


def _count(count: int, short: int, first: int) -> bytes:
    if count < 16:
        return bytes((short | count,))
    return bytes((first,)) + count.to_bytes(2, "big")
