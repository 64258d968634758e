"""Outcomes: how streams, uploads and runs end, and how that is recorded.

The stores keep an outcome as the payload of its frame, so that what is answered a day
later is what was answered then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.errors import RETRYABLE, Code
from ackline.proto.messages import (
    Object,
    Outcome,
    OutcomeKind,
    Standing,
    clipped,
    decode,
    encode,
)

if TYPE_CHECKING:
    from ackline.proto.messages import Value
    from ackline.proto.stream import Stream
    from ackline.server.stores.entities import ObjectRecord

__all__ = [
    "completed",
    "ended",
    "failed",
    "load",
    "metadata_of",
    "outcome_standing",
    "record",
    "retryable",
    "wire_object",
]


def completed(position: int, stored: Object | None = None) -> Outcome:
    """Return the outcome of a stream that did what it was opened for."""
    return Outcome(OutcomeKind.COMPLETED, Code.OK, "", position, time.time(), stored)


def failed(code: int, text: str, position: int) -> Outcome:
    """Return the outcome of a stream that did not."""
    return Outcome(OutcomeKind.FAILED, code, clipped(text), position, time.time())


def ended(kind: int, code: int, text: str, position: int) -> Outcome:
    """Return an outcome of any kind."""
    return Outcome(OutcomeKind(kind), code, clipped(text), position, time.time())


def record(outcome: Outcome) -> bytes:
    """Return an outcome as the stores keep it."""
    return encode(outcome)


def load(recorded: bytes) -> Outcome:
    """Return an outcome that a store kept."""
    return decode(Outcome, recorded)


def retryable(outcome: Outcome) -> bool:
    """Tell whether an upload that ended so starts anew when it is opened again."""
    return outcome.outcome == OutcomeKind.FAILED and outcome.code in RETRYABLE


def metadata_of(stored: bytes) -> dict[str, Value]:
    """Return the metadata of an upload or object as it was opened with."""
    if not stored:
        return {}
    values: dict[str, Value] = msgspec.msgpack.decode(stored)
    return values


def wire_object(stored: ObjectRecord) -> Object:
    """Return an object as the wire describes it."""
    return Object(
        object_id=stored.object_id,
        name=stored.name,
        version=stored.version,
        size=stored.size,
        crc=stored.crc32c,
        algorithm=stored.digest_algorithm,
        digest=stored.digest,
        created=stored.created,
        metadata=metadata_of(stored.metadata),
    )


def outcome_standing(stream: Stream, outcome: Outcome) -> Standing:
    """Return the standing of a stream that has ended: nothing follows on it."""
    return Standing(
        generation=stream.generation,
        epoch=stream.epoch,
        position=outcome.position,
        durable=outcome.position,
        limit_units=0,
        limit_bytes=0,
        outcome=outcome,
    )
