"""Signs of life and the rate of the link (SPEC.md §17, §21)."""

from __future__ import annotations

import pytest

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.heartbeat import (
    FRAGMENT_SECONDS,
    FREE_FRAGMENTS,
    MAX_FRAGMENT,
    MIN_FRAGMENT,
    SHARED_FRAGMENT,
    SHARED_SECONDS,
    DrainRate,
    Heartbeat,
    Pulse,
)


def test_silence_is_broken_by_a_ping_once_an_interval() -> None:
    life = Heartbeat(10.0, 100.0)
    assert life.due() == 110.0
    assert life.look(109.9) is Pulse.ALIVE
    assert life.look(110.0) is Pulse.PING
    assert life.look(110.1) is Pulse.ALIVE
    assert life.due() == 120.0
    assert life.look(120.0) is Pulse.PING


def test_three_intervals_of_silence_are_the_end() -> None:
    life = Heartbeat(10.0, 100.0)
    life.look(125.0)
    assert life.due() == 130.0
    assert life.look(129.9) is not Pulse.SILENT
    assert life.look(130.0) is Pulse.SILENT


def test_any_byte_begins_the_wait_anew() -> None:
    life = Heartbeat(10.0, 100.0)
    life.heard = 128.0
    assert life.look(137.9) is Pulse.ALIVE
    assert life.look(138.0) is Pulse.PING


def test_a_peer_that_talks_and_takes_nothing_is_stuck() -> None:
    life = Heartbeat(10.0, 100.0)
    life.blocked_at = 100.0
    life.heard = 129.0
    assert life.look(129.9) is Pulse.ALIVE
    assert life.look(130.0) is Pulse.STUCK


def test_more_than_ten_pings_in_a_second_are_too_many() -> None:
    life = Heartbeat(10.0, 100.0)
    for _ in range(10):
        life.pinged(100.5)
    with pytest.raises(ProtocolViolation) as found:
        life.pinged(100.9)
    assert found.value.code is Code.LIMIT_EXCEEDED


def test_ten_pings_each_second_are_not_too_many() -> None:
    life = Heartbeat(10.0, 100.0)
    for second in range(5):
        for _ in range(10):
            life.pinged(101.0 + second)


def test_a_slow_link_gets_the_smallest_fragment() -> None:
    rate = DrainRate()
    for _ in range(10):
        rate.taken(16_384, 1.0, 5.0)
    assert rate.fragment == MIN_FRAGMENT


def test_the_fragment_comes_to_fit_five_milliseconds_of_the_link() -> None:
    rate = DrainRate()
    for _ in range(50):
        rate.taken(100_000, 0.005, 5.0)
    assert rate.fragment == pytest.approx(100_000, rel=0.01)


def test_a_socket_that_takes_many_fragments_in_the_time_of_one_gets_larger_ones() -> (
    None
):
    rate = DrainRate()
    written = 0
    while rate.fragment < MAX_FRAGMENT:
        rate.free(rate.fragment, 5.0)
        written += rate.fragment
    assert written < 9_500_000
    for _ in range(2 * FREE_FRAGMENTS):
        rate.free(rate.fragment, 5.0)
    assert rate.fragment == MAX_FRAGMENT
    rate.taken(10**9, 0.0, 5.0)
    assert rate.fragment == MAX_FRAGMENT


@pytest.mark.parametrize("between", [0.006, 0.001])
def test_what_a_socket_takes_at_once_after_a_pause_changes_nothing(
    between: float,
) -> None:
    rate = DrainRate()
    for pause in range(100):
        for _ in range(FREE_FRAGMENTS - 1):
            rate.free(rate.fragment, 5.0 + pause * between)
        if between < FRAGMENT_SECONDS:
            rate.taken(rate.fragment, FRAGMENT_SECONDS, 5.0)
    assert rate.fragment == MIN_FRAGMENT


def test_fragments_are_smaller_while_events_share_the_link() -> None:
    rate = DrainRate()

    def fill(now: float) -> None:
        for _ in range(20):
            rate.taken(10**9, 0.0, now)

    fill(5.0)
    assert rate.fragment == MAX_FRAGMENT
    rate.shared(6.0)
    assert rate.fragment == SHARED_FRAGMENT
    fill(6.0 + SHARED_SECONDS)
    assert rate.fragment == SHARED_FRAGMENT
    assert rate.is_shared(6.0 + SHARED_SECONDS)
    fill(6.1 + SHARED_SECONDS)
    assert rate.fragment == MAX_FRAGMENT
    assert not rate.is_shared(6.1 + SHARED_SECONDS)
