"""Cutting bytes into frames (SPEC.md §3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import HEADER_SIZE, FrameType, encode_frame
from ackline.proto.reader import SCRATCH_SIZE, FrameReader, scratch_buffer

LIMIT = 300_000


class Sink:
    """Keeps what it is given; gives places of its own for chunks if it is to.

    With `behind` bytes more than the body needs.
    """

    def __init__(self, *, placing: bool = False, behind: int = 0) -> None:
        self.placing = placing
        self.behind = behind
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.places: list[bytearray] = []
        self.in_place: list[bool] = []
        self.reader: FrameReader | None = None
        self.hold_after = 0

    def frame_received(
        self,
        kind: int,
        flags: int,
        fragment: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
        in_place: bool,
    ) -> None:
        assert flags == fragment == 0
        self.frames.append((kind, stream_id, sequence, bytes(payload)))
        self.in_place.append(in_place)
        if self.reader is not None and len(self.frames) == self.hold_after:
            self.reader.hold()

    def place_for(
        self, kind: int, fragment: int, stream_id: int, sequence: int, length: int
    ) -> memoryview | None:
        if not self.placing:
            return None
        self.places.append(bytearray(length + self.behind))
        return memoryview(self.places[-1])


def reader(sink: Sink, *, read_size: int = SCRATCH_SIZE) -> FrameReader:
    made = FrameReader(sink, scratch_buffer(), max_payload=LIMIT, read_size=read_size)
    sink.reader = made
    return made


def chunk(number: int, payload: bytes) -> bytes:
    return encode_frame(FrameType.CHUNK, payload, stream_id=7, sequence=number)


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=12),
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
    placing=st.booleans(),
    behind=st.integers(0, HEADER_SIZE),
    read_size=st.sampled_from([24, 8192, SCRATCH_SIZE]),
)
def test_no_cut_changes_what_is_read(
    sizes: list[int], cuts: list[int], placing: bool, behind: int, read_size: int
) -> None:
    sink = Sink(placing=placing, behind=behind)
    reading = reader(sink, read_size=read_size)
    bodies = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    wire = b"".join(chunk(number, body) for number, body in enumerate(bodies))
    at = 0
    while at < len(wire):
        size = cuts[at % len(cuts)]
        reading.feed(wire[at : at + size])
        at += size
    assert [frame[3] for frame in sink.frames] == bodies
    assert [frame[2] for frame in sink.frames] == list(range(len(bodies)))
    assert reading.bytes == len(wire)
    assert reading.frames == len(bodies)


def test_many_small_frames_of_one_read_are_cut_where_they_begin() -> None:
    sink = Sink()
    reading = reader(sink)
    bodies = [bytes([n % 256]) * (n * 37 % 1100) for n in range(200)]
    wire = b"".join(chunk(number, body) for number, body in enumerate(bodies))
    assert len(wire) < SCRATCH_SIZE
    reading.feed(wire)
    assert [frame[3] for frame in sink.frames] == bodies


def test_a_body_is_read_into_the_place_it_belongs_to() -> None:
    sink = Sink(placing=True)
    reading = reader(sink)
    wire = chunk(0, b"x" * 1000)
    reading.feed(wire[:100])
    place = reading.buffer()
    assert len(place) == 1000 - 76
    place[:] = wire[100:]
    reading.received(len(place))
    assert sink.in_place == [True]
    assert sink.places[0] == b"x" * 1000


def test_the_next_header_is_read_together_with_a_body() -> None:
    sink = Sink(placing=True, behind=HEADER_SIZE)
    reading = reader(sink)
    wire = chunk(0, b"x" * 1000) + chunk(1, b"y" * 1000)
    reading.feed(wire[:100])
    place = reading.buffer()
    assert len(place) == 1000 - 76 + HEADER_SIZE
    place[:] = wire[100:1048]
    reading.received(len(place))
    assert len(sink.frames) == 1
    assert len(reading.buffer()) == 1000 + HEADER_SIZE
    reading.feed(wire[1048:])
    assert [frame[3] for frame in sink.frames] == [b"x" * 1000, b"y" * 1000]
    assert sink.in_place == [True, True]


def test_a_header_read_together_with_a_body_waits_while_reading_is_held() -> None:
    sink = Sink(placing=True, behind=HEADER_SIZE)
    reading = reader(sink)
    sink.hold_after = 1
    reading.feed(chunk(0, b"x" * 1000)[:100])
    reading.feed(chunk(0, b"x" * 1000)[100:] + chunk(1, b""))
    assert len(sink.frames) == 1
    reading.release()
    assert len(sink.frames) == 2


def test_little_is_read_behind_a_body_that_had_its_own_place() -> None:
    reading = reader(Sink())
    wire = chunk(0, b"x" * 1000)
    reading.feed(wire[:100])
    reading.feed(wire[100:])
    assert len(reading.buffer()) == 512
    reading.feed(chunk(1, b""))
    assert len(reading.buffer()) == SCRATCH_SIZE


def test_a_length_above_the_limit_is_refused_at_its_header() -> None:
    reading = reader(Sink())
    wire = chunk(0, b"x" * (LIMIT + 1))
    reading.feed(wire[:23])
    with pytest.raises(ProtocolViolation) as found:
        reading.feed(wire[23:24])
    assert found.value.code is Code.FRAME_TOO_LARGE


@pytest.mark.parametrize("cut", [0, 10, 30, 70])
def test_a_wrong_crc_is_found_and_its_stream_is_known(cut: int) -> None:
    sink = Sink()
    reading = reader(sink)
    wire = bytearray(chunk(3, b"x" * 50))
    wire[40] ^= 1
    reading.feed(wire[:cut])
    with pytest.raises(ProtocolViolation, match="sequence number 3") as found:
        reading.feed(wire[cut:])
    assert found.value.code is Code.BAD_CRC
    assert reading.stream_id == 7
    assert sink.frames == []


def test_nothing_is_handed_out_while_reading_is_held() -> None:
    sink = Sink()
    reading = reader(sink)
    sink.hold_after = 2
    reading.feed(b"".join(chunk(number, b"abc") for number in range(5)))
    assert len(sink.frames) == 2
    reading.feed(chunk(5, b"later"))
    assert len(sink.frames) == 2
    reading.release()
    assert [frame[2] for frame in sink.frames] == [0, 1, 2, 3, 4, 5]
    reading.release()
    assert len(sink.frames) == 6


def test_reading_can_be_held_again_by_what_was_held() -> None:
    sink = Sink()
    reading = reader(sink)
    sink.hold_after = 1
    reading.feed(b"".join(chunk(number, b"abc") for number in range(3)))
    sink.hold_after = 2
    reading.release()
    assert len(sink.frames) == 2
    reading.release()
    assert len(sink.frames) == 3
