"""Fetches: an object to a client, from any chunk on (SPEC.md §9, §10)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.errors import Code
from ackline.proto.limits import MAX_CHUNKS, MIN_CHUNK_SIZE
from ackline.proto.messages import (
    Durability,
    End,
    FetchDetail,
    FetchOpened,
    Intent,
    OutcomeKind,
    ResumeStream,
    open_detail,
)
from ackline.proto.notices import ChunkWanted, StoredMoved
from ackline.proto.server_session import resume_stream
from ackline.server import outcomes
from ackline.server.handler import Answer, Handler
from ackline.server.refusals import Refusal
from ackline.server.stores.errors import NotFound, StoreError

if TYPE_CHECKING:
    from ackline.proto.notices import Notice
    from ackline.proto.server_connection import ServerConnection
    from ackline.proto.stream import Stream
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import ObjectRecord, StreamRecord
    from ackline.server.stores.seams import Object

__all__ = ["FetchHandler"]

log = logging.getLogger(__name__)


class FetchHandler(Handler):
    """Reads an object chunk by chunk as the client takes it."""

    kinds = frozenset({"objects"})

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        detail = open_detail(stream.open)
        assert isinstance(detail, FetchDetail)
        self.detail = detail
        self._object: Object | None = None
        self._start = detail.start
        self._length = 0
        self._chunk_size = detail.chunk_size
        self._reserved: dict[int, int] = {}
        self._waiting = False

    @property
    def sender(self) -> ChunkSender:
        """The sending half."""
        assert isinstance(self.half, ChunkSender)
        return self.half

    @property
    def loading(self) -> bool:
        """Whether what is to be sent next is being read."""
        return self.sender.loading

    @property
    def waits_for_memory(self) -> bool:
        """Whether there is no memory to read into."""
        return self._waiting

    @property
    def name(self) -> str:
        """The object, by its name."""
        return str(self.resource)

    @property
    def total(self) -> int | None:
        """Chunks there will be, once that is known."""
        return None if self.half is None else self.sender.total

    @property
    def position(self) -> int:
        """Chunks that were sent."""
        return 0 if self.half is None else self.sender.sent_position

    # Opening

    async def prepare(self) -> None:
        """Open the object and learn the CRCs of what the client has already.

        Raises:
            Refusal: there is no such object, or no such part of it.
            StoreError: it cannot be opened.
        """
        detail = self.detail
        await self._find(detail.object_id)
        await self._know(detail.position, detail.held)

    def answer(self) -> Answer:
        """Begin where the client says, if its proof holds.

        Raises:
            Refusal: the client holds other bytes.
        """
        assert self._object is not None
        stream, detail, message = self.stream, self.detail, self.stream.open
        connection: ServerConnection = self.service.connection_of(stream)
        resumed = resume_stream(
            stream,
            ResumeStream(
                stream_id=stream.id,
                generation=0,
                position=detail.position,
                held=detail.held,
                held_crc=detail.held_crc,
                proof=detail.proof,
                window_units=message.window_units,
                window_bytes=message.window_bytes,
            ),
            connection,
        )
        if resumed.code or resumed.standing is None:
            raise Refusal(Code(resumed.code), resumed.text)
        return Answer(
            existing=detail.position > 0 or detail.held > 0,
            durability=Durability.MEMORY,
            detail=FetchOpened(
                chunk_size=self._chunk_size,
                object=outcomes.wire_object(self._object.record),
                start=self._start,
                length=self._length,
            ),
            standing=resumed.standing,
        )

    async def rebuild(self, record: StreamRecord) -> None:
        """Open the object again.

        Raises:
            Refusal: it is gone.
            StoreError: it cannot be opened.
        """
        await self._find(record.target)

    async def settle(self, wanted: ResumeStream) -> None:
        """Learn the CRCs of what the client says it has."""
        await self._know(wanted.position, wanted.held)

    async def _find(self, object_id: str) -> None:
        found = await self._record(object_id)
        self._cut(found)
        self._object = await self.service.chunks.open(found.object_id)
        stream = self.stream
        self.target = found.object_id
        stream.resource = f"objects/{found.object_id}"
        stream.generation = found.generation
        stream.sender = sender = ChunkSender(
            stream,
            chunk_size=self._chunk_size,
            size=self._length,
            priority=stream.priority,
        )
        sender.reader = self
        if self._start == 0 and self._chunk_size == found.chunk_size:
            crcs = await self.service.chunks.chunk_crcs(found.object_id)
            whole = self._length == found.size
            for index, crc in enumerate(crcs):
                if whole or (index + 1) * self._chunk_size <= self._length:
                    sender.known(index, crc, sender.length_of(index))

    async def _record(self, object_id: str) -> ObjectRecord:
        chunks, name = self.service.chunks, self.resource.name
        if object_id:
            found = await chunks.object_by_id(object_id)
            if found is None or found.name != name:
                raise Refusal(
                    Code.NOT_FOUND, f"object {object_id} was deleted or replaced"
                )
            return found
        found = await chunks.object(name, self.detail.version or None)
        if found is None:
            version = f" version {self.detail.version}" if self.detail.version else ""
            raise Refusal(Code.NOT_FOUND, f"there is no object {name!r}{version}")
        return found

    def _cut(self, found: ObjectRecord) -> None:
        """Choose the part to send, in chunks both sides accept."""
        detail = self.detail
        peer = self.stream.connection and self.stream.connection.peer_limits
        largest = self.service.options.max_chunk_size
        if peer:
            largest = min(largest, peer.max_chunk_size)
        if detail.chunk_size < MIN_CHUNK_SIZE:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"chunk_size {detail.chunk_size} is below {MIN_CHUNK_SIZE}",
            )
        self._chunk_size = min(detail.chunk_size, largest)
        if self._chunk_size < detail.chunk_size and (detail.position or detail.held):
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"chunk_size {detail.chunk_size} of a fetch that goes on is above"
                f" {largest}, the largest both sides take",
            )
        if detail.start > found.size:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"start {detail.start} is behind the end of {found.size} bytes",
            )
        rest = found.size - detail.start
        self._length = rest if detail.length is None else min(rest, detail.length)
        if self._length > self._chunk_size * MAX_CHUNKS:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"{self._length} bytes are more than {MAX_CHUNKS} chunks",
            )

    async def _know(self, position: int, held: int) -> None:
        """Read what no CRC is known of before `position`.

        And of that chunk if it is held whole: nothing of it is sent any more.
        """
        sender, stored, total = self.sender, self._object, self.sender.total or 0
        if position < total and held == sender.length_of(position):
            position += 1
        if stored is None or position > total:
            return
        first = sender.prefix_units
        buffer = self.service.pool.take(self._chunk_size)
        try:
            for index in range(first, position):
                if sender.prefix_crc(index + 1) is not None:
                    continue
                view = buffer[: sender.length_of(index)]
                await stored.read(self._start + index * self._chunk_size, view)
                sender.known(index, crc32c(view), len(view))
        finally:
            self.service.pool.give(buffer)

    # The stream

    def noticed(self, notice: Notice) -> None:
        """Load what is wanted; see whether the client has everything."""
        match notice:
            case ChunkWanted():
                self._load_wanted()
            case StoredMoved():
                self._load_wanted()
                end = self.sender.end
                if self.sender.end_acknowledged and end is not None:
                    self.decide(
                        outcomes.ended(end.intent, end.code, end.text, self.position)
                    )
            case _:
                pass

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """End; nothing is stopped but the reading."""
        self.decide(outcomes.ended(kind, code, text, self.position))

    def detached(self) -> None:
        """Give up what was loaded for the connection."""
        self._give_all()

    def close(self) -> None:
        """Close the object."""
        self._give_all()
        if self.half is not None:
            self.sender.reader = None  # a cycle
        if self._object is not None:
            self.spawn(self._object.close(), "close")

    def read_part(self, index: int, offset: int, size: int) -> memoryview | None:
        """Read what waits for no device, as long as there is memory for it."""
        stored, service = self._object, self.service
        if stored is None or self._closed or not service.send_budget.take(size):
            return None
        part = service.pool.take_part(size)
        at = self._start + index * self._chunk_size + offset
        if stored.read_now(at, part):
            return part
        self.release_part(part)
        return None

    def release_part(self, part: memoryview) -> None:
        """Reuse the memory."""
        self.service.pool.give(part)
        self.service.send_budget.give(len(part))

    def _load_wanted(self) -> None:
        """Read chunks as far as the memory for all fetches together goes."""
        if self._waiting or self._closed:
            return
        sender = self.sender
        budget = self.service.send_budget
        size = self._chunk_size
        while not self._waiting:
            if not budget.take(size):
                self._waiting = True
                budget.wait(size, self._served)
                return
            index = sender.wanted()
            if index is None:
                budget.give(size)
                break
            self._give(index)
            self._reserved[index] = size
            self.spawn(self._load(index), "load")
        if sender.end is None:
            self._maybe_finish()

    def _served(self) -> None:
        self._waiting = False
        self._load_wanted()

    async def _load(self, index: int) -> None:
        sender, stored = self.sender, self._object
        assert stored is not None
        length = sender.length_of(index)
        buffer = self.service.pool.take(length)
        try:
            count = await stored.read(self._start + index * self._chunk_size, buffer)
        except StoreError as error:
            self._give(index)
            self._unreadable(error)
            return
        except ValueError:  # closed meanwhile: the stream has ended
            self._give(index)
            return
        if count < length:
            self._give(index)
            self._unreadable(NotFound("object", self.stream.resource))
            return

        def release() -> None:
            self.service.pool.give(buffer)
            self._give(index)
            self._load_wanted()

        sender.supply(index, buffer, release)

    def _unreadable(self, error: StoreError) -> None:
        log.error("%s: %s", self.label, error)
        text = f"the object cannot be read: {error}"
        if self.sender.end is None:
            self.sender.fail(Code.STORAGE_FAILED, text)
        else:  # asked for again after END
            self.decide(outcomes.failed(Code.STORAGE_FAILED, text, self.position))

    def _maybe_finish(self) -> None:
        """Send END after the last chunk.

        Not before: until then a chunk that cannot be read is told in END.
        """
        sender, stored = self.sender, self._object
        if sender.sent_position < (sender.total or 0) or stored is None:
            return
        record, crc, digest = stored.record, 0, b""
        if self._length == record.size:
            crc = record.crc32c
            if record.digest_algorithm != "crc32c":
                digest = record.digest
        else:
            whole = sender.whole()
            if whole is None:
                return
            crc = whole[1]
        sender.finish(
            End(Intent.COMPLETED, 0, "", size=self._length, crc=crc, digest=digest)
        )

    def _give(self, index: int) -> None:
        size = self._reserved.pop(index, 0)
        if size:
            self.service.send_budget.give(size)

    def _give_all(self) -> None:
        for index in list(self._reserved):
            self._give(index)
