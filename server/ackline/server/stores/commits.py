"""What must be true of an upload before it becomes an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.server.stores.entities import ObjectRecord
from ackline.server.stores.errors import DigestMismatch, SizeMismatch

if TYPE_CHECKING:
    from ackline.server.stores.chunkmap import ChunkMap
    from ackline.server.stores.entities import UploadParameters, UploadRecord

__all__ = ["candidate", "check_crc", "check_digest", "check_size"]


def check_size(chunks: ChunkMap, size: int) -> None:
    """Check that the chunks make up a whole of this size.

    Raises:
        SizeMismatch: Some are missing, or the size is another one.
    """
    whole = len(chunks) == chunks.position and chunks.contiguous_bytes == size
    if not whole or chunks.total_size not in (None, size):
        raise SizeMismatch(expected=size, actual=chunks.bytes_stored)


def check_crc(chunks: ChunkMap, stated: int | None) -> None:
    """Compare the CRC-32C composed of the chunks' with the one stated, if any.

    Raises:
        DigestMismatch: They differ.
    """
    if stated is not None and stated != chunks.crc:
        raise DigestMismatch(
            "crc32c",
            expected=stated.to_bytes(4, "big"),
            actual=chunks.crc.to_bytes(4, "big"),
        )


def check_digest(of: UploadParameters, computed: bytes, stated: bytes) -> None:
    """Compare a digest with the one declared at open and the one stated now, if any.

    Raises:
        DigestMismatch: They differ.
    """
    for expected in (of.digest, stated):
        if expected and expected != computed:
            raise DigestMismatch(
                of.digest_algorithm, expected=expected, actual=computed
            )


def candidate(
    upload: UploadRecord, chunks: ChunkMap, digest: bytes, *, now: float
) -> ObjectRecord:
    """Return the object to be; the transaction that records it chooses its version."""
    of = upload.parameters
    return ObjectRecord(
        object_id=upload.upload_id,
        name=of.name,
        version=0,
        identity=of.identity,
        size=chunks.bytes_stored,
        crc32c=chunks.crc,
        digest_algorithm=of.digest_algorithm,
        digest=digest,
        metadata=of.metadata,
        created=now,
        chunk_size=of.chunk_size,
    )
