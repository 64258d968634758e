"""The seam of histories, beside those of `seams`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HistoryStore"]


class HistoryStore(Protocol):
    """What happened to things that outlive a process: `RecordHistories`."""

    async def load(self, resource: str) -> list[str]:
        """Return the entries of a resource, the oldest first."""
        ...

    async def save(self, histories: Mapping[str, list[str]], now: float) -> None:
        """Replace the entries of some resources; `now` is in unix seconds."""

    async def expire(self, before: float) -> None:
        """Delete what nothing was added to since then, in unix seconds."""
