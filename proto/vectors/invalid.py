#!/usr/bin/env python3
"""Frames that every implementation refuses, and with which code."""

from __future__ import annotations

import struct

from vectors.reference import (
    TYPES,
    Fields,
    Map,
    Value,
    batch,
    crc32c,
    definition,
    entry,
    frame,
    gap,
    header,
    pack,
)
from vectors.samples import FULL, MINIMAL
from vectors.valid import CONTROL_ON_STREAM, Vector, context

__all__ = ["invalid_frames"]

_NAN = float("nan")
_INFINITE = float("inf")

#: Fields that may hold any value, so that none is of a wrong type.
_ANY = {"policy_value"}


def invalid_frames() -> list[Vector]:
    """Return the vectors of `frames-invalid.json`."""
    return [
        *_headers(),
        *_every_message(),
        *_values(),
        *_details(),
        *_raw(),
        *_batches(),
    ]


def _vector(
    name: str,
    whole: bytes,
    *,
    error: str = "bad_frame",
    max_payload: int = 262_144,
    more: Vector | None = None,
) -> Vector:
    return {
        "name": name,
        "error": error,
        "max_payload": max_payload,
        **(more or {}),
        "frame": whole.hex(),
    }


def _refused(
    name: str, type_: str, payload: bytes, more: Vector | None = None
) -> Vector:
    whole = frame(TYPES[type_], payload, stream_id=int(type_ in CONTROL_ON_STREAM))
    return _vector(f"{type_} {name}", whole, more=more)


def _headers() -> list[Vector]:
    ping = frame(TYPES["PING"], pack([1, 2]), sequence=3)
    vectors = [
        _vector(
            f"PING with a flipped bit in {part}",
            ping[:at] + bytes((ping[at] ^ 1,)) + ping[at + 1 :],
            error="bad_crc",
        )
        for part, at in {
            "the type": 4,
            "the flags": 5,
            "the fragment number": 7,
            "the stream id": 11,
            "the sequence number": 19,
            "the CRC": 23,
            "the payload": 26,
        }.items()
    ]
    swapped = ping[:20] + crc32c(ping[:20] + ping[24:]).to_bytes(4, "big") + ping[24:]
    vectors.append(
        _vector("PING with the CRC over the header first", swapped, error="bad_crc")
    )
    for type_, number in TYPES.items():
        vectors.append(
            _vector(
                f"{type_} with a payload above 8 KiB before WELCOME",
                header(number, 8_193, 0),
                error="frame_too_large",
                max_payload=8_192,
            )
        )
    vectors += [
        _vector(
            "a payload of 4 GiB",
            header(TYPES["CHUNK"], 2**32 - 1, 0),
            error="frame_too_large",
        ),
        _vector("an unknown mandatory type", frame(0x7F), error="unknown_frame"),
        _vector("the type 0", frame(0x00), error="unknown_frame"),
        _vector(
            "an unknown mandatory type with a wrong CRC",
            frame(0x7F)[:-1] + b"\x00",
            error="bad_crc",
        ),
        _vector(
            "an unknown optional type with a wrong CRC",
            frame(0xFF, b"x")[:-1] + b"y",
            error="bad_crc",
        ),
    ]
    return vectors


def _every_message() -> list[Vector]:
    vectors: list[Vector] = []
    for type_, (fields, left_out) in MINIMAL.items():
        more = context(type_, fields)
        values = list(fields.values())
        required = len(values) - left_out
        whole = pack(values)
        vectors += [
            _refused("without payload", type_, b"", more),
            _refused("cut short", type_, whole[:-1], more),
            _refused("with a byte after the array", type_, whole + b"\xc0", more),
            _refused("as a map", type_, pack(Map(fields)), more),
        ]
        if required:
            short = pack(values[: required - 1])
            vectors.append(_refused("without a required field", type_, short, more))
        for number, (field, value) in enumerate(fields.items()):
            wrong: Value = "x" if isinstance(value, bool) else True
            changed = [*values[:number], wrong, *values[number + 1 :]]
            vectors.append(
                _refused(f"with a wrong {field}", type_, pack(changed), more)
            )
    return vectors


def _changed(type_: str, **changes: Value) -> bytes:
    fields = FULL[type_][0]
    assert changes.keys() <= fields.keys()
    return pack({**fields, **changes})


def _values() -> list[Vector]:
    """Return messages with one value that may not be."""
    of: list[tuple[str, str, dict[str, Value]]] = [
        ("an integer as a float", "PING", {"sent_bytes": 1.0}),
        ("a negative u64", "PING", {"sent_bytes": -1}),
        ("a u16 above 65,535", "ERROR", {"code": 65_536}),
        ("a duration that is NaN", "GOAWAY", {"deadline": _NAN}),
        ("an infinite duration", "GOAWAY", {"deadline": _INFINITE}),
        ("a negative duration", "GOAWAY", {"deadline": -0.5}),
        ("a bin where a str is meant", "REDIRECT", {"url": b"ackline://x"}),
        ("a str of 4,097 bytes", "DONE", {"text": "x" * 4_097}),
        ("a str of 4,098 bytes in 1,366 characters", "DONE", {"text": "€" * 1_366}),
        ("a bin of 4,097 bytes", "HELLO", {"credential": bytes(4_097)}),
        ("an unknown durability", "ACK", {"durability": 4}),
        ("65 ranges", "ACK", {"ranges": [[2 * n, 2 * n + 1] for n in range(65)]}),
        ("an empty range", "ACK", {"ranges": [[5, 5]]}),
        ("a range that ends before it begins", "ACK", {"ranges": [[5, 4]]}),
        ("ranges that descend", "ACK", {"ranges": [[9, 10], [5, 6]]}),
        ("ranges that overlap", "ACK", {"ranges": [[5, 8], [7, 9]]}),
        ("a range of one number", "ACK", {"ranges": [[5]]}),
        ("the intent still stopping", "END", {"intent": 0}),
        ("an unknown intent", "END", {"intent": 4}),
        ("an unknown outcome", "OUTCOME", {"outcome": 4}),
        ("an unknown scope", "CANCEL", {"scope": 2}),
        ("an unknown use", "OPEN", {"use": 5}),
        ("the use 0", "OPEN", {"use": 0}),
        ("a priority above 255", "OPEN", {"priority": 256}),
        ("an array in a map", "OPEN", {"parameters": Map({"x": [1]})}),
        ("a map in a map", "OPEN", {"parameters": Map({"x": Map()})}),
        ("a NaN in a map", "CONFIGURE", {"settings": Map({"x": _NAN})}),
        ("an infinity in a map", "CONFIGURE", {"settings": Map({"x": _INFINITE})}),
        (
            "a str of 4,097 bytes in a map",
            "CONFIGURE",
            {"settings": Map({"x": "y" * 4_097})},
        ),
        (
            "a name of 4,098 bytes in a map",
            "CONFIGURE",
            {"settings": Map({"€" * 1_366: 1})},
        ),
        (
            "65 entries in a map",
            "STATUS_REPORT",
            {"facts": Map({str(n): n for n in range(65)})},
        ),
    ]
    vectors = [
        _refused(f"with {name}", type_, _changed(type_, **changes))
        for name, type_, changes in of
    ]
    vectors += [
        _refused("with a str that is not UTF-8", "DONE", b"\x91\xa1\xff"),
        _refused("with a number as a name", "CONFIGURE", b"\x92\xa1x\x81\x01\x02"),
        _refused(
            "with an ext in a map", "CONFIGURE", b"\x92\xa1x\x81\xa1y\xd4\x05\x00"
        ),
        _refused(
            "with a timestamp in a map",
            "CONFIGURE",
            b"\x92\xa1x\x81\xa1y\xd6\xff\x00\x00\x00\x01",
        ),
        _refused(
            "with 8,000 arrays in one another",
            "PING",
            b"\x93\x01\x02" + b"\x91" * 8_000,
        ),
        _refused(
            "with a 32-bit float that is NaN",
            "REDIRECT",
            b"\x92\xa1u\xca" + struct.pack(">f", _NAN),
        ),
        _refused("with the reserved byte 0xC1", "DONE", b"\x91\xc1"),
    ]
    entries: list[Value] = [["", "", 0, 0, Map()]]
    vectors.append(
        _refused("with 1,001 entries", "LISTED", pack([entries * 1_001, ""]))
    )
    return vectors


def _details() -> list[Vector]:
    """Return OPEN and OPENED whose detail is not one of their use."""
    vectors: list[Vector] = []
    for type_ in ("OPEN", "OPENED"):
        samples: list[Fields] = [MINIMAL[type_][0], *FULL[type_]]
        for number, fields in enumerate(samples):
            detail = fields["detail"]
            assert isinstance(detail, dict)
            for field, value in detail.items():
                if field in _ANY:
                    continue
                wrong: Value = "x" if isinstance(value, bool) else True
                changed: Fields = {**fields, "detail": {**detail, field: wrong}}
                vectors.append(
                    _refused(
                        f"{number} with a wrong {field} in its detail",
                        type_,
                        pack(changed),
                        context(type_, fields),
                    )
                )
    opens = FULL["OPEN"]
    of: list[tuple[str, int, Fields]] = [
        ("an unknown existing", 0, {"existing": 3}),
        ("an unknown durability", 0, {"durability": 4}),
        ("240 kinds", 2, {"kinds": [f"k{number}" for number in range(240)]}),
        ("an unknown start", 3, {"start": 6}),
        ("an unknown on_trimmed", 3, {"on_trimmed": 2}),
        ("a NaN as policy_value", 3, {"policy_value": _NAN}),
        ("an array as policy_value", 3, {"policy_value": [1]}),
    ]
    for name, number, changes in of:
        detail = opens[number]["detail"]
        assert isinstance(detail, dict)
        payload = pack({**opens[number], "detail": {**detail, **changes}})
        vectors.append(_refused(f"with {name}", "OPEN", payload))
    unknown: Fields = {**FULL["OPENED"][2], "detail": {"resumes": 3, "first": 0}}
    vectors.append(
        _refused(
            "with an unknown resumes", "OPENED", pack(unknown), {"use": "subscribe"}
        )
    )
    return vectors


def _raw() -> list[Vector]:
    return [
        _vector("CONFIRM with a payload", frame(TYPES["CONFIRM"], b"\x90")),
        _vector("RELEASE with a payload", frame(TYPES["RELEASE"], b"\x90")),
        _vector("BLOCKED with a payload", frame(TYPES["BLOCKED"], b"\x90")),
        _vector("CHUNK without payload", frame(TYPES["CHUNK"], flags=1, stream_id=1)),
    ]


def _batches() -> list[Vector]:
    """Return batches that break `SPEC.md §11`, by flags, first id and payload."""
    last = 2**64 - 1
    of: list[tuple[str, int, int, bytes]] = [
        ("without payload", 0, 0, b""),
        ("with half a count", 0, 0, b"\x00\x00"),
        ("of no events", 0, 0, batch()),
        ("of no events, with a body", 0, 0, batch() + b"x"),
        ("with more entries than fit", 0, 0, b"\x00\x00\x00\x02" + bytes(4)),
        ("with 2^32 - 1 entries", 0, 0, b"\xff" * 8),
        ("with a body too short", 0, 0, batch(entry(0, b"abc"))[:-1]),
        ("with a byte too much", 0, 0, batch(entry(0, b"abc")) + b"d"),
        ("of a kind without a name", 0, 0, batch(entry(2, b"a"))),
        ("of the reserved kind 240", 0, 0, batch(entry(240, b"a"))),
        ("of the reserved kind 253", 0, 0, batch(entry(253, b"a"))),
        ("of kind 240, SPECIAL", 1, 0, batch(gap(1, 1), entry(240, b"a"))),
        ("with a gap, not SPECIAL", 0, 0, batch(gap(1, 1))),
        ("with a definition, not SPECIAL", 0, 0, batch(definition(2, "x"))),
        ("with neither, but SPECIAL", 1, 0, batch(entry(0, b"a"))),
        ("with a gap of nothing", 1, 0, batch(gap(0, 1))),
        ("with a gap for reason 0", 1, 0, batch(gap(1, 0))),
        ("with a gap for reason 4", 1, 0, batch(gap(1, 4))),
        ("with a gap of 8 bytes", 1, 0, batch(entry(255, bytes(7) + b"\x01"))),
        ("with a gap of 10 bytes", 1, 0, batch(entry(255, bytes(7) + b"\x01" * 3))),
        ("with an empty definition", 1, 0, batch(entry(254, b""))),
        ("with a definition of kind 0", 1, 0, batch(definition(0, "x"))),
        ("with a definition of kind 240", 1, 0, batch(definition(240, "x"))),
        ("with a definition without a name", 1, 0, batch(definition(2, ""))),
        ("with a name of 256 bytes", 1, 0, batch(definition(2, "n" * 256))),
        ("with a name with a line feed", 1, 0, batch(definition(2, "a\nb"))),
        ("with a name with DEL", 1, 0, batch(definition(2, "a\x7f"))),
        ("with a name after a space", 1, 0, batch(definition(2, " a"))),
        ("with a name that is not UTF-8", 1, 0, batch(entry(254, b"\x02\xff"))),
        ("with another name for kind 1", 1, 0, batch(definition(1, "other"))),
        ("with the name of kind 1 again", 1, 0, batch(definition(2, "one"))),
        ("with a number left out", 1, 0, batch(definition(3, "x"))),
        (
            "with a kind used before its definition",
            1,
            0,
            batch(entry(2, b"a"), definition(2, "x")),
        ),
        ("beyond the last id", 0, last, batch(entry(0, b"a"))),
        ("with a gap beyond the last id", 1, 1, batch(gap(last, 2))),
    ]
    return [
        _vector(
            f"EVENTS {name}",
            frame(TYPES["EVENTS"], payload, flags=flags, stream_id=1, sequence=first),
            more={"kinds": ["one"]},
        )
        for name, flags, first, payload in of
    ]
