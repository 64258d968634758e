"""Names of resources (`SPEC.md §1`); most cases are in the golden vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.resource import Resource, ResourceKind, name_fault, parse_resource

names = st.text(min_size=1, max_size=60).filter(lambda text: name_fault(text) is None)


@given(st.sampled_from(ResourceKind), names)
def test_resource_comes_back_from_its_string(kind: ResourceKind, name: str) -> None:
    resource = Resource.of(kind, name)
    assert parse_resource(str(resource)) == resource


@given(st.text(max_size=20))
def test_any_text_is_parsed_or_refused_as_an_argument(text: str) -> None:
    try:
        assert str(parse_resource(text)) == text
    except ProtocolViolation as violation:
        assert violation.code is Code.INVALID_ARGUMENT  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "0 bytes"),
        ("é" * 128, "256 bytes"),
        ("a\x7f", "control characters"),
        (" a", "space"),
        ("a ", "space"),
        ("\ud800", "not Unicode"),
    ],
)
def test_callers_name_is_refused_with_the_rule_it_breaks(name: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        Resource.of(ResourceKind.OBJECTS, name)


def test_slash_in_a_name_is_an_ordinary_character() -> None:
    assert parse_resource("objects/a/../b") == Resource(ResourceKind.OBJECTS, "a/../b")


def test_refusal_of_an_unknown_prefix_lists_the_known_ones() -> None:
    with pytest.raises(ProtocolViolation, match="objects/, logs/, sources/"):
        parse_resource("files/a")
