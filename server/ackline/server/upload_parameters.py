"""What an upload may be opened with, and what tells it from others of its key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.errors import Code
from ackline.proto.limits import MAX_CHUNKS, MAX_METADATA, MIN_CHUNK_SIZE
from ackline.proto.messages import Durability
from ackline.server.refusals import Refusal
from ackline.server.stores.entities import UploadParameters

if TYPE_CHECKING:
    from ackline.proto.messages import Open, UploadDetail
    from ackline.server.options import Options

__all__ = ["check_upload", "upload_parameters"]

DIGEST_BYTES = {"crc32c": 4, "sha256": 32, "blake3": 32}
"""SPEC.md §9.2; the store refuses other algorithms."""


def check_upload(detail: UploadDetail, options: Options) -> None:
    """Check what does not depend on what is stored.

    Raises:
        Refusal: such an upload is not possible here.
    """
    if not MIN_CHUNK_SIZE <= detail.chunk_size <= options.max_chunk_size:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"chunk_size {detail.chunk_size} is not between {MIN_CHUNK_SIZE} and"
            f" {options.max_chunk_size}",
        )
    if detail.size is not None and detail.size > detail.chunk_size * MAX_CHUNKS:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"size {detail.size} has more than {MAX_CHUNKS} chunks; choose larger ones",
        )
    expected = DIGEST_BYTES.get(detail.algorithm)
    if detail.digest and expected not in (None, len(detail.digest)):
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"a digest in {detail.algorithm} has {expected} bytes, not"
            f" {len(detail.digest)}",
        )
    if detail.durability > Durability.SYNCED:
        raise Refusal(
            Code.UNSUPPORTED, "durability replicated is not offered: use synced"
        )


def upload_parameters(
    message: Open,
    detail: UploadDetail,
    *,
    identity: str,
    name: str,
    durability: Durability,
) -> UploadParameters:
    """Return an upload as the store keeps it.

    Args:
        message: the OPEN.
        detail: of it.
        identity: who uploads.
        name: of the object to be.
        durability: the most this server promises.

    Raises:
        Refusal: there is more metadata than is kept.
    """
    metadata = msgspec.msgpack.encode(message.parameters, order="sorted")
    if len(metadata) > MAX_METADATA:
        raise Refusal(
            Code.LIMIT_EXCEEDED,
            f"the metadata takes {len(metadata)} bytes; at most {MAX_METADATA} are kept"
            " with an object: put the rest into an object of its own",
        )
    distinct = (
        detail.chunk_size,
        detail.size,
        detail.algorithm,
        detail.digest,
        int(detail.existing),
        metadata,
    )
    promise = max(min(detail.durability, durability), Durability.WRITTEN)
    return UploadParameters(
        identity=identity,
        name=name,
        key=message.key,
        chunk_size=detail.chunk_size,
        total_size=detail.size,
        digest_algorithm=detail.algorithm,
        digest=detail.digest,
        existing=detail.existing,
        metadata=metadata,
        parameters_hash=hashlib.sha256(msgspec.msgpack.encode(distinct)).digest(),
        durability=Durability(promise),
    )
