from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.checksums import crc32c
from ackline.server.stores.chunkmap import ChunkMap
from tests.server.stores.support import pieces


@given(st.binary(max_size=60), st.integers(1, 9), st.booleans(), st.data())
def test_map_agrees_with_a_dictionary_in_any_order(
    data: bytes, size: int, known: bool, draw: st.DataObject
) -> None:
    chunks = pieces(data, size)
    order = draw.draw(st.permutations(range(len(chunks))))
    chunk_map = ChunkMap(size, len(data) if known else None)
    model: dict[int, tuple[int, int]] = {}
    for index in order:
        length, crc = len(chunks[index]), crc32c(chunks[index])
        assert index not in chunk_map
        chunk_map.add(index, length, crc)
        model[index] = (length, crc)
        position = next(n for n in range(len(chunks) + 1) if n not in model)
        prefix = b"".join(chunks[:position])
        beyond = {n for r in chunk_map.ranges_beyond for n in range(*r)}
        assert chunk_map.position == position
        assert beyond == {n for n in model if n > position}
        assert chunk_map.contiguous_bytes == len(prefix)
        assert chunk_map.crc == crc32c(prefix)
        assert chunk_map.bytes_stored == sum(length for length, _ in model.values())
        assert len(chunk_map) == len(model)
        assert [chunk_map.find(n) for n in range(len(chunks))] == [
            model.get(n) for n in range(len(chunks))
        ]
    assert chunk_map.crcs() == [crc32c(chunk) for chunk in chunks]


def test_ranges_are_joined() -> None:
    chunk_map = ChunkMap(10)
    for index in (7, 2, 3, 5, 4):
        chunk_map.add(index, 10, 0)
    assert chunk_map.ranges_beyond == [(2, 6), (7, 8)]


@pytest.mark.parametrize(
    ("index", "length"), [(-1, 10), (0, 0), (0, 11), (2, 10), (2, 4), (3, 5), (1, 5)]
)
def test_chunk_outside_a_known_size_is_refused(index: int, length: int) -> None:
    chunk_map = ChunkMap(10, 25)
    with pytest.raises(ValueError, match="chunk"):
        chunk_map.check(index, length)
    chunk_map.check(2, 5)


def test_only_the_last_chunk_may_be_short() -> None:
    chunk_map = ChunkMap(10)
    chunk_map.add(3, 10, 0)
    with pytest.raises(ValueError, match="short and not the last"):
        chunk_map.add(2, 9, 0)
    chunk_map.add(4, 9, 0)
    with pytest.raises(ValueError, match="comes after"):
        chunk_map.add(5, 10, 0)
    with pytest.raises(ValueError, match="short and not the last"):
        chunk_map.add(0, 9, 0)
    assert len(chunk_map) == 2
