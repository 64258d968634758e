"""Checking objects and open uploads: every byte against its record."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ackline.proto.checksums import combine, crc32c
from ackline.server.maintenance.records import RESTORE
from ackline.server.stores.digests import new_hash
from ackline.server.stores.errors import Unsupported
from ackline.server.stores.files import read_into
from ackline.server.stores.segments import opened

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from ackline.server.maintenance.findings import Report
    from ackline.server.stores.digests import Hash
    from ackline.server.stores.files import Files

__all__ = ["check_objects"]

#: Bytes read at once.
_BUFFER = 2**20

_OBJECTS = """
    SELECT object_id, name, version, size, crc32c, digest_algorithm, digest, chunk_size,
        chunk_crcs
    FROM objects
"""

_CHUNKS = """
    SELECT number, length, crc FROM chunks WHERE upload = ? ORDER BY number
"""


class _Chunk(NamedTuple):
    """Where a chunk is, and what its bytes must be."""

    number: int
    offset: int
    length: int
    crc: int


def check_objects(
    files: Files, folder: Path, connection: sqlite3.Connection, report: Report
) -> None:
    """Check the folder of objects and uploads.

    Raises:
        OSError: A file cannot be read.
    """
    sizes = files.sizes(folder)
    _check_committed(files, folder, connection, sizes, report)
    _check_uploads(files, folder, connection, sizes, report)
    for name, size in sorted(sizes.items()):
        report.left(
            f"{folder.name}/{name}",
            f"no record names it ({size:,} bytes)",
            partial(files.unlink, folder / name),
        )


def _check_committed(
    files: Files,
    folder: Path,
    connection: sqlite3.Connection,
    sizes: dict[str, int],
    report: Report,
) -> None:
    """Check all objects, and take their files out of `sizes`."""
    for row in connection.execute(_OBJECTS):
        object_id, name, version, size, crc, algorithm, digest, chunk_size, crcs = row
        report.counts["objects"] += 1
        where = f"{folder.name}/{object_id} ({name!r}, version {version})"
        remedy = f"{RESTORE}, or delete it: ackline delete 'objects/{name}'"
        found = sizes.pop(object_id, None)
        if found != size:
            problem = (
                "its file is missing"
                if found is None
                else f"it has {found:,} bytes instead of {size:,}"
            )
            report.damaged(where, problem, f"{remedy} --version {version}")
            continue
        chunks = [
            _Chunk(
                index,
                index * chunk_size,
                min(chunk_size, size - index * chunk_size),
                value,
            )
            for index, value in enumerate(struct.unpack(f">{len(crcs) // 4}I", crcs))
        ]
        hasher = None if algorithm == "crc32c" else _hash(algorithm, report)
        wrong = _wrong(files, folder / object_id, chunks, hasher, report)
        if wrong:
            problem = f"not what was stored: {_listed(wrong)}"
        elif _combined(chunks) != (size, crc):
            problem = "its chunks do not make up the whole"
        elif digest != (hasher.digest() if hasher else crc.to_bytes(4, "big")) and (
            hasher or algorithm == "crc32c"
        ):
            problem = f"its {algorithm} is another"
        else:
            continue
        report.damaged(where, problem, f"{remedy} --version {version}")


def _check_uploads(
    files: Files,
    folder: Path,
    connection: sqlite3.Connection,
    sizes: dict[str, int],
    report: Report,
) -> None:
    """Check what open uploads have stored, and take their files out of `sizes`."""
    for serial, upload_id, name, chunk_size in connection.execute(
        "SELECT serial, upload_id, name, chunk_size FROM uploads WHERE outcome IS NULL"
    ):
        report.counts["uploads"] += 1
        there = sizes.pop(upload_id, None) is not None
        chunks = (
            _Chunk(index, index * chunk_size, length, crc)
            for index, length, crc in connection.execute(_CHUNKS, (serial,))
        )
        if there:
            wrong = _wrong(files, folder / upload_id, chunks, None, report)
        else:
            wrong = [chunk.number for chunk in chunks]
        if wrong:
            report.damaged(
                f"{folder.name}/{upload_id} (an open upload of {name!r})",
                f"not what was stored: {_listed(wrong)}",
                "upload it again: the server finds out and takes these chunks anew, or"
                " says position_lost if it had acknowledged them",
            )


def _wrong(
    files: Files,
    path: Path,
    chunks: Iterator[_Chunk] | list[_Chunk],
    hasher: Hash | None,
    report: Report,
) -> list[int]:
    """Return the indices of the chunks whose bytes are others."""
    wrong: list[int] = []
    buffer = memoryview(bytearray(_BUFFER))
    with opened(files, path, os.O_RDONLY) as fd:
        files.drop_cache(fd)  # it is the disk that is to be read
        for chunk in chunks:
            crc, offset, left = 0, chunk.offset, chunk.length
            while left > 0:
                part = buffer[: min(left, len(buffer))]
                part = part[: read_into(files, fd, part, offset)]
                if not part:
                    break
                crc = crc32c(part, crc)
                if hasher is not None:
                    hasher.update(part)
                offset += len(part)
                left -= len(part)
                report.read(len(part))
            if left or crc != chunk.crc:
                wrong.append(chunk.number)
    return wrong


def _combined(chunks: list[_Chunk]) -> tuple[int, int]:
    """Return size and CRC-32C of what chunks make up."""
    size = crc = 0
    for chunk in chunks:
        crc = combine(crc, chunk.crc, chunk.length)
        size += chunk.length
    return size, crc


def _hash(algorithm: str, report: Report) -> Hash | None:
    try:
        return new_hash(algorithm)
    except Unsupported:
        # Its chunks are compared all the same.
        report.counts[f"{algorithm} not compared, its package is missing"] += 1
        return None


def _listed(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:5]))
    more = f" and {len(indices) - 5:,} more" if len(indices) > 5 else ""
    return f"chunk{'s' if len(indices) > 1 else ''} {shown}{more}"
