"""How a batch of events lies in a segment file.

A segment is a sequence of records without padding. All integers are unsigned, most
significant byte first:

      0  magic             4  "AcB1"
      4  header CRC        4  CRC-32C of bytes 8 to 111 and the name, begun with the
                              log's salt instead of 0
      8  kind              1  1 batch, 2 checkpoint
      9  (zero)            1
     10  name length       2  bytes of the publisher's name
     12  payload length    4
     16  payload CRC       4  CRC-32C
     20  count             4  ids the batch covers; 0 in a checkpoint
     24  first id          8  id of its first event
     32  time              8  unix milliseconds
     40  group             8  offset in this file at which the write of which this
                              record was a part began
     48  epoch             8  of the publisher
     56  first unit        8  the publisher's number of the first event
     64  publisher sums   16  bytes u64, CRC of lengths u32, CRC of bodies u32: of all
                              units of the publisher, these included
     80  sums before      16  of all events of the log before these
     96  sums after       16  the same, these included
    112  publisher's name     UTF-8
         payload              the batch as it was appended, or the checkpoint

A checkpoint begins every segment. Its payload is a MessagePack array of publishers,
[name, epoch, position, bytes, lengths CRC, bodies CRC, log position], the one that
appended least recently first; so that opening a log reads its last segment only.

`group` tells a torn tail from damage. Groups are written one after the other, each
synced before the next begins. A record that cannot be read was never acknowledged if no
record after it belongs to a later group, and is damage to acknowledged events
otherwise. The salt is random and in no message: a publisher cannot make a payload that
looks like a record.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.checksums import crc32c
from ackline.proto.proofs import ProofSum
from ackline.server.stores.entities import PublisherState, StoredBatch

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BATCH",
    "CHECKPOINT",
    "HEADER_SIZE",
    "MAGIC",
    "RecordHeader",
    "pack_header",
    "parse_header",
]

MAGIC = b"AcB1"

_HEADER = struct.Struct(">4sIBxHIIIQQQQQ QII QII QII")

#: Bytes of a record before the publisher's name.
HEADER_SIZE = _HEADER.size

#: Where the part under the header's checksum begins.
_CHECKED_FROM = 8

_CHECKSUM = struct.Struct(">I")

BATCH = 1
CHECKPOINT = 2


class RecordHeader(msgspec.Struct, frozen=True, gc=False):
    """The fields of a record that are not its payload, in the order of the drawing."""

    kind: int
    payload_length: int
    payload_crc: int
    count: int
    first_id: int
    time: int
    group: int
    epoch: int
    first_unit: int
    publisher_sums: ProofSum
    sums_before: ProofSum
    sums_after: ProofSum
    publisher: str

    @property
    def next_id(self) -> int:
        """Id after the last event."""
        return self.first_id + self.count

    def publisher_state(self) -> PublisherState:
        """Return how far this batch brought its publisher."""
        return PublisherState(
            epoch=self.epoch,
            position=self.first_unit + self.count,
            sums=self.publisher_sums,
            log_position=self.next_id,
        )

    def batch(self, payload: bytes) -> StoredBatch:
        """Return the batch with its payload."""
        return StoredBatch(
            first_id=self.first_id,
            count=self.count,
            payload=payload,
            payload_crc=self.payload_crc,
            time=self.time,
            sums_before=self.sums_before,
        )


def pack_header(header: RecordHeader, salt: int) -> bytes:
    """Return the bytes of a header and the publisher's name."""
    name = header.publisher.encode()
    packed = bytearray(
        _HEADER.pack(
            MAGIC,
            0,
            header.kind,
            len(name),
            header.payload_length,
            header.payload_crc,
            header.count,
            header.first_id,
            header.time,
            header.group,
            header.epoch,
            header.first_unit,
            *_triple(header.publisher_sums),
            *_triple(header.sums_before),
            *_triple(header.sums_after),
        )
    )
    packed += name
    crc = crc32c(memoryview(packed)[_CHECKED_FROM:], salt)
    _CHECKSUM.pack_into(packed, len(MAGIC), crc)
    return bytes(packed)


def parse_header(data: Buffer, salt: int) -> tuple[RecordHeader, int] | None:
    """Return a header and where its payload begins, or None if it is not one.

    Args:
        data: At least the header and the name; what follows is not looked at.
        salt: Of the log.
    """
    view = memoryview(data)
    if len(view) < HEADER_SIZE:
        return None
    fields = _HEADER.unpack_from(view)
    if fields[0] != MAGIC:
        return None
    end = HEADER_SIZE + fields[3]
    if len(view) < end or crc32c(view[_CHECKED_FROM:end], salt) != fields[1]:
        return None
    header = RecordHeader(
        fields[2],
        fields[4],
        fields[5],
        fields[6],
        fields[7],
        fields[8],
        fields[9],
        fields[10],
        fields[11],
        ProofSum(*fields[12:15]),
        ProofSum(*fields[15:18]),
        ProofSum(*fields[18:21]),
        str(view[HEADER_SIZE:end], "utf-8"),
    )
    return header, end


def _triple(sums: ProofSum) -> tuple[int, int, int]:
    return sums.bytes, sums.lengths_crc, sums.bodies_crc
