from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.proofs import NOTHING
from ackline.server.stores.entities import StoredBatch
from ackline.server.stores.tail import TailCache


def batch(first_id: int, count: int, size: int) -> StoredBatch:
    return StoredBatch(
        first_id=first_id,
        count=count,
        payload=bytes(size),
        payload_crc=0,
        time=0,
        sums_before=NOTHING,
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(1, 3000)),
        max_size=60,
    ),
    st.integers(0, 20_000),
)
def test_tails_hold_the_newest_batches_within_the_budget(
    steps: list[tuple[int, int, int]], budget: int
) -> None:
    cache = TailCache(budget)
    tails = [cache.tail() for _ in range(3)]
    added: list[list[StoredBatch]] = [[], [], []]
    for number, count, size in steps:
        first = added[number][-1].next_id if added[number] else 0
        added[number].append(batch(first, count, size))
        tails[number].add(added[number][-1])
        assert cache.size <= budget
    for tail, batches in zip(tails, added, strict=True):
        held = [b for b in batches if tail.find(b.first_id, 1) is not None]
        assert held == batches[len(batches) - len(held) :]
        for one in held:
            assert tail.find(one.next_id - 1, 1) == [one]
            assert tail.find(one.first_id, 2**30) == batches[batches.index(one) :]
        if batches:
            assert tail.find(batches[-1].next_id, 1) is None


def test_budget_in_bytes_of_payload_limits_what_is_returned() -> None:
    tail = TailCache(2**20).tail()
    for number in range(10):
        tail.add(batch(number, 1, 100))
    for most, expected in ((0, 0), (1, 1), (100, 1), (101, 2), (10_000, 7)):
        found = tail.find(3, most)
        assert found is not None
        assert len(found) == expected


def test_cleared_tail_gives_its_memory_back_and_starts_anew() -> None:
    cache = TailCache(6000)
    one, two = cache.tail(), cache.tail()
    for number in range(3):
        one.add(batch(number, 1, 1000))
    one.clear()
    assert cache.size == 0
    assert one.find(0, 1) is None
    for number in range(3):
        two.add(batch(number, 1, 1000))
        one.add(batch(number + 7, 1, 100))
    assert two.find(0, 1) is not None
    assert one.find(0, 1) is None
    assert one.find(7, 1) is not None


def test_dropped_batches_are_not_held() -> None:
    cache = TailCache(10_000)
    tail = cache.tail()
    for number in range(2000):
        tail.add(batch(number, 1, 700))
    assert len(tail._batches) < 15


def test_tails_that_come_and_go_leave_nothing_behind() -> None:
    """A log comes with each durable run, and the budget may never be used up."""
    cache = TailCache(2**20)
    stays = cache.tail()
    for number in range(100):
        stays.add(batch(number, 1, 10))
        goes = cache.tail()
        for each in range(10):
            goes.add(batch(each, 1, 10))
        goes.clear()
    assert len(cache._order) < 250
    assert stays.find(0, 1) is not None
