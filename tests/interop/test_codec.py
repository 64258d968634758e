"""SPEC.md is enough: what was written from it alone agrees with the vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .codec import (
    NAMES,
    RAW,
    Fields,
    Frame,
    ProtocolError,
    Tally,
    combine,
    crc32c,
    decode,
    decode_events,
    encode_events,
    encode_fields,
    pack,
    parse_resource,
    shift,
)

VECTORS = Path(__file__).resolve().parents[2] / "proto" / "vectors"
USES = {"upload": 1, "fetch": 2, "publish": 3, "subscribe": 4}
LARGEST = 2**20


def vectors(name: str) -> list[Any]:
    """Return the vectors of a file as parameters with their names."""
    found = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return [pytest.param(vector, id=vector["name"]) for vector in found]


def plain(value: Any) -> Any:
    """Turn what the codec returns into the JSON of the vectors."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def raw(value: Any) -> Any:
    """Turn the JSON of the vectors into what the codec takes."""
    if isinstance(value, dict) and value.keys() == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {key: raw(each) for key, each in value.items()}
    if isinstance(value, list):
        return [raw(each) for each in value]
    return value


def interpret(frame: Frame, vector: Fields) -> Fields:
    """Return the fields of a frame as the vectors write them."""
    found: Fields = plain(frame.fields(USES.get(vector.get("use", ""), 0)))
    if frame.name == "CHUNK":
        return {"data": plain(frame.payload)}
    if frame.name != "EVENTS":
        return found
    kinds = list(vector["kinds"])
    events, next_id = decode_events(frame, kinds)
    listed = [
        {"id": e.event_id, "count": e.size, "reason": e.reason}
        if e.kind == 255
        else {
            "id": e.event_id,
            "kind": ["", *kinds][e.kind],
            "data": plain(e.body),
        }
        for e in events
    ]
    entries = int.from_bytes(frame.payload[:4])
    return {"entries": entries, "next_id": next_id, "events": listed, "kinds": kinds}


def receive(data: bytes, vector: Fields) -> None:
    """Read one whole frame as a receiver with the limits of the vector."""
    decoded = decode(data, vector["max_payload"])
    assert decoded is not None
    interpret(decoded[0], vector)


def same(left: Any, right: Any) -> bool:
    """Compare as JSON does, where 1 is neither 1.0 nor true."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@pytest.mark.parametrize("vector", vectors("frames-valid"))
def test_a_valid_frame_says_what_its_vector_says(vector: Fields) -> None:
    data = bytes.fromhex(vector["frame"])
    for behind in (b"", b"\xff", data):
        decoded = decode(data + behind, LARGEST)
        assert decoded is not None
        frame, size = decoded
        assert size == len(data)
        assert frame.name == vector["type"]
        assert frame[1:5] == tuple(
            vector[name] for name in ("flags", "fragment", "stream_id", "sequence")
        )
        assert same(interpret(frame, vector), vector["fields"])


@pytest.mark.parametrize("vector", vectors("frames-valid"))
def test_a_valid_frame_is_not_there_before_its_last_byte(vector: Fields) -> None:
    data = bytes.fromhex(vector["frame"])
    assert not any(decode(data[:cut], LARGEST) for cut in range(len(data)))


@pytest.mark.parametrize("vector", vectors("frames-valid"))
def test_a_valid_frame_is_written_as_its_vector(vector: Fields) -> None:
    decoded = decode(bytes.fromhex(vector["frame"]), LARGEST)
    assert decoded is not None
    frame = decoded[0]
    assert frame.encode().hex() == vector["frame"]
    if vector["canonical"] and frame.name not in RAW:
        use = USES.get(vector.get("use", ""), 0)
        payload = encode_fields(frame.name, raw(vector["fields"]), use)
        assert payload.hex() == frame.payload.hex()


@pytest.mark.parametrize("vector", vectors("frames-invalid"))
@pytest.mark.parametrize("behind", [b"", b"\x00" * 30], ids=["alone", "followed"])
def test_an_invalid_frame_is_refused_with_its_error(
    vector: Fields, behind: bytes
) -> None:
    data = bytes.fromhex(vector["frame"])
    last = 24 if vector["error"] == "frame_too_large" else len(data)
    for cut in range(last):
        assert decode(data[:cut], vector["max_payload"]) is None
    with pytest.raises(ProtocolError) as refused:
        receive(data + behind, vector)
    assert refused.value.code == vector["error"]


@pytest.mark.parametrize("vector", vectors("frames-skipped"))
def test_an_optional_frame_is_left_out_and_the_next_one_read(vector: Fields) -> None:
    data = bytes.fromhex(vector["frame"])
    skipped = decode(data, LARGEST)
    assert skipped is not None
    assert skipped[0].name == ""
    following = decode(data[skipped[1] :], LARGEST)
    assert following is not None
    assert following[0].name == "PING"


@pytest.mark.parametrize("vector", vectors("checksums"))
def test_checksums_of_parts_give_that_of_the_whole(vector: Fields) -> None:
    first, second, length = (
        vector[name] for name in ("first_crc", "second_crc", "second_length")
    )
    if "first" in vector:
        assert crc32c(bytes.fromhex(vector["first"])) == first
        assert crc32c(bytes.fromhex(vector["second"])) == second
        assert crc32c(bytes.fromhex(vector["second"]), first) == vector["crc"]
    assert combine(first, second, length) == vector["crc"]
    assert vector["crc"] ^ shift(first, length) == second


@pytest.mark.parametrize("vector", vectors("proofs"))
def test_a_proof_is_over_entries_and_bodies(vector: Fields) -> None:
    entries = [(kind, bytes.fromhex(body)) for kind, body in vector["entries"]]
    base, position = vector["proof"]["base"], vector["proof"]["position"]
    one_by_one = [encode_events([entry]) for entry in entries]
    for payloads in ([encode_events(entries)], one_by_one):
        kinds, next_id = ["one"], 0
        if all(kind != 254 for kind, _body in entries):
            kinds = ["one", "two"]
        tally = Tally(base)
        for payload in payloads:
            special = payload[4:].startswith((b"\xfe", b"\xff")) or (
                len(payloads) == 1 and any(kind >= 254 for kind, _body in entries)
            )
            frame = Frame("EVENTS", int(special), 0, 1, next_id, payload)
            events, next_id = decode_events(frame, kinds)
            for event in events:
                if event.kind != 255 and base <= event.event_id < position:
                    tally.add(event.body, event.kind)
        assert vars(tally) == vector["proof"]


@pytest.mark.parametrize("vector", vectors("resources"))
def test_a_resource_is_split_or_refused(vector: Fields) -> None:
    if vector["error"] is None:
        parsed = (vector["kind"], vector["parsed"])
        assert parse_resource(vector["resource"]) == parsed
        return
    with pytest.raises(ProtocolError) as refused:
        parse_resource(vector["resource"])
    assert refused.value.code == vector["error"]


def test_every_type_of_frame_has_a_vector() -> None:
    named = {vector.values[0]["type"] for vector in vectors("frames-valid")}
    assert named == set(NAMES.values())


@pytest.mark.parametrize(
    ("value", "size"),
    [(127, 1), (128, 2), (-32, 1), (-33, 2), (65535, 3), ("x" * 32, 34), ([], 1)],
)
def test_the_shortest_form_is_written(value: Any, size: int) -> None:
    assert len(pack(value)) == size
