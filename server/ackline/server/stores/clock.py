"""How old things are: by the time that servers of this folder have been seen running.

Times are kept as unix seconds, and clocks of machines jump: when they are set, while
the machine sleeps, over a restart. What the clock gains in a jump makes nothing older.
So deadlines are counted here: time that nobody saw pass does not count, which lets
things stay somewhat longer, never shorter.

A clock that is put back makes nothing older either; what was noted before, at times
that have yet to come, stays until they do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from ackline.server.stores.records import Records

__all__ = ["ObservedClock"]

#: Seconds between the two clocks that are no jump: what setting a clock gently does
#: between two looks.
_TOLERANCE = 2.0

#: Jumps remembered; older ones become one.
_MAX_JUMPS = 256

#: When a jump was noticed, and by how much the clock went forward (seconds).
_Jump = tuple[float, float]


class ObservedClock:
    """A clock that knows its jumps.

    Call it for the unix time, `before` for what is too old. `look` compares it with the
    steady clock: as often as something may be noted between; `keep` does that, and
    records it for the next process, which `restore`s it.
    """

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._wall = wall
        self._steady = steady
        self._seen = wall(), steady()
        self._jumps: list[_Jump] = []

    def __call__(self) -> float:
        """Return unix seconds."""
        return self._wall()

    def before(self, seconds: float) -> float:
        """Return the unix time before which all that was noted is so many seconds old.

        Seconds count in which a server of this folder ran.
        """
        self.look()
        moment = self._wall() - seconds
        for noticed, jump in reversed(self._jumps):
            if moment < noticed:
                moment -= jump
        return moment

    def look(self) -> None:
        """Find out whether the clock has jumped since the last look."""
        wall, steady = self._wall(), self._steady()
        seen_wall, seen_steady = self._seen
        self._seen = wall, steady
        self._note(wall, (wall - seen_wall) - (steady - seen_steady))

    async def restore(self, records: Records) -> None:
        """Go on where the last process of this folder was seen.

        Raises:
            StoreFailed: The records cannot be read.
        """
        found = await records.run(_find)
        if found is not None:
            seen, self._jumps = found
            self._note(self._wall(), self._wall() - seen)

    async def keep(self, records: Records) -> None:
        """Look, and record it.

        Raises:
            StorageFull: There is no space for it.
            StoreFailed: It cannot be recorded.
        """
        self.look()
        jumps = msgspec.json.encode(self._jumps).decode()
        await records.run(partial(_put, seen=self._seen[0], jumps=jumps), synced=False)

    def _note(self, wall: float, jump: float) -> None:
        if abs(jump) <= _TOLERANCE:
            return
        # Put back: what it had gained by times that have yet to come is undone.
        while self._jumps and self._jumps[-1][0] > wall:
            jump += self._jumps.pop()[1]
        if jump > 0:
            self._jumps.append((wall, jump))
        if len(self._jumps) > _MAX_JUMPS:
            (_, first), (noticed, second) = self._jumps[:2]
            self._jumps[:2] = [(noticed, first + second)]


def _find(connection: sqlite3.Connection) -> tuple[float, list[_Jump]] | None:
    row = connection.execute("SELECT seen, jumps FROM clock").fetchone()
    return (
        None if row is None else (row[0], msgspec.json.decode(row[1], type=list[_Jump]))
    )


def _put(connection: sqlite3.Connection, seen: float, jumps: str) -> None:
    connection.execute("DELETE FROM clock")
    connection.execute("INSERT INTO clock (seen, jumps) VALUES (?, ?)", (seen, jumps))
