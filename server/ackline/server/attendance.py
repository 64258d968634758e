"""Who reads a run, what they still need, and how long it may be without anybody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import get_running_loop
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import TimerHandle

__all__ = ["UNHELD", "Attended", "Cursor"]

UNHELD = 2**63
"""What is needed from, when nobody needs anything: beyond every id."""


class Cursor(Protocol):
    """Who reads a run.

    Attributes:
        away_since: when its connection went, for its run; None while it has one.
    """

    away_since: float | None

    @property
    def blocks(self) -> bool:
        """Whether the run may be only so far ahead of it."""
        ...

    @property
    def progress(self) -> str:
        """Where it is, for people."""
        ...

    @property
    def stored_position(self) -> int:
        """Everything before it is not needed any more."""
        ...

    @property
    def whereabouts(self) -> str:
        """Whose it is, for people."""
        ...


class Attended(ABC):
    """Something that cursors read: attached, away, or gone for good (SPEC.md §14).

    It is the base of a run and not a part of it, because an idle run is to be small.

    Args:
        grace: seconds without a consumer after which `deserted()` is called; infinite
            for never.
        hold: seconds that a cursor without a connection holds events back for.
    """

    __slots__ = ("_alone_since", "_cursors", "_grace", "_hold", "_looked", "_timer")

    def __init__(self, *, grace: float, hold: float) -> None:
        self._grace = grace
        self._hold = hold
        # A tuple: most runs have one cursor, for which a dict takes 232 bytes.
        self._cursors: tuple[Cursor, ...] = ()
        self._alone_since: float | None = None
        # Up to when all that lapsed has been seen to.
        self._looked = -inf
        self._timer: TimerHandle | None = None

    @property
    def consumers(self) -> int:
        """Cursors on a connection now."""
        return sum(cursor.away_since is None for cursor in self._cursors)

    @property
    def cursors(self) -> int:
        """Cursors, those that are away included."""
        return len(self._cursors)

    @property
    def progress(self) -> list[str]:
        """Where the cursors are, for people."""
        return [
            each.progress + ("" if each.away_since is None else ", away")
            for each in self._cursors
        ]

    def attach(self, cursor: Cursor) -> None:
        """Take note that a cursor is on a connection."""
        cursor.away_since = None
        if cursor not in self._cursors:
            self._cursors = (*self._cursors, cursor)
        # It may begin before the others: nothing from there on is let go.
        self.stored()
        self.watch_consumers()

    def detach(self, cursor: Cursor) -> None:
        """Take note that a cursor's connection is gone."""
        if cursor in self._cursors:
            cursor.away_since = get_running_loop().time()
            self.watch_consumers()

    def leave(self, cursor: Cursor) -> None:
        """Take note that a cursor does not come back."""
        if cursor in self._cursors:
            self._cursors = tuple(each for each in self._cursors if each is not cursor)
            self._alone_since = None
            self.stored()
            self.watch_consumers()

    def needed_from(self, first: int, floor: int) -> int:
        """Return the id from which on somebody needs the events.

        A cursor whose client is away longer than `hold`, that reads what is older than
        `first`, or whose policy is not to block, holds nothing back.

        Args:
            first: the oldest id that can be held.
            floor: what was needed so far; it stays so for a while without cursors.
        """
        late = get_running_loop().time() - self._hold
        if holding := self._holding(first, late):
            return min(cursor.stored_position for cursor in holding)
        if any(not c.blocks and c.away_since is None for c in self._cursors):
            return UNHELD
        alone = self._alone_since
        return floor if alone is None or alone > late else UNHELD

    def _holding(self, first: int, late: float) -> list[Cursor]:
        """Return the cursors that need what is kept from `first` on."""
        return [
            cursor
            for cursor in self._cursors
            if cursor.blocks
            and (cursor.away_since is None or cursor.away_since > late)
            and cursor.stored_position >= first
        ]

    def slowest_of(self, first: int) -> Cursor | None:
        """Return the cursor that holds back most of what is kept from `first` on."""
        late = get_running_loop().time() - self._hold
        holding = self._holding(first, late)
        return min(holding, key=lambda cursor: cursor.stored_position, default=None)

    def watch_consumers(self) -> None:
        """See who is there now, and when to look again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        consumers = self.consumers
        if consumers and self._alone_since is not None:
            self._alone_since = None
            self.attended(there=True)
        elif not consumers and self._alone_since is None:
            # The same moment as for the last cursor: a run that is to be cancelled does
            # not let go of what it holds just before.
            away = [c.away_since for c in self._cursors if c.away_since is not None]
            self._alone_since = max(away, default=get_running_loop().time())
            self.attended(there=False)
        if consumers and consumers == len(self._cursors):
            return
        due = [
            cursor.away_since + self._hold
            for cursor in self._cursors
            if cursor.away_since is not None
        ]
        if self._alone_since is not None:
            due += [self._alone_since + self._hold, self._alone_since + self._grace]
        following = min((time for time in due if time > self._looked), default=inf)
        if following < inf:
            self._timer = get_running_loop().call_at(following, self._lapsed)

    @abstractmethod
    def stored(self) -> None:
        """Let go of what no cursor needs."""

    @abstractmethod
    def attended(self, *, there: bool) -> None:
        """Take note that the first consumer came, or the last went."""

    @abstractmethod
    def deserted(self) -> None:
        """Take note that there was no consumer for `grace` seconds."""

    def _lapsed(self) -> None:
        self._timer = None
        self._looked = get_running_loop().time()
        alone = self._alone_since
        if alone is not None and alone + self._grace <= self._looked:
            self.deserted()
        else:
            self.stored()
            self.watch_consumers()
