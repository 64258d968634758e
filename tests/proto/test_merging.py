"""What `merge` looks at, and how much of it (SPEC.md §16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.proto import merging
from ackline.proto.batches import GAP_KIND, Event, Gap, encode_entries, gap_entry
from ackline.proto.conflation import ConflatedFeed
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import GapReason
from ackline.proto.policies import parse_policy

if TYPE_CHECKING:
    from ackline.proto.batches import Batch


class Disk(EventBuffer):
    """A feed of which only a part is in memory at a time."""

    loaded = range(0)
    asked: int | None = None

    def peek(self, position: int) -> Batch | None:
        if position not in self.loaded:
            return None
        batch = super().next_batch(position)
        assert batch is not None
        return batch.before(self.loaded.stop)

    def next_batch(self, position: int) -> Batch | None:
        if position < self.next_id and position not in self.loaded:
            self.asked = position
            return None
        return super().next_batch(position)


def buffer(kind: type[EventBuffer] = EventBuffer) -> EventBuffer:
    return kind(generation=1, max_events=10**6, max_bytes=10**9, keep=True, define=True)


def read(view: ConflatedFeed, feed: EventBuffer, position: int = 0) -> list[str]:
    """Return what comes until there is no more, gaps as `count` and reason."""
    found: list[str] = []
    while (batch := view.next_batch(position)) is not None:
        view.sent()
        for each in batch.events(feed.kinds):
            if isinstance(each, Gap):
                assert each.reason is GapReason.MERGED
                found.append(f"{each.count}m")
            else:
                found.append(each.text)
        position = batch.next_id
    return found


def keyed(feed: EventBuffer, *groups: str) -> None:
    """Append groups: a letter that is the key, then events."""
    for group in groups:
        feed.append(group[:1].encode(), feed.define("key"))
        for letter in group[1:]:
            feed.append(letter.encode())


def test_what_is_not_in_memory_is_asked_for_and_merged_apart() -> None:
    feed = buffer(Disk)
    assert isinstance(feed, Disk)
    for text in ("a1", "a2", "a3", "a4"):
        feed.append(text.encode())
    view = ConflatedFeed(feed, parse_policy("merge"))
    assert view.next_batch(0) is None
    assert feed.asked == 0
    feed.loaded = range(2)
    assert read(view, feed) == ["1m", "a2"]
    assert feed.asked == 2
    feed.loaded = range(2, 4)
    assert read(view, feed, 2) == ["1m", "a4"]


@pytest.mark.parametrize(
    ("limit", "most", "found"),
    [
        # A batch has what was appended between two looks: here one group.
        ("SCAN_EVENTS", 1, ["a", "1", "b", "2", "a", "3", "b", "4"]),
        ("MAX_KEYS", 1, ["a", "1", "b", "2", "a", "3", "b", "4"]),
        ("MAX_KEYS", 3, ["4m", "a", "3", "b", "4"]),
    ],
)
def test_only_so_much_is_looked_at_for_one_answer(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, found: list[str]
) -> None:
    monkeypatch.setattr(merging, limit, most)
    monkeypatch.setattr("ackline.proto.feed.SMALL_BATCH", 0)
    feed = buffer()
    view = ConflatedFeed(feed, parse_policy("merge", "key"))
    for group in ("a1", "b2", "a3", "b4"):
        keyed(feed, group)
        feed.sum_at(feed.next_id)  # ends the batch
    assert read(view, feed) == found


def test_only_so_many_batches_are_looked_at_where_the_kind_is_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merging, "SCAN_BATCHES", 2)
    monkeypatch.setattr("ackline.proto.feed.SMALL_BATCH", 0)
    feed = buffer()
    view = ConflatedFeed(feed, parse_policy("merge"))
    for number in range(5):
        feed.append(str(number).encode())
        feed.sum_at(feed.next_id)
    assert read(view, feed) == ["1m", "1", "1m", "3", "4"]


def test_keys_that_differ_only_behind_their_beginning_are_others() -> None:
    feed = buffer()
    view = ConflatedFeed(feed, parse_policy("merge", "key"))
    number = feed.define("key")
    keys = ["k" * 100 + end for end in "abab"]
    for key in keys:
        feed.append(key.encode(), number)
    assert read(view, feed) == ["2m", *keys[2:]]


def test_a_resume_wants_again_what_was_passed() -> None:
    feed = buffer()
    view = ConflatedFeed(feed, parse_policy("merge", "key"))
    keyed(feed, "a1", "b2")
    assert read(view, feed) == ["a", "1", "b", "2"]
    assert read(view, feed, 1) == ["1", "b", "2"]
    keyed(feed, "b3")
    assert read(view, feed, 1) == ["1", "2m", "b", "3"]
    assert read(view, feed, 5) == ["3"]


def test_a_group_goes_on_when_all_of_it_was_sent() -> None:
    feed = buffer()
    view = ConflatedFeed(feed, parse_policy("merge", "key"))
    keyed(feed, "a1")
    assert read(view, feed) == ["a", "1"]
    feed.append(b"2")
    keyed(feed, "b", "a3")
    assert read(view, feed, 2) == ["1m", "b", "a", "3"]


def test_events_are_whole_and_of_their_kind() -> None:
    feed = buffer()
    view = ConflatedFeed(feed, parse_policy("merge"))
    feed.append(b"1", feed.define("x"))
    feed.append(b"2", feed.define("y"))
    feed.append(b"3", feed.define("x"))
    found: list[Event | Gap] = []
    position = 0
    while (batch := view.next_batch(position)) is not None:
        view.sent()
        found += batch.events(feed.kinds)
        position = batch.next_id
    assert found == [
        Gap(0, 1, GapReason.MERGED),
        Event(1, "y", b"2"),
        Event(2, "x", b"3"),
    ]


class Gapped(EventBuffer):
    """A feed with a publisher's own gap: ids 2 to 4 of 8."""

    @property
    def next_id(self) -> int:
        return 8

    def next_batch(self, position: int) -> Batch | None:
        entries = [
            (1, b"k"),
            (0, b"1"),
            (GAP_KIND, gap_entry(3, GapReason.MERGED)),
            (0, b"5"),
            (1, b"j"),
            (0, b"7"),
        ]
        return encode_entries(0, entries).tail(position) if position < 8 else None

    peek = next_batch


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("merge", ["6m", "j", "7"]),
        ("merge:key", ["k", "1", "3m", "5", "j", "7"]),
        ("merge:none", ["k", "1", "3m", "5", "j", "7"]),
    ],
)
def test_a_gap_of_a_publisher_takes_up_its_ids(policy: str, found: list[str]) -> None:
    feed = buffer(Gapped)
    feed.define("key")
    name, _, value = policy.partition(":")
    assert read(ConflatedFeed(feed, parse_policy(name, value or None)), feed) == found
