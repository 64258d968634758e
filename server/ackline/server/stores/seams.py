"""What a server needs from its storage: sessions and runs, chunks, event logs.

These protocols are the seams at which the embedded stores of this package can be
exchanged for a cluster engine. So nothing in them assumes a local disk, except that an
object MAY have a local `path`, which spares a sink on the same machine a copy.

What may wait is a coroutine. Cancelling one stops the waiting, not always the work:
what was cancelled may or may not have happened, and buffers may be used again at once.
Besides the errors that the embedded stores list, every coroutine may raise StorageFull
and StoreFailed (`errors`). The meaning of arguments is told where they are implemented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ackline.server.stores.delivery_seam import DeliveryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.proto.proofs import ProofSum
    from ackline.server.stores.entities import (
        Append,
        KeptObject,
        LogRecord,
        ObjectRecord,
        PublisherState,
        Recovery,
        RunRecord,
        SessionRecord,
        StoredBatch,
        StreamKey,
        StreamRecord,
        Ticket,
        UploadParameters,
        UploadRecord,
    )
    from ackline.server.stores.errors import StoreError

__all__ = [
    "ChunkStore",
    "DeliveryStore",
    "Log",
    "LogStore",
    "Object",
    "RunStore",
    "SessionStore",
    "Upload",
]


class SessionStore(Protocol):
    """Sessions and their streams, changed only by who has the newest epoch."""

    async def save(self, session: SessionRecord) -> None:
        """Record a new session, or the state of one of the same epoch."""
        ...

    async def load(self, session_id: str) -> SessionRecord | None:
        """Return a session, or None."""
        ...

    async def advance(
        self,
        session_id: str,
        expected_epoch: int,
        *,
        token_hash: bytes,
        successor_hash: bytes | None,
        touched: float,
    ) -> SessionRecord:
        """Raise the epoch by one, if it is the expected one; return the session."""
        ...

    async def touch(self, session_ids: list[str], now: float) -> None:
        """Record that sessions have a connection."""
        ...

    async def delete(self, session_id: str) -> None:
        """Forget a session and its streams."""
        ...

    async def expire(self, before: float) -> list[str]:
        """Forget sessions not touched since; return their ids."""
        ...

    async def save_stream(self, stream: StreamRecord) -> None:
        """Record a stream of a session."""
        ...

    async def streams(self, session_id: str) -> list[StreamRecord]:
        """Return the streams of a session by number."""
        ...

    async def end_streams(self, outcomes: Mapping[StreamKey, bytes]) -> None:
        """Record outcomes of streams that are there and have none."""
        ...

    async def delete_streams(self, streams: Collection[StreamKey]) -> None:
        """Forget streams that were released."""
        ...


class RunStore(Protocol):
    """Runs of sources, and how they ended."""

    async def create(self, run: RunRecord) -> None:
        """Record a run before it starts."""
        ...

    async def run(self, run_id: str) -> RunRecord | None:
        """Return a run, active or ended, or None."""
        ...

    async def find(self, identity: str, source: str, key: str) -> RunRecord | None:
        """Return the run of this key, active or ended, or None."""
        ...

    async def active(self) -> list[RunRecord]:
        """Return the runs that have no outcome, oldest first."""
        ...

    async def finish(self, run_id: str, outcome: bytes) -> bytes:
        """Record an outcome unless there is one; return the one that stands."""
        ...

    async def runs(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[RunRecord]:
        """Return runs ordered by id, active and ended, from the one after `after`."""
        ...

    async def expired(self, retention: float, limit: int = 1000) -> list[RunRecord]:
        """Return runs that ended more than `retention` seconds ago, oldest first."""
        ...

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Forget runs."""
        ...


class Upload(Protocol):
    """An open upload."""

    @property
    def record(self) -> UploadRecord:
        """The upload as recorded."""
        ...

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is taken until `ChunkStore.load`, or None."""
        ...

    @property
    def lost_chunks(self) -> list[int]:
        """Chunks that were recorded and not there when it was last loaded."""
        ...

    @property
    def position(self) -> int:
        """The first chunk that is not stored."""
        ...

    @property
    def ranges_beyond(self) -> list[tuple[int, int]]:
        """What is stored beyond `position`, as ascending (start, end) pairs."""
        ...

    @property
    def bytes_stored(self) -> int:
        """Bytes of all stored chunks."""
        ...

    @property
    def prefix_bytes(self) -> int:
        """Bytes of the chunks before `position`."""
        ...

    @property
    def prefix_crc(self) -> int:
        """CRC-32C of the chunks before `position`."""
        ...

    def chunk(self, index: int) -> tuple[int, int] | None:
        """Return (length, CRC) of a stored chunk, or None."""
        ...

    async def store(
        self,
        index: int,
        data: Buffer,
        crc: int,
        *,
        epoch: int,
        length: int,
        offset: int = 0,
    ) -> None:
        """Store the rest of a chunk; return when the upload's durability holds."""
        ...

    async def park(self, index: int, offset: int, data: Buffer, *, epoch: int) -> None:
        """Write a part of an incomplete chunk, to free the memory."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether writing waits for no device, so that `write_part` may be used."""
        ...

    def write_part(self, index: int, offset: int, data: Buffer, *, epoch: int) -> None:
        """Do what `park` does, here and now."""
        ...

    def store_now(self, index: int, crc: int, *, epoch: int, length: int) -> bool:
        """Do what `store` does for a written chunk; return False if that could wait."""
        ...

    async def takeover(self) -> int:
        """Fence all older epochs, wait for what they began, return the new epoch."""
        ...

    async def commit(
        self,
        size: int,
        *,
        epoch: int,
        outcome: Callable[[ObjectRecord], bytes],
        crc: int | None = None,
        digest: bytes = b"",
        sinks: Collection[str] = (),
    ) -> ObjectRecord:
        """Make the object visible and record the outcome, both or neither."""
        ...

    async def abort(self, outcome: bytes) -> bytes:
        """End the upload, delete its bytes, return the outcome that stands."""
        ...


class Object(Protocol):
    """A committed object, open for reading."""

    @property
    def record(self) -> ObjectRecord:
        """The object as recorded."""
        ...

    @property
    def path(self) -> Path | None:
        """A local file with its bytes, for reading only, or None."""
        ...

    async def read(self, offset: int, buffer: Buffer) -> int:
        """Fill the buffer from `offset`; return how many bytes there were for it."""
        ...

    def read_now(self, offset: int, buffer: Buffer) -> bool:
        """Fill the buffer here and now; return False if that could wait."""
        ...

    async def close(self) -> None:
        """Close it when no read runs any more. May be called again."""
        ...


class ChunkStore(Protocol):
    """Uploads while they are open, objects once they are committed."""

    async def create(self, parameters: UploadParameters, upload_id: str = "") -> Upload:
        """Open a new upload, with room for it where its size is known."""
        ...

    async def put(
        self,
        parameters: UploadParameters,
        chunks: Sequence[tuple[Buffer, int]],
        size: int,
        upload_id: str = "",
        *,
        outcome: Callable[[ObjectRecord], bytes],
        crc: int | None = None,
        digest: bytes = b"",
        sinks: Collection[str] = (),
    ) -> UploadRecord:
        """Make an object of an upload that is there whole: `create` to `commit`."""
        ...

    async def find(self, identity: str, name: str, key: str) -> UploadRecord | None:
        """Return the upload of this key, open or ended, or None."""
        ...

    async def stored_by(self, identity: str, *, besides: Collection[str] = ()) -> int:
        """Return the bytes of an identity's objects and open uploads but some."""
        ...

    async def upload(self, upload_id: str) -> UploadRecord | None:
        """Return an upload, open or ended, or None."""
        ...

    async def uploads(
        self, *, after: str = "", limit: int = 1000
    ) -> list[UploadRecord]:
        """Return open uploads ordered by id, from the one after `after`."""
        ...

    async def load(self, upload_id: str) -> Upload:
        """Return an open upload, ready to store; the same object to every caller."""
        ...

    async def release(self, upload_id: str) -> None:
        """Free what an upload takes that nobody has open, until the next `load`."""
        ...

    async def abort(self, upload_id: str, outcome: bytes) -> bytes:
        """End an upload, loaded or not; return the outcome that stands."""
        ...

    async def expire(
        self,
        *,
        idle: float,
        retention: float,
        outcome: bytes,
        keep: Collection[str] = (),
    ) -> list[str]:
        """End abandoned uploads and forget old outcomes; return who was ended."""
        ...

    async def object(
        self, name: str, version: int | None = None
    ) -> ObjectRecord | None:
        """Return a version of a name, by default the newest, or None."""
        ...

    async def object_by_id(self, object_id: str) -> ObjectRecord | None:
        """Return an object, or None."""
        ...

    async def objects(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[ObjectRecord]:
        """Return the newest versions of names, ordered, from the one after `after`."""
        ...

    async def versions(
        self, prefix: str = "", *, after: tuple[str, int] = ("", 0), limit: int = 1000
    ) -> list[ObjectRecord]:
        """Return all versions by (name, version), from the one after `after`."""
        ...

    async def kept(self, *, before: tuple[float, str], limit: int) -> list[KeptObject]:
        """Return what was committed before (time, id), the newest first."""
        ...

    async def discard(self, object_ids: Sequence[str]) -> int:
        """Delete objects by their ids; return how many there were."""
        ...

    async def chunk_crcs(self, object_id: str) -> list[int]:
        """Return the CRC-32C of each chunk of an object."""
        ...

    async def open(self, object_id: str) -> Object:
        """Open an object for reading."""
        ...

    async def delete(self, name: str, version: int | None = None) -> int:
        """Delete a version of a name, or all; return how many there were."""
        ...


class Log(Protocol):
    """An event log."""

    @property
    def record(self) -> LogRecord:
        """The log as recorded."""
        ...

    @property
    def first_id(self) -> int:
        """Id of the first event that is retained."""
        ...

    @property
    def next_id(self) -> int:
        """Id after the last event that is durable and may be read."""
        ...

    @property
    def newest(self) -> StoredBatch | None:
        """What was made readable last, if that was since it was opened or recovered."""
        ...

    @property
    def assigned_id(self) -> int:
        """Id that the next append gets."""
        ...

    @property
    def sums(self) -> ProofSum:
        """Sums of all events before `assigned_id`."""
        ...

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        ...

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is taken until `recover`, or None."""
        ...

    @property
    def recovery(self) -> Recovery:
        """What the last opening or recovery found."""
        ...

    @property
    def deleted(self) -> bool:
        """Whether the log is gone."""
        ...

    def publisher(self, name: str) -> PublisherState | None:
        """Return how far a publisher got, what is not durable yet included."""
        ...

    async def takeover(self, publisher: str) -> int:
        """Fence older epochs, wait for what they appended, return the new epoch."""
        ...

    def append(self, batch: Append) -> Ticket:
        """Give a batch its ids and let it be stored."""
        ...

    async def flush(self) -> None:
        """Wait until everything appended so far is durable."""
        ...

    def cached(self, position: int, max_bytes: int) -> list[StoredBatch] | None:
        """Return batches from memory, or None if `load` has to be asked."""
        ...

    async def load(self, position: int, max_bytes: int) -> list[StoredBatch]:
        """Return batches, the first containing a position."""
        ...

    async def find_by_time(self, time: int) -> int:
        """Return the id of the first batch that is not older (unix milliseconds)."""
        ...

    def watch(
        self, more: Callable[[], None], changed: Callable[[], None] | None = None
    ) -> None:
        """Call `more` when there is more, and `changed` after everything else.

        That is when the log was sealed, deleted or recovered; without `changed`, `more`
        is called then too.
        """
        ...

    def unwatch(self, more: Callable[[], None]) -> None:
        """End `watch`."""
        ...

    async def add_kinds(self, names: Sequence[str]) -> list[int]:
        """Return the numbers of kinds, from 1, after adding those that are new."""
        ...

    async def seal(self, outcome: bytes) -> bytes:
        """Take no more; return the outcome that stands."""
        ...

    async def recover(self) -> Recovery:
        """Read what is stored and go on from there."""
        ...


class LogStore(Protocol):
    """Event logs by name."""

    async def open(self, name: str, *, create: bool = True) -> Log:
        """Return a log, ready to append and read; the same object to every caller."""
        ...

    async def logs(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[LogRecord]:
        """Return logs by name, from the one after `after`."""
        ...

    async def seal(self, name: str, outcome: bytes) -> bytes:
        """Let a log take no more; return the outcome that stands."""
        ...

    async def configure(
        self,
        name: str,
        *,
        retention_seconds: float | None,
        retention_bytes: int | None,
    ) -> None:
        """Set how long events are kept; create the log if need be."""
        ...

    async def trim(self) -> int:
        """Delete what retention does not keep."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a log with its events; those who watch it are called."""
        ...
