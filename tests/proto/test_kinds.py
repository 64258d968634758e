"""The table of kinds (`SPEC.md §11`)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.kinds import KindTable
from ackline.proto.resource import name_fault

names = st.lists(
    st.text(min_size=1, max_size=10).filter(lambda text: name_fault(text) is None),
    unique=True,
    max_size=239,
)


@given(names)
def test_table_comes_back_from_its_listing(listed: list[str]) -> None:
    table = KindTable(listed)
    again = KindTable.received(table.listed())
    assert again.names == table.names == ["", *listed]
    assert len(again) == len(listed)
    for number, name in enumerate(listed, 1):
        assert again.number_of(name) == number


def test_default_kind_is_unnamed() -> None:
    table = KindTable()
    assert table.number_of("") == table.define("") == 0
    assert table.names[0] == ""
    assert table.listed() == ()


def test_kind_defined_again_keeps_its_number() -> None:
    table = KindTable(["a", "b"])
    assert table.define("a") == 1
    assert table.define("c") == 3
    assert table.number_of("d") is None


def test_240th_kind_is_refused() -> None:
    table = KindTable(str(number) for number in range(239))
    with pytest.raises(UsageError, match="at most 239"):
        table.define("one more")
    with pytest.raises(ProtocolViolation, match="the last 239"):
        table.learn(240, "one more")


def test_own_kind_obeys_the_rules_for_names() -> None:
    with pytest.raises(UsageError, match="control characters"):
        KindTable(["a\n"])


def test_definition_met_twice_changes_nothing() -> None:
    table = KindTable()
    table.learn(1, "a")
    table.learn(1, "a")
    assert table.listed() == ("a",)


@pytest.mark.parametrize(
    ("number", "name", "fault"),
    [
        (1, "b", "it is named 'a'"),
        (2, "a", "the name is that of kind 1"),
        (2, "", "the name is that of kind 0"),
        (0, "b", "the next number is 2"),
        (3, "b", "the next number is 2"),
        (2, "b ", "space"),
    ],
)
def test_definition_that_contradicts_the_table_is_refused(
    number: int, name: str, fault: str
) -> None:
    table = KindTable(["a"])
    with pytest.raises(ProtocolViolation, match=fault) as refused:
        table.learn(number, name)
    assert refused.value.code is Code.BAD_FRAME
    assert table.listed() == ("a",)


def test_listing_with_a_name_twice_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        KindTable.received(["a", "a"])
