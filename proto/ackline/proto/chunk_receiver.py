"""The receiving half of a chunk stream (SPEC.md §10, §13)."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ackline.proto.checksums import combine
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.limits import MAX_CHUNKS, MAX_RANGES
from ackline.proto.messages import Durability, Intent, Proof
from ackline.proto.notices import ChunkParked, ChunkReceived
from ackline.proto.open_chunk import PIECE, OpenChunk
from ackline.proto.receiver import LATE, SOON, Receiver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.buffers import BufferPool
    from ackline.proto.messages import Ack, End
    from ackline.proto.open_chunk import WritePart
    from ackline.proto.stream import Stream
    from ackline.proto.windows import Budget

__all__ = ["ChunkReceiver"]

MAX_WINDOW_CHUNKS = 4
"""Chunks a stream may have on the way at once: one being received, one being written,
one being synced, one to spare. More was not faster and costs memory."""

BUSY_WINDOW_CHUNKS = 2
"""Chunks that a stream has at least once one was stored: where the disk is slow, one is
received while the other is written."""


NOTHING = memoryview(b"")


class ChunkReceiver(Receiver):
    """Puts fragments together and hands whole chunks to whoever stores them.

    Every `ChunkReceived` is answered with `chunk_stored()` or `chunk_refused()`, every
    `ChunkParked` with `chunk_parked()`.

    Args:
        stream: whose half this is.
        pool: buffers for chunks.
        budget: memory for windows.
        chunk_size: bytes.
        size: bytes of all chunks, or None while not known.
        durability: what an ACK promises.
        max_chunks: the largest window.

    Attributes:
        write: writes parts of chunks at once, as they come; `ChunkReceived` then has
            no data left. None if that could wait for a device.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        pool: BufferPool,
        budget: Budget,
        chunk_size: int,
        size: int | None,
        durability: Durability,
        max_chunks: int = MAX_WINDOW_CHUNKS,
    ) -> None:
        super().__init__(stream, budget=budget, durability=durability)
        self.pool = pool
        self.chunk_size = chunk_size
        self.size = size
        self.ready = False
        self.crc = 0
        self.write: WritePart | None = None
        self._max_chunks = max_chunks
        self._window_chunks = 1
        # Of the chunks without a hole before them, four bytes each: a terabyte in
        # small chunks has millions. Only the last of them may be a short one.
        self._prefix_crcs = array("I")
        self._prefix_bytes = 0
        self._beyond: dict[int, tuple[int, int]] = {}
        # CRC, length, and when it was whole.
        self._storing: dict[int, tuple[int, int, float]] = {}
        self._oldest_stored: float | None = None
        self._next = 0
        self._open: OpenChunk | None = None
        self._held: tuple[int, int, int] = (-1, 0, 0)
        self._parking = 0
        self._short: int | None = None
        self._early: list[ChunkReceived] = []

    # What is there already

    def restore(self, chunks: Mapping[int, tuple[int, int]], *, held: int = 0) -> None:
        """Begin from what the disk holds: index to (length, CRC-32C).

        Data that came before this (SPEC.md §9.2, early data) waits for `accepted()`.
        """
        self._prefix_crcs, self._prefix_bytes, self.crc = array("I"), 0, 0
        self._beyond = {i: (crc, length) for i, (length, crc) in chunks.items()}
        self._advance()
        if self._open is None:
            self._next = self._first_missing()
        self.ready = True

    def accepted(self) -> None:
        """Server: hand out the data that came before OPENED."""
        early, self._early = self._early, []
        for notice in early:
            self._hand_over(notice)

    def came_whole(self) -> list[ChunkReceived] | None:
        """Server: return all chunks, in order, if they and END came before OPENED."""
        count = self.end_number
        if self.end is None or self.end.intent != Intent.COMPLETED or self.ready:
            return None
        early = sorted(self._early, key=lambda notice: notice.index)
        whole = len(early) == count and all(n.index == i for i, n in enumerate(early))
        return early if whole else None

    def restore_held(self, index: int, size: int, crc: int) -> None:
        """Say which bytes of an incomplete chunk are on disk."""
        self._held = (index, size, crc)

    # Frames

    def place_for(self, index: int, fragment: int, length: int) -> memoryview | None:
        """Return where the body of a fragment belongs, if it may be written there."""
        chunk = self._open
        if fragment == 0 and chunk is None:
            grant = self.grant
            if (
                not self._expected(index)
                or grant.bytes + length > grant.limit_bytes
                or grant.units >= grant.limit_units
            ):
                return None
            chunk = self._begin(index)
        if chunk is None or chunk.index != index or chunk.fragment != fragment:
            return None
        return chunk.place(length)

    def fragment(
        self,
        index: int,
        fragment: int,
        payload: bytes | memoryview,
        crc: int,
        *,
        last: bool,
        in_place: bool,
    ) -> None:
        """Take one checked CHUNK frame.

        Raises:
            ProtocolViolation: it is out of place or beyond the window.
        """
        size = len(payload)
        self._take_credit(int(fragment == 0), size)
        chunk = self._chunk_of(index, fragment, whole=size if last else None)
        if chunk is None:
            self._discard(size)
            return
        if size == 0 or chunk.length + size > self.length_of(index):
            raise self._misplaced(index, "is empty or longer than agreed")
        chunk.add(payload, crc, in_place=in_place)
        if chunk.data is None:
            self._discard(size)
        else:
            self._keep(size)
        if chunk.flush(least=1 if last else PIECE) and last:
            self._open = None
            self._complete(chunk)

    def length_of(self, index: int) -> int:
        """Return the most bytes the chunk may have."""
        if self.size is None:
            return self.chunk_size
        return min(self.chunk_size, self.size - index * self.chunk_size)

    # From the store

    def chunk_stored(self, notice: ChunkReceived) -> None:
        """State that a chunk is kept as `durability` promises."""
        crc, length, whole_at = self._storing.pop(notice.index)
        self._beyond[notice.index] = (crc, length)
        self.pool.give(notice.data)
        self._advance()
        self.consumed = self.stored
        if self._oldest_stored is None or whole_at < self._oldest_stored:
            self._oldest_stored = whole_at
        self._settle(notice.length - notice.offset)
        self.stream.stored_moved(self.stored)
        self.stream.ack_due()

    def chunk_refused(
        self, notice: ChunkReceived, *, code: int, retry_after: float
    ) -> None:
        """State that a chunk could not be kept; the sender tries again later."""
        self._storing.pop(notice.index, None)
        self.pool.give(notice.data)
        self.give_up_open(code=code, retry_after=retry_after)
        self._settle(notice.length - notice.offset)

    def give_up_open(self, *, code: int, retry_after: float) -> None:
        """Have everything that is not stored sent again later, for a full disk say."""
        self._rewind(code, retry_after)
        self._drop_open()
        self._held = (-1, 0, 0)
        self._next = self._first_missing()
        self.stream.ack_due()

    def chunk_parked(self, notice: ChunkParked, *, kept: bool) -> None:
        """State that the bytes of an incomplete chunk are on disk, or lost."""
        self._parking -= 1
        self._settle(notice.size)
        if not kept and self._held[0] == notice.index:
            self._held = (-1, 0, 0)
        self.pool.give(notice.data)

    @property
    def wanted(self) -> int:
        """The first chunk that is neither stored nor being stored."""
        return self._first_missing()

    @property
    def busy(self) -> bool:
        """Whether something received is not yet stored or refused."""
        return bool(self._storing) or self._parking > 0

    @property
    def complete(self) -> bool:
        """Whether the END is in and every chunk before it stored."""
        return self.end_number is not None and self.stored >= self.end_number

    def chunks(self) -> dict[int, tuple[int, int]]:
        """Return index to (CRC-32C, length) of what is stored."""
        prefix = range(len(self._prefix_crcs))
        return {index: self._prefix_chunk(index) for index in prefix} | self._beyond

    # Receiver

    def detach(self) -> None:
        """Stop; an incomplete chunk is parked, so that its memory is free."""
        super().detach()
        chunk = self._open
        if chunk is not None and chunk.filled and chunk.data is not None and self.ready:
            self._keep_open(chunk, chunk.data)
        self._drop_open()
        for notice in self._early:
            self._storing.pop(notice.index, None)
            self._settle(notice.length)
        self._early.clear()
        self._next = self._first_missing()

    def attach(self) -> None:
        """Begin an attachment at the first chunk that is missing."""
        self._next = self._first_missing()
        if self._held[0] != self.stored:  # what was said of chunk `stored` counts
            self._held = (-1, 0, 0)
        super().attach()

    def meter(self) -> None:
        """Server: spend what came early, what may, and from now on what is granted."""
        if self._bucket is None:
            super().meter()
            self._spend_ahead(0, min(self._unused, self._remaining()))

    def ack(self) -> tuple[int, Ack, bool]:
        """Return position, ACK and REWIND, with the window as the disk is."""
        if self._oldest_stored is not None:
            self._adapt(self._oldest_stored)
            self._oldest_stored = None
        return super().ack()

    def close(self) -> None:
        """End: a chunk that is half here will never be whole."""
        super().close()
        self._open = None
        self._early.clear()

    def confirmed(self, position: int) -> None:
        """Client: take note that a chunk held to its end is whole (SPEC.md §8.2)."""
        index, size, crc = self._held
        if index == self.stored and position == index + 1:
            self._held = (-1, 0, 0)
            self._beyond[index] = (crc, size)
            self._advance()
            self._next = self._first_missing()

    def agreed(self, chunk_size: int, size: int) -> None:
        """Client: take what OPENED says of an object to fetch."""
        self.chunk_size, self.size = chunk_size, size
        self._raise_units()  # the window in bytes holds more of smaller chunks

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the lowest stored ranges beyond `stored`."""
        found: list[tuple[int, int]] = []
        for index in sorted(self._beyond):
            if found and found[-1][1] == index:
                found[-1] = (found[-1][0], index + 1)
            elif len(found) == MAX_RANGES:
                break
            else:
                found.append((index, index + 1))
        return tuple(found)

    def held(self) -> tuple[int, int]:
        """Return bytes of the incomplete chunk `stored`, and their CRC."""
        index, size, crc = self._held
        return (size, crc) if index == self.stored else (0, 0)

    def proof(self) -> Proof | None:
        """Return the proof over all chunks before `stored`."""
        return Proof(
            base=0,
            position=len(self._prefix_crcs),
            bytes=self._prefix_bytes,
            lengths_crc=0,
            bodies_crc=self.crc,
        )

    def whole(self) -> tuple[int, int]:
        """Return (size, CRC-32C) of the stored prefix."""
        return self._prefix_bytes, self.crc

    # Private

    def _adapt(self, whole_at: float) -> None:
        """Have the window follow how long a chunk waited to be stored.

        With an ACK, because only then the connection's clock is that of now.
        """
        assert self.stream.connection is not None
        waited = self.stream.connection.now - whole_at
        least = min(BUSY_WINDOW_CHUNKS, self._max_chunks)
        if self._window_chunks < (self._max_chunks if waited <= SOON else least):
            self._window_chunks += 1
            self._top_up()
        elif waited > LATE and self._window_chunks > least:
            self._window_chunks -= 1

    def _advance(self) -> None:
        crcs = self._prefix_crcs
        while (known := self._beyond.pop(len(crcs), None)) is not None:
            crc, length = known
            self.crc = combine(self.crc, crc, length)
            self._prefix_bytes += length
            crcs.append(crc)
        if len(crcs) > self.stored:
            self.stored = self.consumed = len(crcs)

    def _prefix_chunk(self, index: int) -> tuple[int, int]:
        length = min(self.chunk_size, self._prefix_bytes - index * self.chunk_size)
        return self._prefix_crcs[index], length

    def _known(self, index: int) -> tuple[int, int] | None:
        """Return CRC and length of a chunk that is stored."""
        if index < len(self._prefix_crcs):
            return self._prefix_chunk(index)
        return self._beyond.get(index)

    def _first_missing(self) -> int:
        return self._after(len(self._prefix_crcs))

    def _after(self, index: int) -> int:
        index = max(index, len(self._prefix_crcs))
        while index in self._storing or index in self._beyond:
            index += 1
        return index

    def _expected(self, index: int) -> bool:
        return index == self._next and not self._resync

    def _chunk_of(
        self, index: int, fragment: int, *, whole: int | None
    ) -> OpenChunk | None:
        """Return the chunk that a fragment continues or begins; None to drop it."""
        if self._begins_again(index, fragment):
            self._drop_open()
        chunk = self._open
        if chunk is None:
            if self._ignored(index, fragment):
                return None
            if fragment != 0:
                raise self._misplaced(index, f"begins with fragment {fragment}")
            chunk = self._begin(index, whole=whole)
        if chunk.index != index or chunk.fragment != fragment:
            raise self._misplaced(
                index,
                f"fragment {fragment} came, fragment {chunk.fragment} of chunk"
                f" {chunk.index} was next",
            )
        return chunk

    def _begins_again(self, index: int, fragment: int) -> bool:
        """Tell whether the sender, in the middle of a chunk, has heard of a REWIND.

        Of several that were on their way at once, each makes it begin again.
        """
        chunk = self._open
        return (
            self._rewound
            and chunk is not None
            and chunk.fragment > 0
            and fragment == 0
            and index <= chunk.index
        )

    def _ignored(self, index: int, fragment: int) -> bool:
        """After REWIND, drop what was on its way until the first missing one comes."""
        if not self._resync:
            return False
        if index == self._next and fragment == 0:
            self._resync = False
            return False
        return True

    def _begin(self, index: int, *, whole: int | None = None) -> OpenChunk:
        if index > self._next or (self.end is not None and index == self._next):
            raise self._misplaced(index, f"chunk {self._next} was expected")
        if index >= self._limit():
            raise self._misplaced(index, "is beyond the size that was agreed")
        duplicate = index < self._next
        start, crc = 0, 0
        if not duplicate and self._held[0] == index:
            _index, start, crc = self._held
        chunk = self._open = OpenChunk(index, start=start, crc=crc, duplicate=duplicate)
        if not duplicate:
            # A chunk in one small fragment gets exactly its size, not a whole buffer.
            size = self.length_of(index) - start if whole is None else whole
            chunk.begin(self.pool, size, self.write)
        return chunk

    def _keep_open(self, chunk: OpenChunk, data: memoryview) -> None:
        """Keep an incomplete chunk on disk."""
        if chunk.through is not None:
            if chunk.flush():
                self._held = (chunk.index, chunk.length, chunk.crc)
            return
        self._open = None
        self._held = (chunk.index, chunk.length, chunk.crc)
        self._parking += 1
        self.stream.notice(
            ChunkParked(
                stream=self.stream,
                index=chunk.index,
                offset=chunk.start,
                data=data,
                size=chunk.filled,
            )
        )

    def _drop_open(self) -> None:
        """Discard an incomplete chunk; the reader may still write into its buffer."""
        chunk, self._open = self._open, None
        if chunk is not None and chunk.data is not None:
            self._settle(chunk.filled)

    def _limit(self) -> int:
        if self._short is not None:
            return self._short + 1
        return MAX_CHUNKS if self.size is None else -(-self.size // self.chunk_size)

    def _complete(self, chunk: OpenChunk) -> None:
        length = chunk.length
        if length < self.length_of(chunk.index):
            if self.size is not None:
                raise self._misplaced(chunk.index, "is shorter than agreed")
            if not chunk.duplicate:
                self._short = chunk.index
        if chunk.duplicate:
            self._compare(chunk.index, chunk.crc, length)
            return
        assert chunk.data is not None
        self._held = (-1, 0, 0)
        self.received_units += 1
        assert self.stream.connection is not None
        now = self.stream.connection.now
        self._storing[chunk.index] = (chunk.crc, length, now)
        self._next = self._after(chunk.index + 1)
        self.stream.unit_moved()
        data = chunk.data[: chunk.filled]
        if chunk.through is not None:
            self.pool.give(chunk.data)
            data = NOTHING
        self._hand_over(
            ChunkReceived(
                stream=self.stream,
                index=chunk.index,
                offset=chunk.start,
                data=data,
                length=length,
                crc=chunk.crc,
            )
        )

    def _hand_over(self, notice: ChunkReceived) -> None:
        if not self.stream.opened:
            self._early.append(notice)
            return
        if (
            self._known(notice.index) is not None
        ):  # early data of an upload that was there before
            self._storing.pop(notice.index, None)
            self._settle(notice.length - notice.offset)
            self._compare(notice.index, notice.crc, notice.length)
            return
        self.stream.notice(notice)

    def _compare(self, index: int, crc: int, length: int) -> None:
        self.duplicates += 1
        known = self._known(index) or self._storing.get(index)
        if known is not None and known[:2] != (crc, length):
            self.stream.conflict(index)
        else:
            self.stream.ack_due()

    def _top_up(self, *, served: bool = False) -> None:
        """Grant whole chunks, first from the budget, then in turn."""
        if self.stream.ended or self.stream.connection is None:
            return
        self._raise_bytes(served=served)
        self._raise_units()

    def _raise_bytes(self, *, served: bool) -> None:
        grant, coming = self.grant, self._remaining()
        while True:
            unused = self._unused
            missing = self._window_chunks * self.chunk_size - unused - self._pending
            size = min(self.chunk_size, missing, coming - unused)
            if size <= 0 or (not served and self._in_debt()):
                return
            if not self.budget.take(size, spare=True):
                # Only the first chunk is waited for: more is for when there is plenty.
                size = min(self.chunk_size, coming) - unused - self._pending
                if size <= 0:
                    return
                if not self.budget.take(size, spare=not served):
                    self._wait_for(size)
                    return
            served = False
            self._promised += size
            grant.limit_bytes += size
            self._spend_ahead(0, size)
            self.stream.ack_due()

    def _raise_units(self) -> None:
        """Allow as many units as there is room for chunks.

        By what is free, not by what came: a chunk that is dropped half received has
        used up its unit and less than its bytes. The first may be the rest of one, and
        then there is one more.
        """
        grant = self.grant
        units = grant.units + 1 - (-self._unused // self.chunk_size)
        if units > grant.limit_units:
            grant.limit_units = units
            self.stream.ack_due()

    def _remaining(self) -> int:
        """Bytes that may still come, as far as the size is known."""
        if self.end is not None:
            return 0
        if self.size is None:
            return 2**62
        held = self.held()[0]
        chunk = self._open
        partial = 0
        if chunk is not None and not chunk.duplicate:
            partial = chunk.length
        done = self._next * self.chunk_size
        return max(0, self.size - done - (partial or held))

    def _least_window(self) -> int:
        return min(self.chunk_size, self._remaining())

    def _end_fits(self, number: int, end: End) -> bool:
        if self._rewound and end.intent != Intent.COMPLETED:
            # It cannot send again what was refused, and knows only what is stored.
            return number <= self._next
        if end.intent != Intent.COMPLETED and number == self._next:
            self._drop_open()  # the sender cannot read the rest of it
        return self._open is None and number == self._next

    def _misplaced(self, index: int, why: str) -> ProtocolViolation:
        return ProtocolViolation(
            Code.BAD_FRAME, f"chunk {index} of stream {self.stream.id}: {why}"
        )
