"""What the entries of a batch stand for: events, gaps, kind definitions (§11).

```
kind definition   number u8 | name in UTF-8
gap               count u64 | reason u8
```
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.resource import name_fault
from ackline.proto.values import GapReason

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DEFINITION_KIND",
    "FIRST_RESERVED",
    "GAP_KIND",
    "LAST_ID",
    "Event",
    "Gap",
    "LeftOut",
    "covers",
    "gap_entry",
    "kind_definition",
    "parse_definition",
    "parse_gap",
]

#: First of the kinds that no event has: 240 to 253 are reserved.
FIRST_RESERVED: Final = 240
DEFINITION_KIND: Final = 254
GAP_KIND: Final = 255

#: Ids and counts are u64, and a position behind them has to be one too.
LAST_ID: Final = 2**64 - 1

_GAP: Final = Layout(">QB")


class Event(Struct, frozen=True, gc=False):
    """One event.

    Attributes:
        id: On a subscription its position in the log or run; on a publish stream the
            publisher's own unit number.
        kind: The name of its kind; empty for the default kind.
        data: Its body.
    """

    id: int
    kind: str
    data: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8.

        Raises:
            UnicodeDecodeError: It is not.
        """
        return self.data.decode()


class Gap(Struct, frozen=True, gc=False):
    """Events that were left out, in their place (`SPEC.md §16`).

    Attributes:
        id: The id of the first of them.
        count: How many there are.
        reason: Why they were left out.
    """

    id: int
    count: int
    reason: GapReason


class LeftOut(Struct, frozen=True, gc=False):
    """How many events of a stream are gaps, by reason (`SPEC.md §16`)."""

    merged: int = 0
    dropped: int = 0
    trimmed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.merged + self.dropped + self.trimmed

    def plus(self, gaps: Iterable[Gap]) -> LeftOut:
        """Return the sum with these."""
        counts = [self.merged, self.dropped, self.trimmed]
        for gap in gaps:
            counts[gap.reason - GapReason.MERGED] += gap.count
        return LeftOut(*counts)


def kind_definition(number: int, name: str) -> bytes:
    """Return the body of an entry that names a kind.

    Raises:
        UsageError: The number or the name cannot be a kind's.
    """
    fault = name_fault(name)
    if fault or not 1 <= number < FIRST_RESERVED:
        raise UsageError(f"kind {number} cannot be named {name!r}: {fault or 'number'}")
    return bytes((number,)) + name.encode()


def gap_entry(count: int, reason: GapReason) -> bytes:
    """Return the body of an entry that stands for `count` >= 1 events left out.

    Raises:
        UsageError: The count is not a positive u64.
    """
    if not 1 <= count <= LAST_ID:
        raise UsageError(f"a gap of {count} events cannot be told")
    return _GAP.pack(count, reason)


def covers(kind: int, body: bytes) -> int:
    """Return how many ids an entry covers."""
    if kind == GAP_KIND:
        return int.from_bytes(body[:8], "big")
    return int(kind != DEFINITION_KIND)


def parse_gap(first_id: int, body: bytes) -> Gap:
    """Return the gap in an entry of kind 255.

    Raises:
        ProtocolViolation: `bad_frame`: the body is not one of a gap.
    """
    if len(body) != _GAP.size:
        raise ProtocolViolation(
            Code.BAD_FRAME, f"a gap of {len(body)} bytes instead of {_GAP.size}"
        )
    count, reason = _GAP.unpack(body)
    if not count or not GapReason.MERGED <= reason <= GapReason.TRIMMED:
        raise ProtocolViolation(
            Code.BAD_FRAME, f"a gap of {count} events for reason {reason}"
        )
    return Gap(first_id, count, GapReason(reason))


def parse_definition(body: bytes) -> tuple[int, str]:
    """Return the number and name in an entry of kind 254.

    Raises:
        ProtocolViolation: `bad_frame`: the body is not one of a kind definition.
    """
    try:
        name = body[1:].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(
            Code.BAD_FRAME, "a kind definition whose name is not UTF-8"
        ) from None
    fault = name_fault(name)
    if fault or not 1 <= body[0] < FIRST_RESERVED:
        raise ProtocolViolation(
            Code.BAD_FRAME,
            f"a definition of kind {body[:1].hex()}: {fault or 'no such kind'}",
        )
    return body[0], name
