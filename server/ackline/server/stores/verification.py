"""Comparing the chunks on the disk with their records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.server.stores.files import read_into

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ackline.server.stores.files import Files
    from ackline.server.stores.handles import Handle

__all__ = ["StoredChunk", "mismatches"]

#: Bytes read at once.
_BUFFER = 2**20

#: Bytes checked in one thread call, if chunks are that small: some milliseconds, so
#: that a large upload does not hold a thread.
_STEP = 4 * 2**20

#: Index, length and CRC of a chunk as recorded.
StoredChunk = tuple[int, int, int]


async def mismatches(
    handle: Handle, files: Files, chunk_size: int, stored: list[StoredChunk]
) -> list[int]:
    """Return the indices of the chunks whose bytes on the disk are not as recorded.

    The file, which was synced, is read from the disk rather than from the page cache.

    Raises:
        StoreFailed: The file could not be read.
    """
    await handle.run(files.drop_cache, handle.fd)
    wrong: list[int] = []
    for group in _steps(stored):
        wrong += await handle.run(_wrong, files, handle.fd, chunk_size, group)
    return wrong


def _steps(stored: list[StoredChunk]) -> Iterator[list[StoredChunk]]:
    """Divide the chunks into groups of about one step."""
    group: list[StoredChunk] = []
    size = 0
    for chunk in stored:
        group.append(chunk)
        size += chunk[1]
        if size >= _STEP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _wrong(
    files: Files, fd: int, chunk_size: int, group: list[StoredChunk]
) -> list[int]:
    buffer = memoryview(bytearray(_BUFFER))
    return [
        index
        for index, length, crc in group
        if _crc(files, fd, index * chunk_size, length, buffer) != crc
    ]


def _crc(
    files: Files, fd: int, offset: int, length: int, buffer: memoryview
) -> int | None:
    """Return the CRC of a part of a file, or None if the file is shorter."""
    crc = 0
    while length:
        part = buffer[: min(length, len(buffer))]
        if read_into(files, fd, part, offset) < len(part):
            return None
        crc = crc32c(part, crc)
        offset += len(part)
        length -= len(part)
    return crc
