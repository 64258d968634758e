"""Arguments of the client's methods, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ackline.proto.errors import ProtocolViolation, UsageError
from ackline.proto.resource import parse_resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.resource import Resource

__all__ = ["checked_choice", "checked_resource"]

T = TypeVar("T")


def checked_choice(name: str, value: str, choices: Mapping[str, T]) -> T:
    """Return what a word stands for.

    Raises:
        UsageError: it is none of the choices.
    """
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; it is one of {', '.join(choices)}")
    return choices[value]


def checked_resource(text: str) -> Resource:
    """Return the resource that a text names.

    Raises:
        UsageError: it names none.
    """
    try:
        return parse_resource(text)
    except ProtocolViolation as violation:
        raise UsageError(violation.text) from None
