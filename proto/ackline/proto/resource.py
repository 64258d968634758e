"""Names of objects, logs, sources, runs, uploads and sessions (`SPEC.md §1`)."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from msgspec import Struct

from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.limits import MAX_NAME

__all__ = ["Resource", "ResourceKind", "name_fault", "parse_resource"]

#: Names go to terminals, logs and charts, where these could forge a line.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")


class ResourceKind(Enum):
    """What a resource is: the part before the first `/`."""

    OBJECTS = "objects"
    LOGS = "logs"
    SOURCES = "sources"
    RUNS = "runs"
    UPLOADS = "uploads"
    SESSIONS = "sessions"


_KINDS: Final[dict[str, ResourceKind]] = {kind.value: kind for kind in ResourceKind}


class Resource(Struct, frozen=True):
    """A parsed resource; `str()` gives the string of the wire.

    Attributes:
        kind: What it is.
        name: NAME or ID. `/` in it is an ordinary character: it is never a path.
    """

    kind: ResourceKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value}/{self.name}"

    @classmethod
    def of(cls, kind: ResourceKind, name: str) -> Resource:
        """Return the resource a caller of this library names.

        Raises:
            UsageError: `name` breaks a rule; the text says which.
        """
        fault = name_fault(name)
        if fault:
            raise UsageError(f"{name!r} cannot be a name: {fault}")
        return cls(kind, name)


def name_fault(name: str) -> str | None:
    """Return which rule `name` breaks, None if it breaks none."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is not Unicode text"
    if not 1 <= size <= MAX_NAME:
        return f"it has {size} bytes of UTF-8; 1 to {MAX_NAME} are allowed"
    if _CONTROL.search(name):
        return "it has control characters"
    if name[0] == " " or name[-1] == " ":
        return "it begins or ends with a space"
    return None


def parse_resource(text: str) -> Resource:
    """Return the resource that a peer names.

    Raises:
        ProtocolViolation: `invalid_argument`; the text says what is wrong.
    """
    prefix, slash, name = text.partition("/")
    kind = _KINDS.get(prefix)
    if kind is None or not slash:
        raise ProtocolViolation(
            Code.INVALID_ARGUMENT,
            f"{text!r} is not a resource; it begins with one of"
            f" {', '.join(f'{known}/' for known in _KINDS)}",
        )
    fault = name_fault(name)
    if fault:
        raise ProtocolViolation(
            Code.INVALID_ARGUMENT, f"{text!r} is not a resource: {fault}"
        )
    return Resource(kind, name)
