"""What the stores keep: uploads, objects, logs, sessions and runs.

These are plain values. `seams` says what can be done with them; the same values will
describe what a cluster keeps, so none of them mentions a path or a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from ackline.proto.values import Durability, Existing

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Generator

    from ackline.proto.proofs import ProofSum

__all__ = [
    "Append",
    "Delivery",
    "KeptObject",
    "LogRecord",
    "ObjectRecord",
    "PublisherState",
    "Recovery",
    "RunRecord",
    "SessionRecord",
    "StoredBatch",
    "StreamKey",
    "StreamRecord",
    "Ticket",
    "UploadParameters",
    "UploadRecord",
]


def _generation(identifier: str) -> int:
    """Return the u64 that tells this thing from others of its name, before or after.

    An id is 128 random bits in hexadecimal; its first half is as random as any.
    """
    return int(identifier[:16], 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadParameters:
    """What an upload is opened with. The first three name it, if there is a key.

    Attributes:
        identity: Who uploads.
        name: Name of the object to be.
        key: Idempotency key, "" for none.
        chunk_size: Bytes of every chunk but the last.
        total_size: Bytes of the whole, or None if not known before the end.
        digest_algorithm: "crc32c", "sha256" or "blake3".
        digest: The digest as declared at open, or empty.
        existing: What to do with an object of this name.
        metadata: Opaque to the store; kept with the object.
        parameters_hash: Opaque to the store; for the caller to tell a repeated open
            from one with other parameters.
        durability: What a store promises: WRITTEN or SYNCED.
    """

    identity: str
    name: str
    key: str = ""
    chunk_size: int
    total_size: int | None = None
    digest_algorithm: str = "crc32c"
    digest: bytes = b""
    existing: Existing = Existing.REFUSE
    metadata: bytes = b""
    parameters_hash: bytes = b""
    durability: Durability = Durability.SYNCED


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """An upload, open or ended. Times are unix seconds.

    Attributes:
        upload_id: Random; the object gets the same id.
        parameters: What it was opened with.
        epoch: Raised by every takeover; older ones are fenced.
        created: When it was opened.
        touched: When something was last stored.
        outcome: How it ended, opaque to the store; None while it is open.
    """

    upload_id: str
    parameters: UploadParameters
    epoch: int
    created: float
    touched: float
    outcome: bytes | None

    @property
    def generation(self) -> int:
        """The u64 that a recreated upload does not share (SPEC.md §1)."""
        return _generation(self.upload_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRecord:
    """A committed object. Sizes are bytes, times unix seconds.

    Attributes:
        object_id: The id of the upload that made it.
        name: Not unique; (name, version) is.
        version: From 1 up, for each name.
        identity: Who uploaded it.
        size: Bytes.
        crc32c: CRC-32C of the whole.
        digest_algorithm: "crc32c", "sha256" or "blake3".
        digest: Of the whole, in that algorithm; four bytes, big-endian, for crc32c.
        metadata: As given at open.
        created: When it was committed.
        chunk_size: Bytes of every chunk but the last.
        waiting_sinks: Sinks that have not taken it.
    """

    object_id: str
    name: str
    version: int
    identity: str
    size: int
    crc32c: int
    digest_algorithm: str
    digest: bytes
    metadata: bytes
    created: float
    chunk_size: int
    waiting_sinks: int = 0

    @property
    def upload_id(self) -> str:
        """The upload that made it."""
        return self.object_id

    @property
    def generation(self) -> int:
        """The u64 that another object of this name does not share (SPEC.md §1)."""
        return _generation(self.object_id)


class KeptObject(NamedTuple):
    """What decides how long an object is kept; see `ObjectRecord`."""

    object_id: str
    name: str
    size: int
    created: float
    waiting_sinks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An object that a sink has not taken.

    Attributes:
        object_id: The object.
        sink: Name of the sink.
        attempts: Calls that were begun.
        error: What the last of them that failed said.
        next_try: When the sink is called again, unix seconds.
    """

    object_id: str
    sink: str
    attempts: int
    error: str
    next_try: float


class Append(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch of events to be appended, in the encoding of its payload.

    Attributes:
        publisher: Whose numbering the units have.
        epoch: The publisher's attachment.
        first_unit: Number of the first event in that numbering.
        count: Ids the batch covers, at least 1.
        payload: Stored and handed out as it is.
        payload_crc: CRC-32C of the payload.
        publisher_sums: Sums of the publisher's events, this batch included.
        log_sums: Sums of the log's events, this batch included.
    """

    publisher: str
    epoch: int
    first_unit: int
    count: int
    payload: bytes
    payload_crc: int
    publisher_sums: ProofSum
    log_sums: ProofSum


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch of events in a log. Every reader of the cache gets the same object.

    Attributes:
        first_id: Id of its first event.
        count: Ids it covers.
        payload: As it was appended.
        payload_crc: CRC-32C of the payload.
        time: When it was appended, unix milliseconds; never lower than the one before.
        sums_before: Sums of the log's events before this batch.
    """

    first_id: int
    count: int
    payload: bytes
    payload_crc: int
    time: int
    sums_before: ProofSum

    @property
    def next_id(self) -> int:
        """Id after its last event."""
        return self.first_id + self.count


class Ticket:
    """The place that an appended batch has, and when it is durable.

    Await it for that; it gives the first id. Not awaiting it loses nothing but the
    error.

    Attributes:
        first_id: Id of the first event of the batch.
        next_id: Id after its last event.
        done: Done when the batch is synced; fails with StoreFailed or StorageFull.
    """

    __slots__ = ("done", "first_id", "next_id")

    def __init__(self, first_id: int, next_id: int, done: Future[None]) -> None:
        self.first_id = first_id
        self.next_id = next_id
        self.done = done

    def __await__(self) -> Generator[Any, None, int]:
        yield from self.done
        return self.first_id


class PublisherState(NamedTuple):
    """How far a publisher got in a log.

    Attributes:
        epoch: The newest attachment; older ones are fenced.
        position: Next unit wanted.
        sums: Sums of the units before it.
        log_position: Id after that of its last unit in the log.
    """

    epoch: int
    position: int
    sums: ProofSum
    log_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A log by its record. Times are unix seconds.

    Attributes:
        log_id: Random.
        name: Unique.
        kinds: Names of the kinds 1, 2, …; only ever appended to.
        sealed: The outcome recorded with the seal, opaque to the store, or None.
        retention_seconds: Age at which events may go, or None.
        retention_bytes: Size above which the oldest events may go, or None.
        created: When it was made.
    """

    log_id: str
    name: str
    kinds: tuple[str, ...]
    sealed: bytes | None
    retention_seconds: float | None
    retention_bytes: int | None
    created: float

    @property
    def generation(self) -> int:
        """The u64 that a recreated log does not share (SPEC.md §1)."""
        return _generation(self.log_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What opening a log found.

    Attributes:
        truncated_bytes: A torn tail, never acknowledged, that was cut off.
        lost_events: Events this process had made visible that the disk no longer has;
            0 unless a sync failed before.
    """

    truncated_bytes: int
    lost_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session of one identity. Times are unix seconds.

    Attributes:
        session_id: Random.
        identity: The only one who may resume it.
        epoch: Raised by every attachment.
        token_hash: Hash of the token that is valid.
        successor_hash: Hash of the token issued and not yet confirmed, or None.
        created: When it was made.
        touched: When a connection last had it.
    """

    session_id: str
    identity: str
    epoch: int
    token_hash: bytes
    successor_hash: bytes | None
    created: float
    touched: float


StreamKey: TypeAlias = tuple[str, int]
"""A stream of a session: the session's id, and the stream's number in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """A stream of a session.

    Attributes:
        session_id: Whose.
        stream_id: As the client numbered it.
        use: Wire value of its use (SPEC.md §5).
        open_message: What opened it, opaque to the store.
        target: Id of the upload, object, log or run behind it.
        outcome: How it ended, opaque to the store, or None.
    """

    session_id: str
    stream_id: int
    use: int
    open_message: bytes
    target: str
    outcome: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run of a source. Times are unix seconds.

    Attributes:
        run_id: Random.
        source: Which source runs.
        parameters: With what, opaque to the store.
        identity: Who started it.
        key: Idempotency key, "" for none.
        generation: Tells a run computed anew from what it was.
        created: When it was started.
        durable: Whether its events are in a log of its own.
        outcome: How it ended, opaque to the store; None while it is active.
    """

    run_id: str
    source: str
    parameters: bytes
    identity: str
    key: str
    generation: int
    created: float
    durable: bool
    outcome: bytes | None = None
