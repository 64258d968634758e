"""Arguments of the client's methods, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ackline.proto.errors import ProtocolViolation, UsageError
from ackline.proto.policies import parse_policy
from ackline.proto.resource import parse_resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.policies import Policy
    from ackline.proto.resource import Resource
    from ackline.proto.values import Value

__all__ = ["checked_choice", "checked_policy", "checked_resource"]

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


def checked_policy(name: str, value: Value, linger: float) -> Policy:
    """Return the policy of a subscription.

    Raises:
        UsageError: there is no such policy, or the value is not one of it.
    """
    try:
        return parse_policy(name, value, linger)
    except ProtocolViolation as violation:
        raise UsageError(violation.text) from None
