"""Who a client is, what it may do, and how much (SPEC.md §7).

An identity is a name with permissions and quotas. `authentication` finds it; everything
else only asks `may()`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from ackline.aio import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ACTIONS",
    "ANONYMOUS",
    "EVERYTHING",
    "Identity",
    "Permission",
    "Quotas",
    "parse_permissions",
    "parse_quotas",
]

ANONYMOUS = "anonymous"
"""The name of a client that presents nothing."""

ACTIONS = ("upload", "fetch", "publish", "subscribe", "list", "cancel", "manage")
"""What can be permitted: the four uses; LIST and STATUS; cancelling uploads and runs of
others; and DELETE, SEAL and CONFIGURE."""

MAX_NAME = 255
"""Bytes of an identity's name."""

FORM = f"ACTION or ACTION:PATTERN with an action of {', '.join(ACTIONS)}, or *"


class Permission(NamedTuple):
    """One thing an identity may do.

    Attributes:
        action: one of `ACTIONS`, or `*`.
        pattern: of resources such as `objects/photos/*`; `*` and `?` as in a shell,
            `/` is ordinary.
    """

    action: str
    pattern: str = "*"

    def __str__(self) -> str:
        return self.action if self.pattern == "*" else f"{self.action}:{self.pattern}"


EVERYTHING = (Permission("*"),)


def parse_permissions(texts: Iterable[str]) -> tuple[Permission, ...]:
    """Return the permissions of texts such as `fetch:objects/public/*`.

    Raises:
        ValueError: one is none; the text says what one looks like.
    """
    return tuple(_permission(text) for text in texts)


def _permission(text: str) -> Permission:
    action, colon, pattern = text.strip().partition(":")
    if (action != "*" and action not in ACTIONS) or (colon and not pattern):
        raise ValueError(f"{text!r} is no permission: it is {FORM}")
    return Permission(action, pattern or "*")


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much one identity may have; infinite where nothing is said.

    Attributes:
        connections: at once.
        streams: open at once, over all its sessions.
        stored_bytes: of its objects and uploads together.
        bytes_per_second, events_per_second: over all its connections, sent and received
            together; what is faster is slowed down, and nothing of it is lost.
    """

    connections: float = math.inf
    streams: float = math.inf
    stored_bytes: float = math.inf
    bytes_per_second: float = math.inf
    events_per_second: float = math.inf

    @property
    def rated(self) -> bool:
        """Whether there is a limit to what is moved in a second."""
        return min(self.bytes_per_second, self.events_per_second) < math.inf


def parse_quotas(
    pairs: Mapping[str, str] | Iterable[tuple[str, str]], default: Quotas | None = None
) -> Quotas:
    """Return the quotas of pairs such as `("stored-bytes", "10GiB")`.

    Args:
        pairs: name and number of each.
        default: for what they do not say.

    Raises:
        ValueError: a name or number is none.
    """
    known = [each.name for each in fields(Quotas)]
    found: dict[str, float] = {}
    for name, text in dict(pairs).items():
        key = name.replace("-", "_")
        if key not in known:
            names = ", ".join(each.replace("_", "-") for each in known)
            raise ValueError(f"there is no quota {name!r}; there are {names}")
        found[key] = parse_size(text)
        if found[key] <= 0:
            raise ValueError(f"the quota {name} is {text}; it is above 0")
    return replace(default or Quotas(), **found)


@dataclass(frozen=True, slots=True)
class Identity:
    """A client as the server knows it.

    Attributes:
        name: what sessions, uploads, runs and objects belong to.
        allow: what it may do; of its own uploads and runs it may always ask the status,
            and cancel them.
        quotas: how much.
        credential: which entry of the tokens file it came by; empty for others.
        expires: unix seconds after which the credential is worth nothing.

    Raises:
        ValueError: the name is empty, too long, or has control characters.
    """

    name: str
    allow: tuple[Permission, ...] = EVERYTHING
    quotas: Quotas = field(default_factory=Quotas)
    credential: str = ""
    expires: float = math.inf

    def __post_init__(self) -> None:
        """Check the name: it is part of keys and of logged lines."""
        size = len(self.name.encode(errors="replace"))
        if not 0 < size <= MAX_NAME or not self.name.isprintable():
            raise ValueError(
                f"{self.name!r} is no name of an identity: it has 1 to {MAX_NAME} bytes"
                " and no control characters"
            )

    def may(self, action: str, resource: str) -> bool:
        """Tell whether it may do something with a resource."""
        return any(
            each.action in (action, "*") and fnmatchcase(resource, each.pattern)
            for each in self.allow
        )
