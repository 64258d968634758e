"""What happened to streams, uploads, runs, logs and sessions (SPEC.md §19).

Everything is noted in memory, for what was active lately. What outlives the process is
written down too, but not at every step, since most uploads end well before anybody
asks: soon after something went wrong, and otherwise at the next cleanup.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ackline.server.stores.errors import StoreError

if TYPE_CHECKING:
    from ackline.server.stores.history_seam import HistoryStore
    from ackline.server.tasks import Tasks

__all__ = ["Histories", "entry"]

log = logging.getLogger(__name__)

MOST = 10_000
"""Things remembered in memory, at about a kilobyte each; the longest idle go first."""

FIRST, LAST = 8, 24
"""Entries kept of each: how it began, and the newest. Those between are left out."""

MOST_TEXT = 300
"""Characters of an entry."""


class _History:
    """The entries of one thing.

    Attributes:
        entries: the oldest first.
        whole: whether what is on the disk is among them.
        saved: whether something is on the disk.
        changed: whether it is older than this.
    """

    __slots__ = ("changed", "entries", "saved", "whole")

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.whole = False
        self.saved = False
        self.changed = False


class Histories:
    """The histories of everything.

    Args:
        store: for those that outlive the process.
        tasks: where writing runs.
    """

    def __init__(self, store: HistoryStore, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self._known: OrderedDict[str, _History] = OrderedDict()
        self._lasting: set[str] = set()
        self._saving = False

    def begin(self, resource: str) -> None:
        """Take note that something is new: nothing on the disk is about it."""
        self._history(resource).whole = True

    def note(
        self,
        resource: str,
        text: str,
        *,
        lasting: bool = False,
        soon: bool = False,
        over: bool = False,
    ) -> None:
        """Add an entry.

        Args:
            resource: of what.
            text: what happened, without the time.
            lasting: whether the thing outlives the process.
            soon: write it down soon.
            over: it has ended well; if nothing was written so far, nothing will be.
        """
        history = self._history(resource)
        history.entries.append(entry(text))
        if len(history.entries) > FIRST + LAST:
            del history.entries[FIRST]
        if not lasting:
            return
        if over and not history.saved:
            self._lasting.discard(resource)
            return
        history.changed = True
        self._lasting.add(resource)
        if soon and not self._saving:
            self._saving = True
            self._tasks.spawn(self.save(), "write histories")

    async def of(self, resource: str) -> list[str]:
        """Return the entries of a resource, the oldest first.

        Raises:
            StoreError: those on the disk cannot be read.
        """
        history = self._known.get(resource)
        if history is None:
            return await self._store.load(resource)
        await self._complete(resource, history)
        return list(history.entries)

    async def save(self) -> None:
        """Write down what outlives the process and was not."""
        self._saving = False
        changed: dict[str, _History] = {}
        for resource in self._lasting:
            history = self._known.get(resource)
            if history is not None and history.changed:
                changed[resource] = history
        self._lasting.clear()
        if not changed:
            return
        try:
            for resource, history in changed.items():
                await self._complete(resource, history)
            entries = {name: list(each.entries) for name, each in changed.items()}
            for history in changed.values():
                history.changed, history.saved = False, True
            await self._store.save(entries, time.time())
        except StoreError as error:
            log.warning("histories cannot be written: %s", error)
            for history in changed.values():
                history.changed = True
            self._lasting.update(changed)

    async def expire(self, before: float) -> None:
        """Write down what is new, and forget what is older than that.

        Raises:
            StoreError: the records cannot be changed.
        """
        await self.save()
        await self._store.expire(before)

    def _history(self, resource: str) -> _History:
        history = self._known.get(resource)
        if history is None:
            history = self._known[resource] = _History()
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(resource)
        return history

    async def _complete(self, resource: str, history: _History) -> None:
        """Put what an earlier process wrote down before the rest."""
        if history.whole:
            return
        earlier = await self._store.load(resource)
        if not history.whole:
            history.whole, history.saved = True, bool(earlier)
            history.entries[:0] = earlier
            del history.entries[FIRST:-LAST]


def entry(text: str) -> str:
    """Return an entry that happens now: time (UTC), and what."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{now} {text[:MOST_TEXT]}"
