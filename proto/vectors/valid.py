#!/usr/bin/env python3
"""Frames that every implementation reads, and those it must write alike."""

from __future__ import annotations

from typing import TypeAlias

from vectors.reference import (
    TYPES,
    Fields,
    Map,
    Value,
    batch,
    definition,
    entry,
    frame,
    gap,
    pack,
)
from vectors.samples import FULL, MINIMAL

__all__ = ["CONTROL_ON_STREAM", "Vector", "context", "plain", "valid_frames"]

Vector: TypeAlias = dict[str, Value]

_U16, _U32, _U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1

#: The control frames of a stream; all others are of the connection.
CONTROL_ON_STREAM = ("OPEN", "OPENED", "END", "ACK", "PAUSE", "CANCEL", "OUTCOME")

#: The use of an OPENED is that of its OPEN; here a field tells it.
_USE_BY_FIELD = {"object": "fetch", "log_position": "publish", "resumes": "subscribe"}


def valid_frames() -> list[Vector]:
    """Return the vectors of `frames-valid.json`."""
    return [*_messages(), *_floats_and_integers(), *_raw(), *_batches()]


def plain(value: Value) -> Value:
    """Return `value` as JSON can hold it: a bin becomes {"hex": ...}."""
    match value:
        case bytes():
            return {"hex": value.hex()}
        case dict():
            return {name: plain(part) for name, part in value.items()}
        case list():
            return [plain(part) for part in value]
        case _:
            return value


def context(type_: str, fields: Fields) -> Vector:
    """Return what a reader must know besides the frame: the use of an OPENED."""
    if type_ != "OPENED":
        return {}
    detail = fields["detail"]
    assert isinstance(detail, dict)
    named = [use for field, use in _USE_BY_FIELD.items() if field in detail]
    return {"use": named[0] if named else "upload"}


def _vector(
    name: str,
    type_: str,
    payload: bytes,
    fields: Fields,
    *,
    canonical: bool = True,
    flags: int = 0,
    fragment: int = 0,
    stream_id: int = 0,
    sequence: int = 0,
    more: Vector | None = None,
) -> Vector:
    whole = frame(
        TYPES[type_],
        payload,
        flags=flags,
        fragment=fragment,
        stream_id=stream_id,
        sequence=sequence,
    )
    return {
        "name": f"{type_} {name}",
        "type": type_,
        "flags": flags,
        "fragment": fragment,
        "stream_id": stream_id,
        "sequence": sequence,
        "crc": int.from_bytes(whole[20:24], "big"),
        **(more or {}),
        "fields": plain(fields),
        "canonical": canonical,
        "frame": whole.hex(),
    }


def _messages() -> list[Vector]:
    vectors: list[Vector] = []
    for type_, (fields, left_out) in MINIMAL.items():
        stream = int(type_ in CONTROL_ON_STREAM)
        values = list(fields.values())
        vectors += [
            _vector(
                "minimal, trailing defaults left out",
                type_,
                pack(values[: len(values) - left_out]),
                fields,
                canonical=not left_out,
                stream_id=stream,
                more=context(type_, fields),
            ),
            _vector(
                "with fields of a later version, ignored",
                type_,
                pack([*values, "later", [1, Map({"x": [None]})], None]),
                fields,
                canonical=False,
                stream_id=stream,
                more=context(type_, fields),
            ),
        ]
        vectors += [
            _vector(
                f"full {number}",
                type_,
                pack(full),
                full,
                stream_id=stream,
                sequence=number,
                more=context(type_, full),
            )
            for number, full in enumerate(FULL[type_], 1)
        ]
    return vectors


def _floats_and_integers() -> list[Vector]:
    """Return messages in other MessagePack forms than the shortest."""
    ping: Fields = {"sent_bytes": 1, "received_bytes": 2}
    redirect: Fields = {"url": "u", "retry_after": 2.0}
    return [
        _vector(
            "with integers in 64 bits",
            "PING",
            b"\x92\xcf" + (1).to_bytes(8, "big") + b"\xd3" + (2).to_bytes(8, "big"),
            ping,
            canonical=False,
        ),
        _vector(
            "as an array with a 32-bit count",
            "PING",
            b"\xdd\x00\x00\x00\x02\x01\x02",
            ping,
            canonical=False,
        ),
        _vector(
            "with an integer where a float is meant",
            "REDIRECT",
            b"\x92\xa1u\x02",
            redirect,
            canonical=False,
        ),
        _vector(
            "with a 32-bit float and a 32-bit string",
            "REDIRECT",
            b"\x92\xdb\x00\x00\x00\x01u\xca\x40\x00\x00\x00",
            redirect,
            canonical=False,
        ),
    ]


def _raw() -> list[Vector]:
    return [
        _vector("without payload", "CONFIRM", b"", {}, sequence=2),
        _vector("with the largest epoch", "CONFIRM", b"", {}, sequence=_U64),
        _vector("without payload", "RELEASE", b"", {}, stream_id=1),
        _vector("of the last stream", "RELEASE", b"", {}, stream_id=_U32),
        _vector("for 9 bytes", "BLOCKED", b"", {}, stream_id=1, sequence=9),
        _vector("of the largest limit", "BLOCKED", b"", {}, stream_id=1, sequence=_U64),
        _vector("of one byte", "CHUNK", b"a", {"data": b"a"}, flags=1, stream_id=1),
        _vector(
            "first of two fragments",
            "CHUNK",
            b"12345",
            {"data": b"12345"},
            stream_id=3,
            sequence=17,
        ),
        _vector(
            "second of two fragments",
            "CHUNK",
            b"6789",
            {"data": b"6789"},
            flags=1,
            fragment=1,
            stream_id=3,
            sequence=17,
        ),
        _vector(
            "with every header field at its maximum",
            "CHUNK",
            b"\xff",
            {"data": b"\xff"},
            flags=0xFF,
            fragment=_U16,
            stream_id=_U32,
            sequence=_U64,
        ),
        _vector(
            "of 8 KiB",
            "CHUNK",
            bytes(range(256)) * 32,
            {"data": bytes(range(256)) * 32},
            stream_id=1,
        ),
    ]


def _event(id_: int, data: bytes, kind: str = "") -> Fields:
    return {"id": id_, "kind": kind, "data": data}


def _gap(id_: int, count: int, reason: int) -> Fields:
    return {"id": id_, "count": count, "reason": reason}


def _batch(
    name: str,
    entries: list[tuple[int, bytes]],
    events: list[Fields],
    *,
    first: int = 0,
    next_id: int,
    special: bool = False,
    kinds: tuple[str, ...] = (),
    later: tuple[str, ...] = (),
) -> Vector:
    return _vector(
        name,
        "EVENTS",
        batch(*entries),
        {
            "entries": len(entries),
            "next_id": next_id,
            "events": events,
            "kinds": [*kinds, *later],
        },
        flags=int(special),
        stream_id=1,
        sequence=first,
        more={"kinds": list(kinds)},
    )


def _batches() -> list[Vector]:
    return [
        _batch("one", [entry(0, b"hello")], [_event(0, b"hello")], next_id=1),
        _batch("one without body", [entry(0, b"")], [_event(0, b"")], next_id=1),
        _batch(
            "three of three kinds",
            [entry(0, b"a"), entry(2, b"bc"), entry(1, b"")],
            [_event(7, b"a"), _event(8, b"bc", "two"), _event(9, b"", "one")],
            first=7,
            next_id=10,
            kinds=("one", "two"),
        ),
        _batch(
            "of the last kind",
            [entry(239, b"x")],
            [_event(0, b"x", "k239")],
            next_id=1,
            kinds=tuple(f"k{number}" for number in range(1, 240)),
        ),
        _batch(
            "at the last id",
            [entry(0, b"x")],
            [_event(_U64 - 1, b"x")],
            first=_U64 - 1,
            next_id=_U64,
        ),
        _batch(
            "300 in one batch",
            [entry(0, bytes((number % 256,)) * (number % 3)) for number in range(300)],
            [
                _event(number, bytes((number % 256,)) * (number % 3))
                for number in range(300)
            ],
            next_id=300,
        ),
        _batch(
            "a kind defined and used",
            [entry(0, b"a"), definition(2, "größe"), entry(2, b"b")],
            [_event(0, b"a"), _event(1, b"b", "größe")],
            next_id=2,
            special=True,
            kinds=("one",),
            later=("größe",),
        ),
        _batch(
            "a kind defined again alike",
            [definition(1, "one"), entry(1, b"a")],
            [_event(0, b"a", "one")],
            next_id=1,
            special=True,
            kinds=("one",),
        ),
        _batch(
            "a definition alone",
            [definition(1, "one")],
            [],
            first=5,
            next_id=5,
            special=True,
            later=("one",),
        ),
        _batch(
            "a gap alone",
            [gap(1, 3)],
            [_gap(0, 1, 3)],
            next_id=1,
            special=True,
        ),
        _batch(
            "gaps of every reason between events",
            [gap(3, 1), entry(0, b"a"), gap(40, 2), entry(0, b"b"), gap(1, 3)],
            [
                _gap(10, 3, 1),
                _event(13, b"a"),
                _gap(14, 40, 2),
                _event(54, b"b"),
                _gap(55, 1, 3),
            ],
            first=10,
            next_id=56,
            special=True,
        ),
        _batch(
            "the longest gap",
            [gap(_U64, 2)],
            [_gap(0, _U64, 2)],
            next_id=_U64,
            special=True,
        ),
    ]
