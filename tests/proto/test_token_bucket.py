"""What one identity may move, counted in time (SPEC.md §12)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest

from ackline.proto.stats import Stats
from ackline.proto.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable


class Calls(list[TokenBucket]):
    """The buckets that asked to be served."""


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def bucket(calls: Calls) -> TokenBucket:
    bucket = TokenBucket(Stats(), calls.append)
    bucket.limit(10, 1000)
    return bucket


def test_a_second_of_the_rate_is_free_after_a_pause(bucket: TokenBucket) -> None:
    bucket.spend(0, 1000, 50.0)
    assert bucket.owed(50.0) == 0
    bucket.spend(0, 1, 50.0)
    assert bucket.owed(50.0) == pytest.approx(0.001)
    bucket.spend(0, 1000, 1000.0)  # not more than a second's, however long the pause
    bucket.spend(0, 1000, 1000.0)
    assert bucket.owed(1000.0) == pytest.approx(1.0)


def test_what_is_larger_than_the_burst_makes_debt(bucket: TokenBucket) -> None:
    bucket.spend(0, 5000, 0.0)
    assert bucket.owed(0.0) == pytest.approx(4.0)
    assert bucket.owed(3.0) == pytest.approx(1.0)
    assert bucket.owed(4.5) == 0


def test_the_scarcer_of_events_and_bytes_counts(bucket: TokenBucket) -> None:
    bucket.spend(30, 1000, 0.0)
    assert bucket.owed(0.0) == pytest.approx(2.0)
    bucket.spend(0, 5000, 0.0)
    assert bucket.owed(0.0) == pytest.approx(5.0)


def test_what_never_moved_is_given_back(bucket: TokenBucket) -> None:
    bucket.spend(20, 3000, 0.0)
    bucket.refund(20, 3000)
    assert bucket.owed(0.0) == 0


def test_nothing_is_owed_without_a_limit() -> None:
    bucket = TokenBucket(Stats(), lambda _bucket: None)
    bucket.spend(10**9, 10**12, 0.0)
    assert bucket.owed(0.0) == 0


def test_who_waits_is_served_in_turn_until_there_is_debt_again(
    bucket: TokenBucket, calls: Calls
) -> None:
    served: list[str] = []

    def moves(name: str) -> Callable[[], None]:
        def move() -> None:
            served.append(name)
            bucket.spend(0, 500, 3.0)

        return move

    a, b, c = moves("a"), moves("b"), moves("c")
    bucket.spend(0, 3000, 0.0)
    for ready in (a, b, c, a):
        bucket.wait(ready, 0.0)
    assert bucket.waiting == 3
    assert calls == [bucket]  # asked once for all of them
    bucket.serve(1.0)
    assert served == []  # too early: it asks again
    assert calls == [bucket] * 2
    bucket.forget(b)
    bucket.serve(3.0)
    assert served == ["a", "c"]
    assert calls == [bucket] * 2


def test_served_ones_leave_the_rest_to_the_next_turn(
    bucket: TokenBucket, calls: Calls
) -> None:
    bucket.spend(0, 2000, 0.0)
    bucket.wait(first := lambda: bucket.spend(0, 3000, 1.0), 0.0)
    bucket.wait(second := lambda: None, 0.0)
    bucket.serve(1.0)
    assert not bucket.waits(first)
    assert bucket.waits(second)
    assert bucket.owed(1.0) == pytest.approx(3.0)
    assert calls == [bucket] * 2


def test_the_time_that_was_waited_is_counted(calls: Calls) -> None:
    stats = Stats()
    bucket = TokenBucket(stats, calls.append)
    bucket.limit(inf, 1000)
    bucket.spend(0, 3000, 10.0)
    bucket.wait(lambda: None, 10.5)
    bucket.serve(12.5)
    assert stats.held_seconds == pytest.approx(2.0)


def test_a_clock_that_is_late_neither_waits_longer_nor_for_ever(
    bucket: TokenBucket, calls: Calls
) -> None:
    bucket.spend(0, 3000, 10.0)

    def again() -> None:
        if bucket.owed(10.0):  # as a connection that has heard nothing since
            bucket.wait(again, 10.0)

    bucket.wait(again, 10.0)
    bucket.serve(12.0)
    assert bucket.waiting == 0
    assert calls == [bucket]
