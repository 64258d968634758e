"""Lines of text as events, for sources that are files and child processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.server.events import Event

if TYPE_CHECKING:
    from ackline.server.events import Item

__all__ = ["MAX_LINE", "Lines"]

MAX_LINE = 2**16
"""Bytes of one event: far more than lines have, and little enough to hold for each
file and process whose line does not end."""


class Lines:
    """Cuts bytes, as they come, into one event a line.

    A line ends with a newline, which is not part of the event; everything else is kept
    as it is. A line of more than 64 KiB comes as several: those of the kind
    `part` are to be continued, the last is a line as any other.

    Args:
        kind: of the events; the parts of long lines are then of the kind `KIND-part`.
    """

    def __init__(self, kind: str = "") -> None:
        self._kind = kind
        self._part = f"{kind}-part" if kind else "part"
        self._torn = bytearray()

    def feed(self, data: bytes) -> list[Item]:
        """Return the events that `data` completes."""
        items: list[Item] = []
        *complete, last = data.split(b"\n")
        for each in complete:
            line = each
            if self._torn or len(each) > MAX_LINE:
                items += self._parts(each)
                line = self._taken()
            items.append(Event(line, self._kind) if self._kind else line)
        items += self._parts(last)
        return items

    def end(self) -> list[Item]:
        """Return what comes after the last newline, if there is something."""
        return self.feed(b"\n") if self._torn else []

    def _parts(self, more: bytes) -> list[Item]:
        """Add to the line that is not complete, and return what is too long of it."""
        items: list[Item] = []
        self._torn += more
        while len(self._torn) > MAX_LINE:
            items.append(Event(bytes(self._torn[:MAX_LINE]), self._part))
            del self._torn[:MAX_LINE]
        return items

    def _taken(self) -> bytes:
        line = bytes(self._torn)
        self._torn.clear()
        return line
