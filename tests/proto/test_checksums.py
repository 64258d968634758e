from __future__ import annotations

import importlib
import os
import sys
import time
from importlib.machinery import PathFinder
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import crcmod.predefined
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto import checksums
from ackline.proto.checksums import combine, composed, crc32c, subtract

if TYPE_CHECKING:
    from collections.abc import Iterator

# An implementation that shares no code with the one under test.
oracle = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

crcs = st.integers(0, 2**32 - 1)
lengths = st.integers(0, 2**64 - 1)


@pytest.fixture
def portable() -> Iterator[ModuleType]:
    """Import the module again as if the crc32c package were not installed."""
    name = checksums.__name__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "crc32c", None)
        patch.delitem(sys.modules, name)
        yield importlib.import_module(name)
    package, _, attribute = name.rpartition(".")
    setattr(sys.modules[package], attribute, checksums)


def test_check_value_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_no_bytes_have_crc_zero() -> None:
    assert crc32c(b"") == 0
    assert crc32c(b"", 0xE3069283) == 0xE3069283


@given(st.binary(max_size=300))
def test_crc_agrees_with_the_oracle(data: bytes) -> None:
    assert crc32c(data) == oracle(data)


@given(st.binary(), st.binary())
def test_value_continues_from_previous_bytes(first: bytes, second: bytes) -> None:
    assert crc32c(second, crc32c(first)) == oracle(first + second)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_accepted(kind: Any) -> None:
    assert crc32c(kind(b"123456789")) == 0xE3069283
    assert crc32c(memoryview(bytearray(b"x123456789"))[1:]) == 0xE3069283


@given(st.binary(), st.binary())
def test_combine_is_the_crc_of_the_concatenation(first: bytes, second: bytes) -> None:
    assert combine(oracle(first), oracle(second), len(second)) == oracle(first + second)


@pytest.mark.parametrize("length", [2**16 - 1, 2**18, 2**20 + 1, 2**22])
def test_combine_over_sizes_of_fragments_and_chunks(length: int) -> None:
    first, second = os.urandom(100), os.urandom(length)
    assert combine(oracle(first), oracle(second), length) == oracle(first + second)


@given(crcs)
def test_combining_with_nothing_changes_nothing(crc: int) -> None:
    assert combine(crc, 0, 0) == crc
    assert combine(0, crc, 12345) == crc


@given(crcs, crcs, lengths)
def test_subtract_is_the_inverse_of_combine(
    first: int, second: int, length: int
) -> None:
    assert subtract(combine(first, second, length), first, length) == second


@given(st.binary(), st.binary())
def test_subtract_is_the_crc_of_the_second_part(first: bytes, second: bytes) -> None:
    assert subtract(oracle(first + second), oracle(first), len(second)) == oracle(
        second
    )


@given(crcs, crcs, crcs, st.integers(0, 2**62), st.integers(0, 2**62))
def test_combine_is_associative(
    first: int, second: int, third: int, second_length: int, third_length: int
) -> None:
    from_left = combine(combine(first, second, second_length), third, third_length)
    from_right = combine(
        first,
        combine(second, third, third_length),
        second_length + third_length,
    )
    assert from_left == from_right


@pytest.mark.parametrize("exponent", [22, 32, 40, 63])
def test_long_lengths_agree_with_doubling_a_block_of_zeros(exponent: int) -> None:
    # Appending a block and doubling it uses every power of two below the whole length,
    # never the whole length: its own operator has to arrive at the same CRC.
    first, zeros, length = 0x12345678, oracle(bytes(2**12)), 2**12
    whole = combine(first, zeros, length)
    while length < 2**exponent:
        whole = combine(whole, zeros, length)
        zeros = combine(zeros, zeros, length)
        length *= 2
    assert combine(first, zeros, length) == whole


@given(st.lists(st.binary(max_size=50), max_size=12))
def test_composed_is_the_crc_of_all_parts(parts: list[bytes]) -> None:
    whole = composed((oracle(part), len(part)) for part in parts)
    assert whole == oracle(b"".join(parts))


@pytest.mark.parametrize("length", [-1, 2**64])
def test_length_beyond_64_bits_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        combine(1, 2, length)
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        subtract(1, 2, length)


def test_recent_lengths_are_remembered_and_their_number_is_bounded() -> None:
    remembered = checksums._operator.cache_info().maxsize
    assert remembered is not None
    for length in range(remembered + 10):
        combine(1, 2, length)
    assert checksums._operator.cache_info().currsize == remembered
    hits = checksums._operator.cache_info().hits
    combine(1, 2, remembered + 9)
    assert checksums._operator.cache_info().hits == hits + 1


def test_unknown_length_costs_well_under_a_millisecond() -> None:
    costs: list[float] = []
    for length in range(2**40 - 1, 2**40 - 31, -1):
        checksums._operator.cache_clear()
        start = time.perf_counter()
        combine(1, 2, length)
        costs.append(time.perf_counter() - start)
    # The least of many: the rest measure what else this machine is doing.
    assert min(costs) < 1e-3


def test_without_the_package_the_portable_loop_gives_the_same_crcs(
    portable: ModuleType,
) -> None:
    assert portable is not checksums
    assert portable.HARDWARE is False
    assert portable.crc32c is not crc32c
    assert portable.crc32c(b"123456789") == 0xE3069283
    data = os.urandom(10_001)
    for kind in (bytes, bytearray, memoryview):
        first, second = kind(data)[:4000], kind(data)[4000:]
        assert portable.crc32c(second, portable.crc32c(first)) == crc32c(data)
    assert portable.combine(0x1234, 0x5678, 4321) == combine(0x1234, 0x5678, 4321)


def test_package_is_imported_where_its_extension_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = importlib.import_module("crc32c")
    monkeypatch.setattr(PathFinder, "find_spec", lambda *_: None)
    assert checksums._library() is package


def test_function_is_the_library_function_itself() -> None:
    package: Any = importlib.import_module("crc32c")
    assert type(crc32c) is type(package.crc32c) is BuiltinFunctionType
    assert checksums.HARDWARE is bool(package.hardware_based)
