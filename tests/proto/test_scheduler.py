"""Who writes next (SPEC.md §21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ackline.proto.event_sender import EventSender
from ackline.proto.scheduler import Scheduler
from ackline.proto.sender import Sender

if TYPE_CHECKING:
    from ackline.proto.stream import Stream as CoreStream

QUANTUM = 100


class Stream(EventSender):
    """A sender with frames of given sizes; 0 stands for nothing to send now."""

    def __init__(self, name: str, sizes: list[int], *, priority: int = 4) -> None:
        Sender.__init__(self, cast("CoreStream", None), priority=priority)
        self.name = name.encode()
        self.sizes = sizes
        self.asked = 0

    def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
        self.asked += 1
        assert limit == QUANTUM
        if not self.sizes or not self.sizes[0]:
            return None
        return [self.name * self.sizes.pop(0)]

    def exhausted(self) -> bool:
        return not self.sizes


def order(scheduler: Scheduler) -> str:
    """Return the names of who wrote, one letter a frame."""
    written = ""
    while (parts := scheduler.next(QUANTUM)) is not None:
        written += bytes(parts[0][:1]).decode()
    return written


def test_a_stream_that_says_it_has_no_more_is_not_asked_again() -> None:
    scheduler, stream, other = Scheduler(), Stream("a", [10]), Stream("b", [10, 0])
    scheduler.activate(stream)
    scheduler.activate(other)
    assert order(scheduler) == "ab"
    assert (stream.asked, other.asked) == (1, 2)
    assert not stream.scheduled
    stream.sizes.append(10)
    scheduler.activate(stream)
    assert order(scheduler) == "a"


def test_streams_of_one_priority_take_turns() -> None:
    scheduler = Scheduler()
    for stream in (Stream("a", [100] * 3), Stream("b", [100] * 3)):
        scheduler.activate(stream)
    assert order(scheduler) == "ababab"


def test_turns_are_counted_in_bytes_and_not_in_frames() -> None:
    scheduler = Scheduler()
    for stream in (Stream("a", [25] * 8), Stream("b", [100] * 2)):
        scheduler.activate(stream)
    assert order(scheduler) == "aaaabaaaab"


def test_who_took_more_than_a_turn_waits_longer() -> None:
    scheduler = Scheduler()
    for stream in (Stream("a", [150, 10, 10]), Stream("b", [100] * 3)):
        scheduler.activate(stream)
    assert order(scheduler) == "abaabb"


def test_a_lower_priority_waits_until_nobody_above_has_anything() -> None:
    scheduler = Scheduler()
    low, high = Stream("l", [100] * 2, priority=7), Stream("h", [100] * 2, priority=0)
    scheduler.activate(low)
    scheduler.activate(high)
    assert order(scheduler) == "hhll"


def test_a_stream_is_queued_once_and_forgotten_when_it_has_nothing() -> None:
    scheduler = Scheduler()
    stream = Stream("a", [100, 0])
    scheduler.activate(stream)
    scheduler.activate(stream)
    assert order(scheduler) == "a"
    assert stream.asked == 2
    assert not stream.scheduled
    assert scheduler.next(QUANTUM) is None
    assert stream.asked == 2


def test_those_who_wait_for_credit_are_asked_in_turn_once_there_is_some() -> None:
    scheduler = Scheduler()
    streams = [Stream(name, [0]) for name in "abc"]
    for stream in streams:
        scheduler.activate(stream)
    assert order(scheduler) == ""
    assert [scheduler.starve(stream) for stream in streams] == [True] * 3
    assert not scheduler.starve(streams[0])
    assert order(scheduler) == ""
    for stream in streams:
        stream.sizes = [100]
    scheduler.refill()
    assert order(scheduler) == "abc"


def test_who_finds_too_little_credit_stays_first() -> None:
    scheduler = Scheduler()

    class Starving(Stream):
        def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
            parts = super().next_frame(limit)
            if parts is None and self.sizes:
                again.append(scheduler.starve(self))
            return parts

    again: list[bool] = []
    first, second = Starving("a", [0]), Starving("b", [0])
    scheduler.activate(first)
    scheduler.activate(second)
    assert order(scheduler) == ""
    scheduler.refill()
    assert order(scheduler) == ""
    assert again == [True, True, False]  # the second was not asked again
    first.sizes, second.sizes = [100], [100]
    scheduler.refill()
    assert order(scheduler) == "ab"


def test_a_cleared_scheduler_knows_nobody_and_takes_everybody_again() -> None:
    scheduler = Scheduler()
    ready, starving = Stream("a", [100]), Stream("b", [100])
    scheduler.activate(ready)
    scheduler.starve(starving)
    scheduler.clear()
    scheduler.refill()
    assert order(scheduler) == ""
    scheduler.activate(ready)
    assert order(scheduler) == "a"


def test_a_lone_stream_is_first_of_those_that_come_while_it_is_asked() -> None:
    scheduler, other = Scheduler(), Stream("b", [10, 10])

    class Company(Stream):
        def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
            parts = super().next_frame(limit)
            scheduler.activate(other)
            return parts

    lone = Company("a", [60, 60, 10])
    scheduler.activate(lone)
    assert scheduler.waiting
    assert order(scheduler) == "aabba"
    assert not scheduler.waiting
    assert (lone.scheduled, other.scheduled) == (False, False)
    scheduler.activate(other)  # alone now
    assert scheduler.next(QUANTUM) is None
    assert not scheduler.waiting


def test_a_lone_stream_that_leaves_while_others_come_takes_nobody_along() -> None:
    scheduler, other = Scheduler(), Stream("b", [10])

    class Leaving(Stream):
        def next_frame(self, limit: int) -> list[bytes | memoryview] | None:
            scheduler.activate(other)
            return None

    scheduler.activate(Leaving("a", []))
    assert order(scheduler) == "b"
    assert not scheduler.waiting


def test_a_lone_stream_that_waits_for_credit_comes_back() -> None:
    scheduler, lone = Scheduler(), Stream("a", [0])
    scheduler.activate(lone)
    assert order(scheduler) == ""
    assert scheduler.starve(lone)
    lone.sizes = [10]
    assert order(scheduler) == ""
    scheduler.refill()
    assert order(scheduler) == "a"
    assert not scheduler.waiting
