"""Reused buffers for chunks.

A fresh buffer of several megabytes costs a page fault for every 4 KiB on first use;
reusing one costs nothing.
"""

from __future__ import annotations

__all__ = ["BufferPool"]

MAX_IDLE_BYTES = 16 * 2**20
"""Bytes kept for reuse: four chunks of the default size, enough for one transfer at
full speed; more would only be memory that an idle server holds."""

MIN_POOLED = 64 * 2**10
"""Smaller buffers are cheaper to allocate than to keep."""


class BufferPool:
    """Hands out writable buffers and takes them back."""

    __slots__ = ("_idle", "_idle_bytes")

    def __init__(self) -> None:
        self._idle: dict[int, list[bytearray]] = {}
        self._idle_bytes = 0

    def take(self, size: int) -> memoryview:
        """Return a writable buffer of exactly `size` bytes, contents undefined."""
        idle = self._idle.get(size)
        if idle:
            self._idle_bytes -= size
            return memoryview(idle.pop())
        return memoryview(bytearray(size))

    def take_part(self, size: int) -> memoryview:
        """Return a writable buffer of `size` bytes, one of few sizes underneath."""
        return self.take(max(MIN_POOLED, 1 << (size - 1).bit_length()))[:size]

    def give(self, view: memoryview) -> None:
        """Take a buffer back that nobody uses any more."""
        buffer = view.obj
        if not isinstance(buffer, bytearray):
            return
        size = len(buffer)
        if not MIN_POOLED <= size <= MAX_IDLE_BYTES:
            return
        # The size used last is the last to go: nobody fills the pool with odd ones.
        same = self._idle.pop(size, [])
        while self._idle and self._idle_bytes + size > MAX_IDLE_BYTES:
            other = next(iter(self._idle))
            self._idle_bytes -= other * len(self._idle.pop(other))
        if self._idle_bytes + size <= MAX_IDLE_BYTES:
            self._idle_bytes += size
            same.append(buffer)
        self._idle[size] = same
