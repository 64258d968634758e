"""The receiving half of a chunk stream, at its edges (SPEC.md §10, §13)."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import HEADER_SIZE
from ackline.proto.limits import MAX_RANGES
from ackline.proto.messages import Durability, End, Intent
from ackline.proto.notices import ChunkParked, ChunkReceived
from ackline.proto.open_chunk import PIECE
from tests.proto.joined import Pair

CHUNK = 4096
SIZE = 10 * CHUNK - 100
BIG = 2 * 2**20


def receiving(
    *, size_known: bool = True, chunk: int = CHUNK, size: int = SIZE
) -> tuple[Pair, ChunkReceiver]:
    """Return the server's half of an upload whose client sends nothing."""
    pair = Pair()
    pair.client.hold_loads = True
    stream = pair.client.upload(
        random.Random(1).randbytes(size),
        chunk_size=chunk,
        key="k",
        size_known=size_known,
    )
    pair.server.hold_stores = True
    pair.run()
    receiver = pair.s.streams[stream.id].receiver
    assert isinstance(receiver, ChunkReceiver)
    receiver.grant.limit_units = receiver.grant.limit_bytes = 10**9
    return pair, receiver


def send(
    receiver: ChunkReceiver,
    index: int,
    data: bytes,
    *,
    fragment: int = 0,
    last: bool = True,
) -> None:
    receiver.fragment(
        index, fragment, memoryview(data), crc32c(data), last=last, in_place=False
    )


def received(pair: Pair) -> list[ChunkReceived]:
    return [n for n in pair.server.notices if isinstance(n, ChunkReceived)]


def test_fragments_become_one_chunk() -> None:
    pair, receiver = receiving()
    send(receiver, 0, b"a" * 4000, last=False)
    assert received(pair) == []
    send(receiver, 0, b"b" * 96, fragment=1)
    (notice,) = received(pair)
    assert bytes(notice.data) == b"a" * 4000 + b"b" * 96
    assert (notice.crc, notice.length) == (crc32c(notice.data), CHUNK)


@pytest.mark.parametrize(
    ("index", "fragment", "size", "last", "why"),
    [
        (0, 1, 10, False, "begins with fragment 1"),
        (1, 0, CHUNK, True, "chunk 0 was expected"),
        (0, 0, 0, False, "empty or longer"),
        (0, 0, CHUNK + 1, True, "empty or longer"),
        (0, 0, CHUNK - 1, True, "shorter than agreed"),
    ],
)
def test_a_fragment_out_of_place_is_bad(
    index: int, fragment: int, size: int, last: bool, why: str
) -> None:
    _pair, receiver = receiving()
    with pytest.raises(ProtocolViolation, match=why) as found:
        send(receiver, index, b"x" * size, fragment=fragment, last=last)
    assert found.value.code is Code.BAD_FRAME


@pytest.mark.parametrize(("index", "fragment"), [(0, 0), (0, 2), (1, 0)])
def test_a_chunk_that_is_open_goes_on_with_its_next_fragment(
    index: int, fragment: int
) -> None:
    _pair, receiver = receiving()
    send(receiver, 0, b"x" * 10, last=False)
    with pytest.raises(ProtocolViolation, match="fragment 1 of chunk 0 was next"):
        send(receiver, index, b"x" * 10, fragment=fragment, last=False)


def test_a_chunk_beyond_the_size_is_bad() -> None:
    _pair, receiver = receiving()
    receiver.restore(dict.fromkeys(range(9), (CHUNK, 1)) | {9: (CHUNK - 100, 1)})
    with pytest.raises(ProtocolViolation, match="beyond the size"):
        send(receiver, 10, b"x")


def test_a_short_chunk_is_the_last_where_the_size_is_not_known() -> None:
    _pair, receiver = receiving(size_known=False)
    send(receiver, 0, b"short")
    with pytest.raises(ProtocolViolation, match="beyond the size"):
        send(receiver, 1, b"x" * CHUNK)


def test_a_chunk_after_the_end_is_bad() -> None:
    _pair, receiver = receiving(size_known=False)
    send(receiver, 0, b"x" * CHUNK)
    receiver.end_received(1, End(Intent.COMPLETED, 0, "", size=CHUNK))
    with pytest.raises(ProtocolViolation, match="chunk 1 was expected"):
        send(receiver, 1, b"x" * CHUNK)


@pytest.mark.parametrize("number", [0, 2])
def test_an_end_out_of_place_is_bad(number: int) -> None:
    _pair, receiver = receiving()
    send(receiver, 0, b"x" * CHUNK)
    with pytest.raises(ProtocolViolation, match="END as unit") as found:
        receiver.end_received(number, End(Intent.COMPLETED, 0, ""))
    assert found.value.code is Code.BAD_FRAME


def test_a_completed_end_in_the_middle_of_a_chunk_is_bad() -> None:
    _pair, receiver = receiving()
    send(receiver, 0, b"x", last=False)
    with pytest.raises(ProtocolViolation, match="END as unit 0"):
        receiver.end_received(0, End(Intent.COMPLETED, 0, ""))


@pytest.mark.parametrize("intent", [Intent.FAILED, Intent.CANCELLED])
def test_an_end_that_gives_up_drops_the_chunk_it_comes_in_the_middle_of(
    intent: Intent,
) -> None:
    """SPEC.md §10."""
    _pair, receiver = receiving()
    send(receiver, 0, b"x", last=False)
    with pytest.raises(ProtocolViolation, match="END as unit 1"):
        receiver.end_received(1, End(intent, Code.SOURCE_CHANGED, ""))
    assert receiver.end_received(0, End(intent, Code.SOURCE_CHANGED, ""))
    assert receiver.complete
    receiver.close()
    assert receiver.budget.used == 0


def test_ranges_name_the_lowest_that_are_stored_beyond_a_hole() -> None:
    _pair, receiver = receiving(size_known=False)
    receiver.restore(dict.fromkeys((0, 2, 3, 5), (CHUNK, 1)))
    assert receiver.stored == 1
    assert receiver.ranges() == ((2, 4), (5, 6))
    receiver.restore(dict.fromkeys(range(0, 1000, 2), (CHUNK, 1)))
    ranges = receiver.ranges()
    assert len(ranges) == MAX_RANGES
    assert ranges[:2] == ((2, 3), (4, 5))


def test_what_is_stored_is_told_with_crc_and_length() -> None:
    _pair, receiver = receiving()
    chunks = {0: (CHUNK, 5), 1: (CHUNK, 6), 9: (CHUNK - 100, 7)}
    receiver.restore(chunks)
    assert receiver.chunks() == {0: (5, CHUNK), 1: (6, CHUNK), 9: (7, CHUNK - 100)}


def test_the_last_chunk_of_the_prefix_may_be_short() -> None:
    _pair, receiver = receiving()
    chunks = {index: (CHUNK, index) for index in range(9)} | {9: (CHUNK - 100, 9)}
    receiver.restore(chunks)
    assert receiver.stored == 10
    assert receiver.chunks()[9] == (9, CHUNK - 100)
    assert receiver.whole()[0] == SIZE


def test_bytes_held_of_the_next_chunk_are_told_and_continued() -> None:
    pair, receiver = receiving()
    receiver.restore_held(0, 96, crc32c(b"a" * 96))
    assert receiver.held() == (96, crc32c(b"a" * 96))
    send(receiver, 0, b"b" * 4000)
    (notice,) = received(pair)
    assert (notice.offset, notice.length) == (96, CHUNK)
    assert notice.crc == crc32c(b"a" * 96 + b"b" * 4000)
    assert bytes(notice.data) == b"b" * 4000


def test_bytes_that_could_not_be_parked_are_not_said_to_be_held() -> None:
    pair, receiver = receiving()
    send(receiver, 0, b"x" * 100, last=False)
    parked: list[ChunkParked] = []
    receiver.stream.notify = parked.append  # type: ignore[assignment]
    pair.drop()
    assert receiver.held()[0] == 100
    assert receiver.busy
    receiver.chunk_parked(parked[0], kept=False)
    assert receiver.held() == (0, 0)
    assert not receiver.busy
    assert pair.server.budget.used == 0


def test_a_place_is_given_only_where_the_bytes_belong() -> None:
    _pair, receiver = receiving()
    assert receiver.place_for(1, 0, 10) is None
    assert receiver.place_for(0, 1, 10) is None
    place = receiver.place_for(0, 0, 10)
    assert place is not None
    assert len(place) == 10 + HEADER_SIZE  # for the next fragment's header
    assert receiver.place_for(0, 0, CHUNK + 1) is None
    place = place[:10]
    place[:] = b"0123456789"
    receiver.fragment(0, 0, place, crc32c(place), last=False, in_place=True)
    assert receiver.place_for(0, 0, 10) is None
    assert receiver.place_for(1, 1, 10) is None
    again = receiver.place_for(0, 1, 10)
    assert again is not None
    assert bytes(again[:10]) == bytes(10)


@pytest.mark.parametrize(("units", "size"), [(0, 10**6), (5, 9)])
def test_no_place_is_given_beyond_the_window(units: int, size: int) -> None:
    _pair, receiver = receiving()
    receiver.grant.restart(units, size)
    assert receiver.place_for(0, 0, 10) is None


def test_no_place_is_given_to_a_stream_that_ends() -> None:
    pair, receiver = receiving()
    assert pair.s.place_for(0x13, 0, 1, 0, 10) is None
    receiver.stream.cancelling = True
    assert pair.s.place_for(0x12, 0, 1, 0, 10) is None
    receiver.stream.cancelling = False
    assert pair.s.place_for(0x12, 0, 1, 0, 10) is not None


def test_a_last_chunk_that_was_held_whole_is_confirmed_by_the_sender() -> None:
    """SPEC.md §8.2: who has only a file cannot know that its last chunk is whole."""
    pair, receiver = receiving(size_known=False)
    receiver.restore_held(0, 50, 7)
    receiver.confirmed(0)
    assert receiver.stored == 0
    receiver.confirmed(1)
    assert receiver.stored == 1
    assert receiver.chunks() == {0: (7, 50)}
    assert receiver.durability is Durability.SYNCED
    assert pair.server.waiting == []


class Parts:
    """Takes the parts of chunks as a store in memory does; full for all if told so."""

    def __init__(self, receiver: ChunkReceiver) -> None:
        self.receiver = receiver
        self.data = bytearray(SIZE)
        self.sizes: list[int] = []
        self.full = False
        receiver.write = self.write

    def write(self, index: int, offset: int, data: memoryview) -> bool:
        if self.full:
            self.receiver.give_up_open(code=Code.INSUFFICIENT_STORAGE, retry_after=2.0)
            return False
        at = index * self.receiver.chunk_size + offset
        self.data[at : at + len(data)] = data
        self.sizes.append(len(data))
        return True


def in_place(
    receiver: ChunkReceiver, index: int, fragment: int, data: bytes, *, last: bool
) -> None:
    """Send a fragment as the reader does that reads it to where it belongs."""
    place = receiver.place_for(index, fragment, len(data))
    assert place is not None
    assert len(place) == len(data) + HEADER_SIZE  # the next header is read with it
    place[: len(data)] = data
    receiver.fragment(
        index, fragment, place[: len(data)], crc32c(data), last=last, in_place=True
    )


def test_parts_are_written_as_they_come_and_the_chunk_has_nothing_left() -> None:
    _pair, receiver = receiving(chunk=BIG, size=2 * BIG)
    parts = Parts(receiver)
    data = random.Random(2).randbytes(BIG)
    cuts = [0, 100, 100 + PIECE - 1, 100 + PIECE + 2**20, BIG]
    parts.data = bytearray(2 * BIG)
    for fragment, (begin, end) in enumerate(pairwise(cuts)):
        in_place(receiver, 0, fragment, data[begin:end], last=end == BIG)
    (notice,) = received(_pair)
    assert parts.data[:BIG] == data
    assert parts.sizes == [99 + PIECE, 2**20 + 1, BIG - cuts[3]]  # worth a write each
    assert bytes(notice.data) == b""
    assert (notice.crc, notice.length) == (crc32c(data), BIG)


def test_what_was_written_of_a_half_chunk_is_held_without_parking() -> None:
    pair, receiver = receiving()
    parts = Parts(receiver)
    send(receiver, 0, b"a" * 1000, last=False)
    send(receiver, 0, b"b" * 500, fragment=1, last=False)
    receiver.detach()
    assert not receiver.busy
    assert not [n for n in pair.server.notices if isinstance(n, ChunkParked)]
    assert parts.data[:1500] == b"a" * 1000 + b"b" * 500
    assert receiver.held() == (1500, crc32c(parts.data[:1500]))
    receiver.attach()
    receiver.grant.limit_units = receiver.grant.limit_bytes = 10**9
    send(receiver, 0, b"c" * (CHUNK - 1500))
    (notice,) = received(pair)
    assert parts.data[:CHUNK] == b"a" * 1000 + b"b" * 500 + b"c" * (CHUNK - 1500)
    assert notice.crc == crc32c(parts.data[:CHUNK])


@pytest.mark.parametrize("detached", [False, True])
def test_a_part_that_cannot_be_written_has_its_chunk_sent_again_later(
    detached: bool,
) -> None:
    pair, receiver = receiving()
    parts = Parts(receiver)
    parts.full = True
    send(receiver, 0, b"a" * 1000, last=False)
    if detached:
        receiver.detach()
        assert receiver.held() == (0, 0)
        return
    send(receiver, 0, b"b" * (CHUNK - 1000), fragment=1)
    assert received(pair) == []
    _position, ack, rewind = receiver.ack()
    assert rewind
    assert (ack.code, ack.retry_after) == (Code.INSUFFICIENT_STORAGE, 2.0)
    parts.full = False
    send(receiver, 0, b"c" * CHUNK)
    (notice,) = received(pair)
    assert notice.crc == crc32c(b"c" * CHUNK)
    receiver.chunk_stored(notice)
    assert parts.data[:CHUNK] == b"c" * CHUNK
    receiver.close()
    assert receiver.budget.used == 0
