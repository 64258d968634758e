"""Proofs of a position, from running sums (`SPEC.md §15`).

A sum is over everything from some start up to a position. A receiver keeps one and
extends it as data arrives; the sums of two positions give the proof of what lies
between them, so no side reads its data twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ackline.proto.checksums import combine, crc32c, subtract
from ackline.proto.messages import Proof

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ENTRY_SIZE", "NOTHING", "ProofSum", "with_lone"]

#: Bytes of an entry in the column that `lengths_crc` covers (`SPEC.md §11`).
ENTRY_SIZE: Final = 4


class ProofSum(Struct, frozen=True, gc=False):
    """The sums over a prefix. Immutable: a later one is a new object.

    Attributes:
        bytes: Length of all bodies.
        lengths_crc: CRC of the entries; 0 for chunks.
        bodies_crc: CRC of the bodies.
    """

    bytes: int = 0
    lengths_crc: int = 0
    bodies_crc: int = 0

    def extended(self, entries: Buffer, bodies: Buffer) -> ProofSum:
        """Return the sum after these events too.

        Args:
            entries: Their column, kinds 254 and 255 left out.
            bodies: Their bodies, one after the other.
        """
        return ProofSum(
            self.bytes + memoryview(bodies).nbytes,
            crc32c(entries, self.lengths_crc),
            crc32c(bodies, self.bodies_crc),
        )

    def with_body(self, crc: int, length: int) -> ProofSum:
        """Return the sum after these bytes of a chunk too, given only their CRC."""
        return ProofSum(
            self.bytes + length,
            self.lengths_crc,
            combine(self.bodies_crc, crc, length),
        )

    def since(self, base: ProofSum, units: int) -> ProofSum:
        """Return the sum over what came after `base`.

        Args:
            base: A sum of the same units that ends earlier.
            units: The events between the two; 0 for chunks.
        """
        length = self.bytes - base.bytes
        return ProofSum(
            length,
            subtract(self.lengths_crc, base.lengths_crc, units * ENTRY_SIZE),
            subtract(self.bodies_crc, base.bodies_crc, length),
        )

    def proof(self, base: int, position: int) -> Proof:
        """Return the proof that this sum is over the units in [base, position)."""
        return Proof(base, position, self.bytes, self.lengths_crc, self.bodies_crc)


#: The sum over no units.
NOTHING: Final = ProofSum()


def with_lone(sums: ProofSum, payloads: list[bytes], body_at: int) -> ProofSum:
    """Return the sum after some lone events too: `ProofSum.extended` for all at once.

    Args:
        sums: Before them.
        payloads: Of their EVENTS, each with one entry.
        body_at: Where the body begins in each; the entry is before it.
    """
    entries = b"".join([each[body_at - ENTRY_SIZE : body_at] for each in payloads])
    return sums.extended(entries, b"".join([each[body_at:] for each in payloads]))
