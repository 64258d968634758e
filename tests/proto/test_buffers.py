"""Reused buffers for chunks."""

from __future__ import annotations

import pytest

from ackline.proto.buffers import MAX_IDLE_BYTES, MIN_POOLED, BufferPool


def same(left: memoryview, right: memoryview) -> bool:
    return left.obj is right.obj


def test_a_buffer_that_was_given_back_is_used_again() -> None:
    pool = BufferPool()
    first = pool.take(MIN_POOLED)
    pool.give(first[:10])  # any part stands for the whole
    assert same(pool.take(MIN_POOLED), first)
    assert not same(pool.take(MIN_POOLED), first)


def test_a_buffer_has_exactly_the_size_asked_for() -> None:
    pool = BufferPool()
    pool.give(pool.take(MIN_POOLED + 1))
    assert len(pool.take(MIN_POOLED)) == MIN_POOLED


@pytest.mark.parametrize("size", [1, MIN_POOLED - 1, MAX_IDLE_BYTES + 1])
def test_small_and_huge_buffers_are_not_kept(size: int) -> None:
    pool = BufferPool()
    first = pool.take(size)
    pool.give(first)
    assert not same(pool.take(size), first)


def test_idle_memory_is_bounded() -> None:
    pool = BufferPool()
    size = MAX_IDLE_BYTES // 4
    buffers = [pool.take(size) for _ in range(6)]
    for buffer in buffers:
        pool.give(buffer)
    again = [pool.take(size) for _ in range(6)]
    assert sum(any(same(a, b) for b in buffers) for a in again) == 4


def test_odd_sizes_do_not_fill_the_pool_for_ever() -> None:
    pool = BufferPool()
    odd = pool.take(MAX_IDLE_BYTES - 1)
    pool.give(odd)
    usual = pool.take(MAX_IDLE_BYTES // 4)
    pool.give(usual)
    assert same(pool.take(MAX_IDLE_BYTES // 4), usual)
    assert not same(pool.take(MAX_IDLE_BYTES - 1), odd)


def test_what_is_no_buffer_of_ours_is_left_alone() -> None:
    pool = BufferPool()
    pool.give(memoryview(bytes(MIN_POOLED)))
    assert not pool.take(MIN_POOLED).readonly
