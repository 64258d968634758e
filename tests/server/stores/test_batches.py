from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.proofs import ProofSum
from ackline.server.stores.batches import (
    BATCH,
    HEADER_SIZE,
    RecordHeader,
    pack_header,
    parse_header,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
sums = st.builds(ProofSum, u64, u32, u32)
headers = st.builds(
    RecordHeader,
    kind=st.sampled_from([1, 2]),
    payload_length=u32,
    payload_crc=u32,
    count=u32,
    first_id=u64,
    time=u64,
    group=u64,
    epoch=u64,
    first_unit=u64,
    publisher_sums=sums,
    sums_before=sums,
    sums_after=sums,
    publisher=st.text(st.characters(codec="utf-8"), max_size=20),
)


@given(headers, u32, st.binary(max_size=5))
def test_header_comes_back(header: RecordHeader, salt: int, trailing: bytes) -> None:
    packed = pack_header(header, salt)
    assert parse_header(packed + trailing, salt) == (header, len(packed))
    assert parse_header(packed[:-1], salt) is None
    assert parse_header(packed, salt ^ 1) is None


@given(headers, u32, st.data())
def test_any_flipped_bit_is_noticed(
    header: RecordHeader, salt: int, data: st.DataObject
) -> None:
    packed = bytearray(pack_header(header, salt))
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    assert parse_header(packed, salt) is None


def test_bytes_are_where_the_drawing_says() -> None:
    header = RecordHeader(
        kind=BATCH,
        payload_length=0x0C0D0E0F,
        payload_crc=0x10111213,
        count=0x14151617,
        first_id=0x18191A1B1C1D1E1F,
        time=0x2021222324252627,
        group=0x28292A2B2C2D2E2F,
        epoch=0x3031323334353637,
        first_unit=0x38393A3B3C3D3E3F,
        publisher_sums=ProofSum(0x4041424344454647, 0x48494A4B, 0x4C4D4E4F),
        sums_before=ProofSum(0x5051525354555657, 0x58595A5B, 0x5C5D5E5F),
        sums_after=ProofSum(0x6061626364656667, 0x68696A6B, 0x6C6D6E6F),
        publisher="pq",
    )
    packed = pack_header(header, 0)
    assert packed[:4] == b"AcB1"
    assert packed[8:12] == bytes([BATCH, 0, 0, 2])
    assert packed[12:] == bytes(range(12, HEADER_SIZE)) + b"pq"
    assert HEADER_SIZE == 112


def test_what_a_header_says_about_its_batch() -> None:
    header = RecordHeader(
        BATCH, 1, 2, 3, 100, 5, 6, 7, 8, ProofSum(9), ProofSum(10), ProofSum(11), "p"
    )
    assert header.next_id == 103
    state = header.publisher_state()
    assert (state.epoch, state.position, state.log_position) == (7, 11, 103)
    assert state.sums == ProofSum(9)
    batch = header.batch(b"x")
    assert (batch.first_id, batch.next_id, batch.sums_before) == (
        100,
        103,
        ProofSum(10),
    )
    assert msgspec.structs.asdict(batch)["payload"] == b"x"
