"""A chunk that is being sent, and where its bytes come from (SPEC.md §10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load", "PartReader"]


class PartReader(Protocol):
    """Reads what can be had at once, without waiting for a device."""

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        """Return bytes of a chunk; None if that could wait, or they are not there.

        They must not change until they are given to `release_part`.
        """
        ...

    def release_part(self, part: memoryview) -> None:
        """Take note that a part has been written, or dropped."""
        ...


class Load:
    """One chunk, from its first fragment to its last.

    Attributes:
        size: bytes.
        data: all of them, or None while they are read part by part.
        release: to be called once `data` has been written or dropped.
        sent: bytes that went into fragments, or that the receiver holds.
        fragment: the number of the next one.
        crc: of what was sent.
    """

    __slots__ = ("crc", "data", "fragment", "index", "release", "sent", "size")

    def __init__(
        self,
        index: int,
        size: int,
        data: memoryview | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.index = index
        self.size = size
        self.data = data
        self.release = release
        self.sent = 0
        self.fragment = 0
        self.crc = 0
