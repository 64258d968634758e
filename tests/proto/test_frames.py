"""Headers and whole frames (`SPEC.md §3`, `§4`)."""

from __future__ import annotations

import re
from pathlib import Path

import crcmod.predefined
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import (
    DATA_FRAMES,
    HEADER,
    HEADER_SIZE,
    LAST,
    MORE,
    OPTIONAL,
    REWIND,
    SPECIAL,
    FrameType,
    Header,
    check,
    decode_frame,
    encode_frame,
    frame_type,
    pack_header,
)

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
headers = st.tuples(u8, u8, u16, u32, u64)


def encoded(fields: tuple[int, int, int, int, int], payload: bytes) -> bytes:
    kind, flags, fragment, stream_id, sequence = fields
    return encode_frame(
        kind,
        payload,
        flags=flags,
        fragment=fragment,
        stream_id=stream_id,
        sequence=sequence,
    )


def test_types_and_flags_are_the_table_of_spec_4() -> None:
    section = SPEC.partition("\n## 4 ")[2].partition("\n## 5 ")[0]
    rows = re.findall(
        r"^\| 0x(\w\w) \| (\w+) \|[^|]*\|[^|]*\|[^|]*\|([^|]*)\|", section, re.MULTILINE
    )
    assert [(int(number, 16), name) for number, name, _ in rows] == [
        (member.value, member.name) for member in FrameType
    ]
    assert {name: flags.strip() for _, name, flags in rows if flags.strip()} == {
        "RESUME": f"0x{MORE:02X} MORE",
        "RESUMED": f"0x{MORE:02X} MORE",
        "CHUNK": f"0x{LAST:02X} LAST",
        "EVENTS": f"0x{SPECIAL:02X} SPECIAL",
        "ACK": f"0x{REWIND:02X} REWIND",
    }


def test_data_frames_are_those_spec_4_names() -> None:
    named = re.search(r"^(\w+), (\w+) and (\w+) are \*\*data", SPEC, re.MULTILINE)
    assert named is not None
    assert {member.name for member in DATA_FRAMES} == set(named.groups())


def test_header_has_24_bytes() -> None:
    assert HEADER_SIZE == HEADER.size == 24


@given(headers, st.binary(max_size=300), st.binary(max_size=40))
def test_frame_comes_back_with_what_follows_left_alone(
    fields: tuple[int, int, int, int, int], payload: bytes, rest: bytes
) -> None:
    whole = encoded(fields, payload)
    decoded = decode_frame(memoryview(whole + rest))
    assert decoded is not None
    header, found, left = decoded
    assert header[1:6] == fields
    assert header.length == len(payload)
    assert (found, left) == (payload, rest)
    assert Header(*HEADER.unpack(whole[:24])) == header


@given(headers, st.binary(max_size=300))
def test_crc_runs_over_the_payload_and_then_the_header(
    fields: tuple[int, int, int, int, int], payload: bytes
) -> None:
    whole = encoded(fields, payload)
    oracle = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
    assert int.from_bytes(whole[20:24], "big") == oracle(payload + whole[:20])


@given(headers, st.binary(max_size=60), st.data())
def test_any_cut_leaves_the_frame_incomplete(
    fields: tuple[int, int, int, int, int], payload: bytes, data: st.DataObject
) -> None:
    whole = encoded(fields, payload)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert decode_frame(whole[:cut]) is None


@given(headers, st.binary(max_size=60), st.data())
def test_any_flipped_bit_is_found(
    fields: tuple[int, int, int, int, int], payload: bytes, data: st.DataObject
) -> None:
    whole = bytearray(encoded(fields, payload))
    # A flipped length makes another frame of the stream: incomplete, too large, or
    # with a CRC over other bytes. Those behind it are here so that it can be complete.
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    try:
        assert decode_frame(bytes(whole) + bytes(70)) is None
    except ProtocolViolation as violation:
        if bit < 32:
            assert violation.code in (Code.BAD_CRC, Code.FRAME_TOO_LARGE)  # noqa: PT017
        else:
            assert violation.code is Code.BAD_CRC  # noqa: PT017


def test_length_is_checked_before_the_payload_is_there() -> None:
    header = pack_header(FrameType.CHUNK, 0, 0, 1, 0, 8_193, 0)
    assert decode_frame(header[:23], max_payload=8_192) is None
    with pytest.raises(ProtocolViolation, match="8193 bytes; at most 8192") as refused:
        decode_frame(header, max_payload=8_192)
    assert refused.value.code is Code.FRAME_TOO_LARGE


def test_payload_of_exactly_the_limit_is_accepted() -> None:
    whole = encode_frame(FrameType.CHUNK, bytes(8_192))
    assert decode_frame(whole, max_payload=8_192) is not None


def test_crc_of_a_payload_finishes_any_header() -> None:
    payload = b"shared by every subscriber"
    crc = crc32c(payload)
    for stream_id in (1, 2):
        header = pack_header(FrameType.EVENTS, 0, 0, stream_id, 5, len(payload), crc)
        assert header + payload == encode_frame(
            FrameType.EVENTS, payload, stream_id=stream_id, sequence=5
        )
        check(header[:20], crc, int.from_bytes(header[20:], "big"))


def test_wrong_crc_tells_both_values() -> None:
    with pytest.raises(ProtocolViolation, match=r"0x00000001.*0x8A9136AA"):
        check(bytes(32), 0, 1)


@given(u8)
def test_unknown_type_is_skipped_only_if_its_optional_bit_is_set(number: int) -> None:
    if number in set(FrameType):
        assert frame_type(number) is FrameType(number)
    elif number & OPTIONAL:
        assert frame_type(number) is None
    else:
        with pytest.raises(ProtocolViolation, match=f"0x{number:02X}") as refused:
            frame_type(number)
        assert refused.value.code is Code.UNKNOWN_FRAME
