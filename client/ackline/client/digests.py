"""Digests of whole objects other than the composed CRC-32C (SPEC.md §10)."""

from __future__ import annotations

import hashlib
import importlib
from typing import TYPE_CHECKING, Protocol

from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["ALGORITHMS", "Hash", "OrderedDigest", "digest_text", "new_hash"]

ALGORITHMS = ("crc32c", "sha256", "blake3")


class Hash(Protocol):
    """What `hashlib` objects and blake3's have in common."""

    def update(self, data: Buffer, /) -> object:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


def new_hash(algorithm: str) -> Hash | None:
    """Return a new hash, or None for crc32c, which is composed from the chunks' own.

    Raises:
        UsageError: it is none of SPEC.md, or its package is not installed.
    """
    if algorithm == "crc32c":
        return None
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "blake3":
        try:
            make: Callable[[], Hash] = importlib.import_module("blake3").blake3
        except ImportError:
            raise UsageError(
                "blake3 needs a package: pip install 'ackline[blake3]'"
            ) from None
        return make()
    raise UsageError(
        f"{algorithm!r} is no digest algorithm; use one of {', '.join(ALGORITHMS)}"
    )


class OrderedDigest:
    """A digest of chunks, which have to come in order.

    Attributes:
        next_index: the chunk that is to be added next.
    """

    def __init__(self, hash_: Hash) -> None:
        self._hash = hash_
        self.next_index = 0

    def add(self, index: int, data: Buffer) -> None:
        """Add a chunk if it is the next one; what was added is not added again."""
        if index == self.next_index:
            self._hash.update(data)
            self.next_index += 1

    def digest(self) -> bytes:
        """Return the digest of all chunks added."""
        return self._hash.digest()


def digest_text(algorithm: str, crc: int, digest: bytes) -> str:
    """Return a digest as people and other tools compare it: `crc32c:e3069283`."""
    return f"{algorithm}:{digest.hex() if digest else f'{crc:08x}'}"
