"""What happened to streams, uploads, runs, logs and sessions (SPEC.md §19).

Everything is noted in memory, for what was active lately. What outlives the process is
written down too, but not at every step, since most uploads end well before anybody
asks: all that is new at once, a second after the first of it.
"""

from __future__ import annotations

import asyncio
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

SAVE_SECONDS = 1.0
"""Between an entry and its being on the disk: what a killed server loses of histories.
Most uploads are over by then, and need none."""

MOST_TEXT = 300
"""Characters of an entry."""


class _History(list[str]):
    """The entries of one thing, the oldest first: a run's are a tenth of its memory.

    Attributes:
        whole: whether what is on the disk is among them.
        saved: whether something is on the disk.
        changed: whether it is older than this.
    """

    __slots__ = ("changed", "saved", "whole")

    def __init__(self) -> None:
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
        self._saving: asyncio.TimerHandle | None = None

    def begin(self, resource: str) -> None:
        """Take note that something is new: nothing on the disk is about it."""
        self._history(resource).whole = True

    def note(
        self,
        resource: str,
        text: str,
        *,
        lasting: bool = False,
        over: bool = False,
    ) -> None:
        """Add an entry.

        Args:
            resource: of what.
            text: what happened, without the time.
            lasting: whether the thing outlives the process.
            over: it has ended well; if nothing is written so far, nothing will be.
        """
        history = self._history(resource)
        history.append(entry(text))
        if len(history) > FIRST + LAST:
            del history[FIRST]
        if not lasting:
            return
        if over and history.whole and not history.saved:
            self._lasting.discard(resource)
            return
        history.changed = True
        self._lasting.add(resource)
        if self._saving is None:
            loop = asyncio.get_running_loop()
            self._saving = loop.call_later(SAVE_SECONDS, self._save)

    async def of(self, resource: str) -> list[str]:
        """Return the entries of a resource, the oldest first.

        Raises:
            StoreError: those on the disk cannot be read.
        """
        history = self._known.get(resource)
        if history is None:
            return await self._store.load(resource)
        await self._complete(resource, history)
        return list(history)

    async def save(self) -> None:
        """Write down what outlives the process and was not.

        What cannot be written waits for the next entry.
        """
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        changed = {
            resource: history
            for resource in self._lasting
            if (history := self._known.get(resource)) is not None and history.changed
        }
        self._lasting.clear()
        if not changed:
            return
        try:
            for resource, history in changed.items():
                await self._complete(resource, history)
            entries = {name: list(each) for name, each in changed.items()}
            for history in changed.values():
                history.changed, history.saved = False, True
            await self._store.save(entries, time.time())
        except StoreError as error:
            log.warning("histories cannot be written: %s", error)
            for history in changed.values():
                history.changed = True
            self._lasting.update(changed)

    async def expire(self, before: float) -> None:
        """Forget what is older than that.

        Raises:
            StoreError: the records cannot be changed.
        """
        await self._store.expire(before)

    def _save(self) -> None:
        self._tasks.spawn(self.save(), "write histories")

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
            history[:0] = earlier
            del history[FIRST:-LAST]


def entry(text: str) -> str:
    """Return an entry that happens now: time (UTC), and what."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{now} {text[:MOST_TEXT]}"
