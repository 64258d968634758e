"""Lines of text as events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ackline.server import Event
from ackline.server.lines import MAX_LINE, Lines


def together(lines: Lines, *parts: bytes) -> list[object]:
    found: list[object] = []
    for part in parts:
        found += lines.feed(part)
    return found + lines.end()


@given(
    st.lists(st.sampled_from([b"", b"a", b"\n", b"\r\n", b"\xff\x00", b"long " * 9]))
)
def test_lines_are_the_same_however_they_come(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert together(Lines(), *parts) == expected


def test_a_line_is_held_until_it_is_complete() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntw") == [b"one"]
    assert lines.feed(b"o") == []
    assert lines.feed(b"\n\n") == [b"two", b""]
    assert lines.end() == []


@given(
    st.sampled_from([-1, 0, 1]),
    st.integers(1, 2),
    st.integers(0, 3 * MAX_LINE),
    st.booleans(),
)
def test_a_long_line_comes_in_parts(
    more: int, times: int, cut: int, terminated: bool
) -> None:
    text = b"x" * (times * MAX_LINE + more)
    whole = b"a\n" + text + (b"\nb" if terminated else b"")
    found = together(Lines(), whole[:cut], whole[cut:])
    parts = [Event(b"x" * MAX_LINE, "part")] * ((len(text) - 1) // MAX_LINE)
    rest = text[len(parts) * MAX_LINE :]
    assert found == [b"a", *parts, rest, *([b"b"] if terminated else [])]


def test_kinds_are_told_of_lines_and_of_parts() -> None:
    found = together(Lines("stderr"), b"a\n" + b"x" * MAX_LINE + b"yz")
    assert found == [
        Event(b"a", "stderr"),
        Event(b"x" * MAX_LINE, "stderr-part"),
        Event(b"yz", "stderr"),
    ]
