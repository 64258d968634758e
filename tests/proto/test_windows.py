"""Windows, grants and the memory behind them (SPEC.md §12)."""

from __future__ import annotations

from functools import partial

import pytest

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.windows import STUCK, Budget, Grant, Window


def test_a_window_is_full_exactly_at_its_limits() -> None:
    window = Window(2, 100)
    assert window.fits(2, 100)
    assert not window.fits(3, 100)
    assert not window.fits(2, 101)
    window.reserve(1, 60)
    assert window.fits(1, 40)
    assert not window.fits(1, 41)
    assert not window.fits(2, 40)


def test_limits_of_a_window_only_grow() -> None:
    window = Window(2, 100)
    assert window.raise_to(1, 200)
    assert (window.limit_units, window.limit_bytes) == (2, 200)
    assert window.raise_to(3, 100)
    assert (window.limit_units, window.limit_bytes) == (3, 200)
    assert not window.raise_to(3, 200)


def test_what_was_reserved_and_not_sent_is_free_again() -> None:
    window = Window(2, 100)
    window.reserve(1, 100)
    window.release(70)
    assert window.fits(1, 70)
    assert not window.fits(1, 71)


def test_a_new_attachment_counts_from_nothing() -> None:
    window = Window(2, 100)
    window.reserve(2, 100)
    window.restart(1, 10)
    assert window.fits(1, 10)
    assert not window.fits(2, 10)


@pytest.mark.parametrize(("units", "size"), [(3, 0), (0, 101)])
def test_more_than_was_granted_is_flow_control(units: int, size: int) -> None:
    grant = Grant(2, 100)
    grant.take(2, 100)
    other = Grant(2, 100)
    with pytest.raises(
        ProtocolViolation, match="the window allowed 2 and 100"
    ) as found:
        other.take(units, size)
    assert found.value.code is Code.FLOW_CONTROL


def test_a_budget_serves_those_who_wait_in_turn() -> None:
    budget = Budget(100)
    assert budget.take(100)
    served: list[str] = []

    def first() -> None:
        served.append("first")
        assert budget.take(60)

    def second() -> None:
        served.append("second")
        assert budget.take(40)

    budget.wait(60, first)
    budget.wait(40, second)
    assert budget.waiting == 2
    budget.give(50)
    assert served == []  # the first is not passed by the second, who would fit
    budget.give(10)
    assert served == ["first"]
    budget.give(40)
    assert served == ["first", "second"]
    assert budget.waiting == 0
    assert budget.used == 100


def test_who_brings_memory_serves_those_who_wait() -> None:
    budget = Budget(100)
    assert budget.take(100)
    served: list[bool] = []
    budget.wait(50, lambda: served.append(budget.take(50)))
    budget.widen(49)
    assert not served
    budget.widen(1)
    assert served == [True]
    budget.widen(-50)
    assert (budget.used, budget.limit) == (150, 100)
    assert not budget.take(1)


def test_where_nothing_moves_the_first_who_fits_is_served() -> None:
    budget = Budget(100)
    assert budget.take(50)
    served: list[str] = []
    budget.wait(60, partial(served.append, "large"))

    def take(name: str) -> None:
        served.append(name)
        assert budget.take(40)

    for name in ("small", "smaller"):
        budget.wait(40, partial(take, name))
    assert budget.stir(100.0)
    assert served == ["small"]
    budget.give(40)
    assert served == ["small"]  # memory that comes back is for the first
    assert budget.stir(100.0 + STUCK / 2)
    assert budget.stir(100.0 + STUCK)
    assert served == ["small"]  # it moved
    assert budget.stir(100.0 + 2 * STUCK)
    assert served == ["small", "smaller"]
    budget.give(90)
    assert served == ["small", "smaller", "large"]
    assert not budget.stir(100.0 + 3 * STUCK)


def test_what_is_begun_leaves_room_for_what_it_needs_besides() -> None:
    budget = Budget(100)
    assert budget.take(10, beside=60)
    assert budget.take(10, beside=80)
    assert not budget.take(10, beside=80)
    assert budget.used == 20


def test_nobody_passes_the_queue_for_spare_memory() -> None:
    budget = Budget(100)
    assert budget.take(50, spare=True)
    budget.wait(60, lambda: None)
    assert not budget.take(10, spare=True)
    assert budget.take(10)
    assert not budget.take(41)


def test_who_is_served_may_give_back_at_once() -> None:
    budget = Budget(10)
    assert budget.take(10)
    served: list[int] = []

    def use(number: int) -> None:
        served.append(number)
        assert budget.take(10)
        budget.give(10)

    for number in range(3):
        budget.wait(10, partial(use, number))
    budget.give(10)
    assert served == [0, 1, 2]
    assert budget.used == 0


def test_who_leaves_the_queue_holds_nobody_up() -> None:
    budget = Budget(100)
    assert budget.take(50)
    served: list[str] = []

    def large() -> None:
        served.append("large")

    budget.wait(80, large)
    budget.wait(30, lambda: served.append("small"))
    budget.forget(large)
    assert served == ["small"]
    budget.forget(large)
    assert budget.waiting == 0
