"""What happens to a slow consumer: the policies of a subscription (SPEC.md §16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.resource import name_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ackline.proto.values import Value

__all__ = ["BLOCK", "MAX_LINGER", "POLICIES", "Policy", "parse_policy"]

MIN_INTERVAL: Final = 0.001
MAX_INTERVAL: Final = 3600.0
"""Seconds between two samples. A shorter time is no time: use `latest`."""

MAX_NEWEST: Final = 2**32 - 1

MAX_LINGER: Final = 60.0
"""Seconds an event may be held back at most."""


class Policy(Struct, frozen=True, kw_only=True, gc=False):
    """What a sender of events leaves out when its receiver is behind.

    Attributes:
        name, value: as OPEN states them.
        newest: how many of the newest events wait to be sent; 0 for all.
        interval: seconds between two events; 0 for no wait.
        merges: whether of several groups of events with one key only the newest is
            sent; an event of the kind `value` begins a group and is its key, or every
            event is a group and its kind the key.
        linger: seconds an event may be held back for others to travel along.
    """

    name: str = "block"
    value: Value = None
    newest: int = 0
    interval: float = 0.0
    merges: bool = False
    linger: float = 0.0

    @property
    def blocks(self) -> bool:
        """Whether everything is sent: then a producer waits for the receiver."""
        return not self.newest and not self.merges

    def __str__(self) -> str:
        """Return the policy as users write it, such as `drop-oldest:100`."""
        if self.value is None:
            return self.name
        return f"{self.name}:{self.value!s}"


BLOCK: Final = Policy()


def parse_policy(name: str, value: Value = None, linger: float = 0.0) -> Policy:
    """Return the policy that OPEN asks for.

    Raises:
        ProtocolViolation: `unsupported`: there is no such policy; `invalid_argument`:
            the value is not one of it, or `linger` is out of range.
    """
    parse = POLICIES.get(name)
    if parse is None:
        raise ProtocolViolation(
            Code.UNSUPPORTED,
            f"policy {name!r} is not offered: use {', '.join(POLICIES)}",
        )
    if not 0 <= linger <= MAX_LINGER:
        raise _invalid(f"a linger of {linger:g} s; it is 0 to {MAX_LINGER:g} s")
    policy = parse(name, value, linger)
    if policy.interval and linger:
        raise _invalid("policy 'sample' has its own interval: leave out the linger")
    return BLOCK if policy == BLOCK else policy  # most subscriptions share it


def _plain(name: str, value: Value, linger: float) -> Policy:
    if value is not None:
        raise _invalid(f"policy {name!r} takes no value, not {value!r}")
    return Policy(name=name, newest=int(name == "latest"), linger=linger)


def _sample(name: str, value: Value, linger: float) -> Policy:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not MIN_INTERVAL <= value <= MAX_INTERVAL
    ):
        raise _invalid(
            f"policy 'sample' takes the seconds between two events, {MIN_INTERVAL:g} to"
            f" {MAX_INTERVAL:g}, not {value!r}"
        )
    return Policy(
        name=name, value=value, newest=1, interval=float(value), linger=linger
    )


def _merge(name: str, value: Value, linger: float) -> Policy:
    if value is not None and (not isinstance(value, str) or name_fault(value)):
        raise _invalid(
            "policy 'merge' takes the kind of the events that are keys, or nothing,"
            f" not {value!r}"
        )
    return Policy(name=name, value=value, merges=True, linger=linger)


def _drop_oldest(name: str, value: Value, linger: float) -> Policy:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 1 <= value <= MAX_NEWEST
    ):
        raise _invalid(
            "policy 'drop-oldest' takes the number of events to keep, 1 to"
            f" {MAX_NEWEST}, not {value!r}"
        )
    return Policy(name=name, value=value, newest=value, linger=linger)


def _invalid(text: str) -> ProtocolViolation:
    return ProtocolViolation(Code.INVALID_ARGUMENT, text)


POLICIES: Final[Mapping[str, Callable[[str, Value, float], Policy]]] = {
    "block": _plain,
    "latest": _plain,
    "sample": _sample,
    "merge": _merge,
    "drop-oldest": _drop_oldest,
}
"""By name, what makes a `Policy` of the value and the linger."""
