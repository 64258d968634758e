"""Events as sources produce them, and what they take of a run's buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ackline.proto.limits import MAX_EVENT

if TYPE_CHECKING:
    from ackline.proto.feed import EventBuffer

__all__ = ["EVENT_COST", "Event", "Item", "append_event", "cost_of_room"]

EVENT_COST = 128
"""What an event costs beside its bytes, in bytes."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event with a kind, for a source to yield or emit.

    Attributes:
        data: the body; str is sent as UTF-8.
        kind: its name; the empty one is that of plain bytes and str.
    """

    data: bytes | str
    kind: str = ""


Item: TypeAlias = bytes | str | Event
"""What a source produces."""


def cost_of_room(buffer: EventBuffer) -> int:
    """Return what a run may produce now, in bytes and `EVENT_COST`s."""
    events, size = buffer.room()
    return min(events * EVENT_COST, size)


def append_event(buffer: EventBuffer, item: object) -> int:
    """Append anything that can be an event, and return what it costs.

    Raises:
        TypeError: it is nothing that can be an event.
        ValueError: it is too large, or its kind cannot be one.
    """
    kind, data = "", item
    if isinstance(item, Event):
        kind, data = item.kind, item.data
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, bytes):
        raise TypeError(
            f"a source yields bytes, str or Event, not {type(data).__name__}"
        )
    if len(data) > MAX_EVENT:
        raise ValueError(
            f"an event of {len(data)} bytes; the largest has {MAX_EVENT}: yield it"
            " in parts"
        )
    buffer.append(data, buffer.define(kind) if kind else 0)
    return len(data) + EVENT_COST
