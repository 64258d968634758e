"""Which chunks of an upload are stored.

The contiguous part is an array of CRCs: an upload of 1 TiB in 4 MiB chunks has 262,144
of them, in 1 MiB here and in some 50 MB as a dictionary. Only what lies beyond the
first hole is a dictionary, and the window bounds that.
"""

from __future__ import annotations

from array import array

from ackline.proto.checksums import combine

__all__ = ["ChunkMap"]


class ChunkMap:
    """The chunks stored, by index: their lengths and CRC-32C values.

    Attributes:
        chunk_size: Bytes of every chunk but the last.
        total_size: Bytes of the whole, or None if not known.
        bytes_stored: Bytes of all chunks here.
        crc: CRC-32C of the chunks before `position`, composed of theirs.
    """

    __slots__ = (
        "_beyond",
        "_prefix",
        "_short",
        "bytes_stored",
        "chunk_size",
        "crc",
        "total_size",
    )

    def __init__(self, chunk_size: int, total_size: int | None = None) -> None:
        self.chunk_size = chunk_size
        self.total_size = total_size
        self.bytes_stored = 0
        self.crc = 0
        self._prefix = array("I")
        self._beyond: dict[int, tuple[int, int]] = {}
        # Index and length of the one chunk that is not full: the last.
        self._short: tuple[int, int] | None = None

    @property
    def position(self) -> int:
        """The first index that is not stored."""
        return len(self._prefix)

    @property
    def contiguous_bytes(self) -> int:
        """Bytes of the chunks before `position`."""
        size = self.position * self.chunk_size
        if self._short is not None and self._short[0] < self.position:
            size -= self.chunk_size - self._short[1]
        return size

    @property
    def ranges_beyond(self) -> list[tuple[int, int]]:
        """What is stored beyond `position`, as ascending (start, end) pairs."""
        ranges: list[tuple[int, int]] = []
        for index in sorted(self._beyond):
            if ranges and ranges[-1][1] == index:
                ranges[-1] = (ranges[-1][0], index + 1)
            else:
                ranges.append((index, index + 1))
        return ranges

    def __len__(self) -> int:
        return len(self._prefix) + len(self._beyond)

    def __contains__(self, index: int) -> bool:
        return index < len(self._prefix) or index in self._beyond

    def find(self, index: int) -> tuple[int, int] | None:
        """Return (length, CRC) of a chunk, or None if it is not stored."""
        if index >= len(self._prefix):
            return self._beyond.get(index)
        if self._short is not None and self._short[0] == index:
            return self._short[1], self._prefix[index]
        return self.chunk_size, self._prefix[index]

    def crcs(self) -> list[int]:
        """Return the CRCs of the chunks before `position`."""
        return self._prefix.tolist()

    def check(self, index: int, length: int) -> None:
        """Check that a chunk that is not there may have this index and length.

        Raises:
            ValueError: It lies outside the whole, or only the last may be shorter.
        """
        if index < 0 or not 0 < length <= self.chunk_size:
            raise ValueError(f"no chunk {index} can have {length} bytes")
        if self.total_size is not None:
            rest = self.total_size - index * self.chunk_size
            if length != min(self.chunk_size, rest):
                raise ValueError(
                    f"chunk {index} of {length} bytes is not one of {self.total_size}"
                )
        elif self._short is not None and index >= self._short[0]:
            raise ValueError(f"chunk {index} comes after {self._short[0]}, the last")
        elif length < self.chunk_size and index < self._end():
            raise ValueError(f"chunk {index} is short and not the last")

    def add(self, index: int, length: int, crc: int) -> None:
        """Add a chunk that is not there yet.

        Raises:
            ValueError: As `check`.
        """
        self.check(index, length)
        if length < self.chunk_size:
            self._short = (index, length)
        self.bytes_stored += length
        self._beyond[index] = (length, crc)
        while (following := self._beyond.pop(len(self._prefix), None)) is not None:
            self._prefix.append(following[1])
            self.crc = combine(self.crc, following[1], following[0])

    def _end(self) -> int:
        """Return the index after the highest stored."""
        return max(self._beyond) + 1 if self._beyond else len(self._prefix)
