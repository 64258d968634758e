"""How much one identity has, against its quotas (SPEC.md §9)."""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.server.refusals import RETRY_SECONDS, Refusal

if TYPE_CHECKING:
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.stores.seams import ChunkStore

__all__ = ["Claim", "StoredBytes", "check_connections", "check_streams", "stored_bytes"]

QUOTA_SECONDS = 60.0
"""Seconds until an upload that a quota has no room for may be tried again."""


def check_connections(service: Service, who: Identity) -> None:
    """Refuse a connection that is one too many.

    Raises:
        Refusal: `too_many_connections`.
    """
    most = who.quotas.connections
    if most < math.inf and most <= sum(
        client.identity == who.name for client in service.clients.values()
    ):
        raise Refusal(
            Code.TOO_MANY_CONNECTIONS,
            f"{who.name} has {most:g} connections: close one",
            retry_after=RETRY_SECONDS,
        )


def check_streams(service: Service, who: Identity) -> None:
    """Refuse a stream that is one too many.

    Raises:
        Refusal: `too_many_streams`.
    """
    most = who.quotas.streams
    if most < math.inf and most <= service.sessions.streams_of(who.name):
        raise Refusal(
            Code.TOO_MANY_STREAMS,
            f"{who.name} has {most:g} open streams: end one",
            retry_after=RETRY_SECONDS,
        )


class StoredBytes:
    """What one identity stores, against its quota: also by uploads at the same time.

    An upload whose bytes are not in the records, or not yet, has a claim to them here.
    The records are asked about all the others, and only when more is wanted than they
    left the last time: what has been deleted since is not known before.

    Args:
        chunks: where it stores.
        identity: its name.
    """

    def __init__(self, chunks: ChunkStore, identity: str) -> None:
        self._chunks = chunks
        self._identity = identity
        self._lock = asyncio.Lock()
        self._recorded = math.inf  # until it has been counted
        self._settled = 0  # since the records were asked
        self._claims = dict[Claim, int]()
        self._claimed = 0

    async def claim(self, size: int | None, most: float) -> Claim:
        """Take room for a new upload; without a size, none yet.

        Args:
            size: of the upload in bytes, if it is known.
            most: the quota.

        Raises:
            Refusal: `quota_exceeded`: there is too little.
            StoreError: the records cannot be read.
        """
        wanted = max(1, size or 0)
        async with self._lock:
            if size is None or self._room(most) < wanted:
                await self._count()
            room = max(0.0, self._room(most))
            if room < wanted:
                raise Refusal(
                    Code.QUOTA_EXCEEDED,
                    f"{self._identity} may store {room:,.0f} bytes more:"
                    " delete something",
                    retry_after=QUOTA_SECONDS,
                )
            return self._add(secrets.token_hex(16), size or 0)

    async def claim_stored(self, upload_id: str, size: int) -> Claim:
        """Claim what an upload that goes on has stored, more than the quota or not.

        Raises:
            StoreError: the records cannot be read.
        """
        async with self._lock:
            claim = self._add(upload_id, size)
            try:
                await self._count()
            except BaseException:
                claim.settle()
                raise
            return claim

    async def count(self) -> None:
        """Learn from the records what else is stored.

        Raises:
            StoreError: they cannot be read.
        """
        async with self._lock:
            await self._count()

    def grow(self, claim: Claim, size: int, most: float) -> bool:
        """Enlarge a claim to `size` bytes; return False if there is too little room."""
        more = size - self._claims[claim]
        if more > 0:
            if more > self._room(most):
                return False
            self._claims[claim] = size
            self._claimed += more
        return True

    def settle(self, claim: Claim) -> None:
        """End a claim, if there is one: the records know its bytes now, or will."""
        size = self._claims.pop(claim, 0)
        self._claimed -= size
        self._recorded += size
        self._settled += size

    def _add(self, upload_id: str, size: int) -> Claim:
        claim = Claim(self, upload_id)
        self._claims[claim] = size
        self._claimed += size
        return claim

    async def _count(self) -> None:
        self._settled = 0
        besides = [claim.upload_id for claim in self._claims]
        stored = await self._chunks.stored_by(self._identity, besides=besides)
        self._recorded = stored + self._settled

    def _room(self, most: float) -> float:
        return most - self._recorded - self._claimed


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """The bytes of one upload, as long as `StoredBytes` has to count them itself.

    Attributes:
        of: where it counts.
        upload_id: of the upload.
    """

    of: StoredBytes
    upload_id: str

    def grow(self, size: int, most: float) -> bool:
        """See `StoredBytes.grow`."""
        return self.of.grow(self, size, most)

    def settle(self) -> None:
        """See `StoredBytes.settle`."""
        self.of.settle(self)


def stored_bytes(service: Service, who: Identity) -> StoredBytes | None:
    """Return what counts the bytes of an identity, if it has a quota of them."""
    if who.quotas.stored_bytes == math.inf:
        return None
    stored = service.stored.get(who.name)
    if stored is None:
        stored = service.stored[who.name] = StoredBytes(service.chunks, who.name)
    return stored
