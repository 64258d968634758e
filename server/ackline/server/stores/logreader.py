"""Reading a log: from memory, from its segments, by time; and trimming it."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ackline.server.stores.errors import (
    Corrupt,
    PositionTrimmed,
    StoreError,
    StoreFailed,
)
from ackline.server.stores.segments import (
    Segment,
    SparseIndex,
    first_since,
    read_batches,
    time_before,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ackline.server.stores.entities import StoredBatch
    from ackline.server.stores.handles import Disk

__all__ = ["LogReader"]

P = ParamSpec("P")
T = TypeVar("T")

#: Segments of one log, besides the newest, whose index stays in memory: 24 KiB each
#: if they are of the default size.
_INDEXES = 64


class LogReader:
    """The segments of a log, oldest first. The newest one grows under its reader.

    Attributes:
        segments: Of which only synced bytes are read.
    """

    def __init__(
        self, disk: Disk, *, name: str, salt: int, segments: list[Segment]
    ) -> None:
        self.segments = segments
        self._disk = disk
        self._name = name
        self._salt = salt
        self._indexed: OrderedDict[int, Segment] = OrderedDict()
        # Trimmed files that are still to be deleted, oldest first.
        self._unwanted: deque[Path] = deque()

    @property
    def first_id(self) -> int:
        """Id of the first event that is retained, or of the first one to come."""
        return self.segments[0].first_id if self.segments else 0

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    def check(self, position: int) -> None:
        """Check that a position is not older than what is retained.

        Raises:
            PositionTrimmed: It is.
        """
        if position < self.first_id:
            raise PositionTrimmed(self._name, position=position, first_id=self.first_id)

    async def load(self, position: int, max_bytes: int) -> list[StoredBatch]:
        """Read the batch that contains a position, which must exist, and following.

        Raises:
            PositionTrimmed: The position is older than what is retained.
            Corrupt: A record is not as it was written.
            StoreFailed: Reading failed.
        """
        self.check(position)
        at = bisect_right(self.segments, position, key=_first_id) - 1
        segment = self.segments[at]
        try:
            batches, places = await self._read(
                segment, read_batches, position=position, max_bytes=max_bytes
            )
        except Corrupt:
            self.check(position)  # trimmed meanwhile
            raise
        for place in places:
            segment.index.add(place)
        self._remember(segment)
        return batches

    async def find_by_time(self, time: int) -> int:
        """Return the id of the first batch that is not older, or the id after the last.

        Args:
            time: Unix milliseconds.

        Raises:
            Corrupt: A record is not as it was written.
            StoreFailed: Reading failed.
        """
        while True:
            segments = self.segments.copy()
            try:
                return await self._find_by_time(segments, time)
            except Corrupt:
                if segments[:1] == self.segments[:1]:
                    raise
                # Trimmed meanwhile.

    async def _find_by_time(self, segments: list[Segment], time: int) -> int:
        low, high = 0, len(segments) - 1
        while low < high:
            middle = (low + high) // 2
            if await self._time_before(segments[middle + 1]) >= time:
                high = middle
            else:
                low = middle + 1
        if not segments:
            return 0
        return await self._read(segments[low], first_since, time=time)

    async def newest_of_oldest(self) -> int | None:
        """Return the time of the newest event in the oldest segment (unix ms).

        None if that is the only segment.

        Raises:
            Corrupt: A record is not as it was written.
            StoreFailed: A segment could not be read.
        """
        if len(self.segments) < 2:
            return None
        return await self._time_before(self.segments[1])

    async def trim(self, *, before: int | None, max_bytes: int | None) -> int:
        """Delete whole segments, oldest first, but never the newest.

        Args:
            before: Time (unix milliseconds); events not older are kept.
            max_bytes: Segments that hold so many newest bytes are kept.

        Returns:
            How many were deleted.

        Raises:
            Corrupt: A record is not as it was written.
            StoreFailed: A segment could not be read.
        """
        count, size = 0, self.size
        while count + 1 < len(self.segments):
            oldest, following = self.segments[count : count + 2]
            large = max_bytes is not None and size - oldest.size >= max_bytes
            old = before is not None and await self._time_before(following) < before
            if not large and not old:
                break
            count += 1
            size -= oldest.size
        # First nobody looks for them, then they go.
        for segment in self.segments[:count]:
            self._indexed.pop(segment.first_id, None)
            self._unwanted.append(segment.path)
        del self.segments[:count]
        with suppress(StoreError):  # the next time, or they are back after a restart
            await self._remove_unwanted()
        return count

    async def _remove_unwanted(self) -> None:
        """Delete files, the oldest first, each for good before the next.

        So no crash, and no file that cannot be deleted, leaves a hole.
        """
        while self._unwanted:
            oldest = self._unwanted[0]
            await self._disk.run(self._disk.files.unlink, oldest)
            await self._disk.syncer.sync(oldest.parent)
            self._unwanted.popleft()

    async def _time_before(self, segment: Segment) -> int:
        """Return the time of the newest event before a segment."""
        if segment.time is None:
            segment.time = await self._read(segment, time_before)
        return segment.time

    async def _read(
        self,
        segment: Segment,
        function: Callable[..., T],
        **arguments: int,
    ) -> T:
        """Call a reading function of `segments` in a thread.

        Raises:
            Corrupt: A record is not as it was written, or the file is missing.
            StoreFailed: Reading failed.
        """
        try:
            return await self._disk.run(
                function, self._disk.files, segment, self._salt, **arguments
            )
        except StoreFailed as error:
            if isinstance(error.__cause__, FileNotFoundError):
                problem = "it is missing"
                raise Corrupt(segment.path, offset=0, problem=problem) from error
            raise

    def _remember(self, segment: Segment) -> None:
        """Keep the index of a segment, and forget that of another one if need be."""
        self._indexed[segment.first_id] = segment
        self._indexed.move_to_end(segment.first_id)
        while len(self._indexed) > _INDEXES:
            _, oldest = self._indexed.popitem(last=False)
            if oldest is not self.segments[-1]:
                oldest.index = SparseIndex()


def _first_id(segment: Segment) -> int:
    return segment.first_id
