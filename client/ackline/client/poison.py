"""Finds the stream whose unit breaks every connection that carries it (SPEC.md §20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.handles import Handle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ackline.proto.notices import ConnectionFailed
    from ackline.proto.stream import Stream

__all__ = ["Poison"]

ENOUGH = 3
"""Times in a row at the same unit: a flipped bit on the way is not repeated thrice."""


class Poison:
    """Counts how often connections ended by `bad_crc` or `bad_frame` at one unit."""

    def __init__(self) -> None:
        self._seen: dict[Handle, tuple[object, int]] = {}

    def struck(
        self,
        handles: Iterable[Handle],
        failed: ConnectionFailed,
        culprit: Stream | None,
    ) -> None:
        """Take note of one such end, and fail the streams that caused enough of them.

        Args:
            handles: all streams.
            failed: how the connection ended.
            culprit: whose frame it was, where this side found the fault; else those
                that send (or receive) and did not move since the last time are.
        """
        suspects = [
            handle for handle in handles if handle.suspect(by_peer=failed.by_peer)
        ]
        if culprit is not None and isinstance(culprit.context, Handle):
            suspects = [culprit.context]
        seen: dict[Handle, tuple[object, int]] = {}
        for handle in suspects:
            mark, times = self._seen.get(handle, (None, 0))
            times = times + 1 if mark == handle.mark() else 1
            seen[handle] = (handle.mark(), times)
            if times >= ENOUGH:
                handle.fail(handle.local_failure(failed.code, failed.text))
        self._seen = seen

    def clear(self) -> None:
        """Forget: a connection ended in another way."""
        self._seen.clear()
