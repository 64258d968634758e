"""What all random operations have in common: keys that are free, answers, faults."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ackline.server.stores.errors import StorageFull, StoreError, StoreFailed
from tests.crash.facts import GONE
from tests.crash.inspection import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from random import Random

    from ackline.server.stores.storage import Storage
    from tests.crash.facts import Change, Facts, Key
    from tests.server.stores.support import Clock

__all__ = ["Faults", "Operations"]

T = TypeVar("T")

#: What makes an operation of an exclusive kind wait.
_EXCLUSIVE = 1000

#: Which calls a fault may hit, and with what.
_FAULTS = (
    ("fdatasync", errno.EIO),
    ("fdatasync", errno.EIO),
    ("pwritev", errno.EIO),
    ("pwritev", errno.ENOSPC),
    ("sync_directory", errno.EIO),
    ("unlink", errno.EIO),
    ("open", errno.ENOSPC),
)


class Faults:
    """Lets one call after the other fail, at the times of a seed."""

    def __init__(self, facts: Facts, rng: Random) -> None:
        self._facts = facts
        self._rng = rng
        self._next: tuple[str, str, int] | None = None

    def arm(self) -> None:
        """Let the next call of some kind fail."""
        where = self._rng.choice(("records", "objects", "logs"))
        self._next = where, *self._rng.choice(_FAULTS)

    def disarm(self) -> None:
        """Let nothing fail any more."""
        self._next = None

    def __call__(self, call: str, name: str) -> int:
        """Return the errno of a call, 0 if it is to succeed (`Disk.fault`)."""
        if self._next is None:
            return 0
        where, kind, error = self._next
        if kind != call or where not in name:
            return 0
        self._next = None
        self._facts.faulted = True
        return error


class Operations:
    """What operations need and share.

    Attributes:
        alive: Whether their process was not killed; what they still hear after that is
            no fact.
    """

    def __init__(
        self,
        storage: Storage,
        facts: Facts,
        faults: Faults,
        rng: Random,
        clock: Clock,
    ) -> None:
        self.alive = True
        self._storage = storage
        self._facts = facts
        self._faults = faults
        self._rng = rng
        self._clock = clock
        self._busy: Counter[Key] = Counter()

    @contextmanager
    def _only(self, *keys: Key, shared: bool = False) -> Generator[bool]:
        """Say whether these are free, and hold them for the time of a block."""
        weight = 1 if shared else _EXCLUSIVE
        limit = _EXCLUSIVE - 1 if shared else 0
        free = all(self._busy[key] <= limit for key in keys)
        if free:
            self._busy.update(dict.fromkeys(keys, weight))
        try:
            yield free
        finally:
            if free:
                self._busy.subtract(dict.fromkeys(keys, weight))

    async def _change(
        self, values: dict[Key, object], operation: Coroutine[None, None, object]
    ) -> bool:
        """Make a change; return whether it was answered."""
        change = self._facts.ask(values)
        try:
            found = await operation
        except (StorageFull, StoreFailed) as error:
            await self._failed(error, change)
            return False
        if self.alive:
            self._facts.answer(change, found=found)
        return True

    async def _failed(self, error: StoreError, change: Change | None = None) -> None:
        """Look what became of a change after a fault."""
        if not self.alive:
            return
        if not self._facts.faulted:
            raise error
        if change is None:
            return
        keys = set(change.values)
        observed = await self._again(lambda: observe(self._storage, keys))
        if self.alive:
            self._facts.compare(observed)
            self._facts.settle(dict.fromkeys(change.values, GONE) | observed)

    async def _again(self, operation: Callable[[], Coroutine[None, None, T]]) -> T:
        """Do something until no fault is in its way; those are few."""
        while True:
            try:
                return await operation()
            except (StorageFull, StoreFailed) as error:
                await self._failed(error)
                await asyncio.sleep(0)

    async def _quietly(self, operation: Coroutine[None, None, object]) -> None:
        try:
            await operation
        except (StorageFull, StoreFailed) as error:
            await self._failed(error)
