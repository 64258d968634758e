"""The golden vectors against this implementation (`SPEC.md §24`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from ackline.proto.batches import (
    Event,
    KindTable,
    encode_entries,
    merge,
    parse_batch,
)
from ackline.proto.checksums import combine, crc32c, subtract
from ackline.proto.errors import Code, ProtocolViolation, code_name
from ackline.proto.frames import (
    HEADER_SIZE,
    OPTIONAL,
    SPECIAL,
    FrameType,
    Header,
    decode_frame,
    encode_frame,
    frame_type,
)
from ackline.proto.messages import (
    PAYLOADS,
    Message,
    Open,
    Opened,
    Proof,
    Use,
    decode,
    encode,
    open_detail,
    opened_detail,
    raw,
)
from ackline.proto.proofs import NOTHING
from ackline.proto.resource import parse_resource
from vectors import generate
from vectors.reference import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

Vector = dict[str, Any]


def load(name: str) -> list[Vector]:
    content = json.loads((generate.FOLDER / name).read_text(encoding="utf-8"))
    assert content["format"] == 1
    return cast("list[Vector]", content["vectors"])


def each(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    vectors = load(name)
    return pytest.mark.parametrize("vector", vectors, ids=[v["name"] for v in vectors])


def plain(value: Any, use: Use | None = None) -> Any:
    """Return a decoded value as the vectors write it."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Open):
        return fields(value) | {"detail": plain(open_detail(value))}
    if isinstance(value, Opened):
        assert use is not None
        return fields(value) | {"detail": plain(opened_detail(use, value))}
    if isinstance(value, msgspec.Struct):
        return fields(value)
    return value


def fields(value: msgspec.Struct) -> dict[str, Any]:
    return {
        name: plain(getattr(value, name))
        for name in value.__struct_fields__
        if not isinstance(getattr(value, name), msgspec.Raw)
    }


def use_of(vector: Vector) -> Use | None:
    return Use[vector["use"].upper()] if "use" in vector else None


def read_batch(header: Header, payload: bytes, kinds: KindTable) -> dict[str, Any]:
    batch = parse_batch(header.sequence, payload, special=bool(header.flags & SPECIAL))
    batch.check_kinds(kinds)
    return {
        "entries": batch.entries,
        "next_id": batch.next_id,
        "events": plain(batch.events(kinds)),
        "kinds": list(kinds.listed()),
    }


def read(vector: Vector, header: Header, payload: bytes) -> Any:
    """Return what a frame says, checking it as far as a frame alone can be."""
    kind = frame_type(header.type)
    if kind is None:
        return None
    if kind is FrameType.EVENTS:
        return read_batch(header, payload, KindTable(vector["kinds"]))
    if kind in PAYLOADS:
        return plain(decode(PAYLOADS[kind], payload), use_of(vector))
    if (kind is FrameType.CHUNK) != bool(payload):
        raise ProtocolViolation(Code.BAD_FRAME, f"{kind.name} of {len(payload)} bytes")
    return {"data": plain(payload)} if payload else {}


def whole(vector: Vector) -> bytes:
    return bytes.fromhex(vector["frame"])


def decoded(frame: bytes) -> tuple[Header, bytes, bytes]:
    found = decode_frame(frame)
    assert found is not None
    return found


def written(vector: Vector, payload: bytes) -> bytes:
    return encode_frame(
        TYPES[vector["type"]],
        payload,
        flags=vector["flags"],
        fragment=vector["fragment"],
        stream_id=vector["stream_id"],
        sequence=vector["sequence"],
    )


@pytest.mark.parametrize("name", generate.files())
def test_committed_files_are_what_the_generator_writes(name: str) -> None:
    committed = (generate.FOLDER / name).read_text(encoding="utf-8")
    assert committed == generate.files()[name]


def test_the_plain_implementation_knows_the_same_frame_types() -> None:
    assert {member.name: member.value for member in FrameType} == TYPES


@pytest.mark.parametrize("name", ["frames-valid.json", "frames-invalid.json"])
def test_every_frame_type_has_vectors(name: str) -> None:
    types = {int(vector["frame"][8:10], 16) for vector in load(name)}
    assert types >= set(FrameType)


def test_every_frame_type_is_refused_for_its_payload_too() -> None:
    types = {
        int(vector["frame"][8:10], 16)
        for vector in load("frames-invalid.json")
        if vector["error"] == "bad_frame"
    }
    assert types == set(FrameType)


@each("frames-valid.json")
def test_valid_frame_is_read(vector: Vector) -> None:
    header, payload, rest = decoded(whole(vector))
    assert rest == b""
    assert header == Header(
        len(payload),
        TYPES[vector["type"]],
        vector["flags"],
        vector["fragment"],
        vector["stream_id"],
        vector["sequence"],
        vector["crc"],
    )
    found = read(vector, header, payload)
    assert found == vector["fields"]
    if header.type in PAYLOADS:
        assert set(found) == set(vector["fields"])


@each("frames-valid.json")
def test_valid_frame_is_written_alike(vector: Vector) -> None:
    frame = whole(vector)
    header, payload, _ = decoded(frame)
    assert written(vector, payload) == frame
    kind = FrameType(header.type)
    if kind in PAYLOADS:
        again = encode(rebuilt(decode(PAYLOADS[kind], payload), use_of(vector)))
        assert (again == payload) is vector["canonical"]
    elif kind is FrameType.EVENTS:
        special = bool(header.flags & SPECIAL)
        batch = parse_batch(header.sequence, payload, special=special)
        assert encode_entries(batch.first_id, batch._items()) == batch


def rebuilt(message: Message, use: Use | None) -> Message:
    """Return `message` with its detail made anew."""
    if isinstance(message, Open):
        detail = raw(open_detail(message))
        return msgspec.structs.replace(message, detail=detail)
    if isinstance(message, Opened):
        assert use is not None
        detail = raw(opened_detail(use, message))
        return msgspec.structs.replace(message, detail=detail)
    return message


@each("frames-valid.json")
def test_valid_frame_is_incomplete_until_its_last_byte(vector: Vector) -> None:
    frame = whole(vector)
    assert all(decode_frame(frame[:end]) is None for end in range(len(frame)))


@each("frames-valid.json")
def test_bytes_after_a_valid_frame_are_left_alone(vector: Vector) -> None:
    frame = whole(vector)
    header, payload, rest = decoded(frame + b"\xffmore")
    assert (header, payload) == decoded(frame)[:2]
    assert rest == b"\xffmore"


def refusal(vector: Vector, data: bytes) -> Code | None:
    """Return the code `data` is refused with; None if it is incomplete or valid."""
    try:
        found = decode_frame(data, max_payload=vector["max_payload"])
        if found is not None:
            read(vector, *found[:2])
    except ProtocolViolation as violation:
        return violation.code
    return None


@each("frames-invalid.json")
def test_invalid_frame_is_refused_with_its_code(vector: Vector) -> None:
    code = refusal(vector, whole(vector))
    assert code is not None
    assert code_name(code) == vector["error"]


@each("frames-invalid.json")
def test_invalid_frame_is_refused_with_bytes_after_it_too(vector: Vector) -> None:
    code = refusal(vector, whole(vector) + b"\xff")
    assert code is not None
    assert code_name(code) == vector["error"]


@each("frames-invalid.json")
def test_invalid_frame_is_refused_as_soon_as_it_can_be(vector: Vector) -> None:
    frame = whole(vector)
    too_large = vector["error"] == "frame_too_large"
    first = HEADER_SIZE if too_large else len(frame)
    for end in range(len(frame) + 1):
        assert (refusal(vector, frame[:end]) is not None) is (end >= first)


@each("frames-skipped.json")
def test_unknown_optional_frame_is_skipped(vector: Vector) -> None:
    header, payload, rest = decoded(whole(vector))
    assert header.type & OPTIONAL
    assert read(vector, header, payload) is None
    assert decoded(rest)[0].type == FrameType.PING


@each("checksums.json")
def test_checksums_combine_and_separate(vector: Vector) -> None:
    first, second = vector["first_crc"], vector["second_crc"]
    length = vector["second_length"]
    assert combine(first, second, length) == vector["crc"]
    assert subtract(vector["crc"], first, length) == second
    if "first" in vector:
        assert crc32c(bytes.fromhex(vector["first"])) == first
        assert crc32c(bytes.fromhex(vector["second"]), first) == vector["crc"]


@each("proofs.json")
def test_proof_does_not_depend_on_batches(vector: Vector) -> None:
    entries = [(kind, bytes.fromhex(body)) for kind, body in vector["entries"]]
    stated = Proof(**vector["proof"])
    single = []
    at = 0
    for item in entries:
        single.append(encode_entries(at, [item]))
        at = single[-1].next_id
    for batches in (single, [merge(single)]):
        known = NOTHING
        for batch in batches:
            part = batch.proof_parts(stated.position, from_id=stated.base)
            known = known.extended(*part)
        assert known.proof(stated.base, stated.position) == stated


@each("proofs.json")
def test_proof_follows_from_the_sums_of_two_prefixes(vector: Vector) -> None:
    stated = Proof(**vector["proof"])
    batch = encode_entries(
        0, [(kind, bytes.fromhex(body)) for kind, body in vector["entries"]]
    )
    if batch.gap_end() is not None:
        assert stated.base == batch.gap_end()
        return
    before, after = (
        NOTHING.extended(*batch.proof_parts(until))
        for until in (stated.base, stated.position)
    )
    between = after.since(before, stated.position - stated.base)
    assert between.proof(stated.base, stated.position) == stated


@each("resources.json")
def test_resource_name_is_judged(vector: Vector) -> None:
    if vector["error"] is None:
        resource = parse_resource(vector["resource"])
        assert (resource.kind.value, resource.name) == (
            vector["kind"],
            vector["parsed"],
        )
        assert str(resource) == vector["resource"]
        return
    with pytest.raises(ProtocolViolation) as refused:
        parse_resource(vector["resource"])
    assert code_name(refused.value.code) == vector["error"]


def test_events_are_typed() -> None:
    """The vectors compare plain values; this is the class a program gets."""
    batch = encode_entries(0, [(0, b"x")])
    assert batch.events(KindTable()) == [Event(0, "", b"x")]
