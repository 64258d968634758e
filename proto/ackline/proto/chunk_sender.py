"""The sending half of a chunk stream: a file or object, cut up (SPEC.md §10)."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from ackline.proto.checksums import combine, crc32c
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import LAST, FrameType, pack_header
from ackline.proto.limits import MAX_CHUNKS
from ackline.proto.loads import Load
from ackline.proto.messages import Intent
from ackline.proto.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.loads import PartReader
    from ackline.proto.messages import Ack, End, Proof, Standing
    from ackline.proto.stream import Stream

__all__ = ["READ_AHEAD", "ChunkSender"]

READ_AHEAD = 2
"""Chunks asked for and not yet sent: one to send while the next is read."""

HELD_AT_ONCE = 16 * 2**20
HELD_PART = 2**20
"""What a receiver holds of a chunk is read here for its CRC up to this size, and in
such parts: some milliseconds. More is left to a thread."""


class ChunkSender(Sender):
    """Sends chunks that a loader supplies on demand.

    `wanted()` names the chunks to load, `supply()` brings each one whole and in any
    order. What must be sent again is asked for again: the file is the replay buffer.
    With `reader` each fragment is read when it is sent, as long as that does not wait:
    its bytes are then in the processor's cache, and nobody wakes up for a chunk.

    Args:
        stream: whose half this is.
        chunk_size: bytes.
        size: bytes of all chunks, or None until `finish()` says.
        position: chunk index to begin with; the chunks before it are there.
        priority: 0 (first) to 7.

    Attributes:
        reader: reads fragments; None once it had none, from then on chunks are wanted.
        crc: CRC-32C of everything below `prefix_units`.
        prefix_units: chunks whose bytes are part of `crc`.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        chunk_size: int,
        size: int | None,
        priority: int,
        position: int = 0,
    ) -> None:
        super().__init__(stream, priority=priority, position=position)
        self.chunk_size = chunk_size
        self.size = size
        self.reader: PartReader | None = None
        self.crc = 0
        self.prefix_units = 0
        self._prefix_bytes = 0
        self._crcs: dict[int, tuple[int, int]] = {}
        self._next_index = position
        self._ranges: list[tuple[int, int]] = []
        self._held = 0
        self._held_crc = 0
        self._loading: deque[int] = deque()
        self._loaded: dict[int, Load] = {}
        self._open: Load | None = None
        self._unproven: Proof | None = None
        self._count_known = None if size is None else -(-size // chunk_size)

    # Loading

    @property
    def total(self) -> int | None:
        """Number of chunks, if known."""
        return self._count_known

    def length_of(self, index: int) -> int:
        """Return the bytes of a chunk, by the size as far as it is known."""
        if self.size is None:
            return self.chunk_size
        return min(self.chunk_size, self.size - index * self.chunk_size)

    def wanted(self) -> int | None:
        """Return the index of a chunk to load now, each only once, or None.

        Call again after `supply()` and whenever the stream moved.
        """
        connection = self.stream.connection
        if (
            connection is None
            or not self._attached
            or self.stream.ended
            or self.stream.cancelling
            or self._unproven is not None
            or self.reader is not None
        ):
            return None
        begun = self._open
        if begun is not None and begun.data is None:  # its reader had no more of it
            if begun.index in self._loading:
                return None
            self._loading.append(begun.index)
            return begun.index
        ahead = len(self._loading) + len(self._loaded) + (self._open is not None)
        if ahead >= READ_AHEAD:
            return None
        index = self._next_index if self._open is None else self._open.index + 1
        while index in self._loaded or index in self._loading or self._skips(index):
            index += 1
        if self._count_known is not None and index >= self._count_known:
            return None
        # Only what the receiver has room for: a thousand streams that wait for their
        # first window must not hold a chunk in memory each.
        waiting = len(self._loading) + len(self._loaded)
        size = self.length_of(index) - (self._held if self._is_held(index) else 0)
        if not self.window.fits(waiting + 1, waiting * self.chunk_size + size):
            return None
        self._loading.append(index)
        return index

    def supply(
        self,
        index: int,
        data: memoryview,
        release: Callable[[], None] | None = None,
    ) -> None:
        """Bring a chunk that was wanted.

        Args:
            index: of the chunk.
            data: all its bytes; must not change until `release` is called.
            release: called once the bytes have been written or dropped.
        """
        if index not in self._loading:  # no longer wanted: rewound or ended meanwhile
            if release is not None:
                release()
            return
        self._loading.remove(index)
        begun = self._open
        if begun is not None and begun.index == index:
            begun.data, begun.release = data, release
        else:
            self._loaded[index] = Load(index, len(data), data, release)
        self.wake()

    def move(self, position: int, *, held: int = 0, held_crc: int = 0) -> None:
        """Go on at a chunk, of which the receiver holds `held` bytes: for a server."""
        self._drop()
        self.stored = self._next_index = position
        self._highest = max(self._highest, position)
        self._ranges = []
        self._held, self._held_crc = held, held_crc
        self._extend_prefix()

    def known(self, index: int, crc: int, length: int) -> None:
        """State the CRC of a chunk that is not sent, because the receiver has it."""
        self._crcs[index] = (crc, length)
        self._extend_prefix()
        self._prove()

    def crc_of(self, index: int) -> int | None:
        """Return the CRC of a chunk, where it is known by itself."""
        known = self._crcs.get(index)
        return None if known is None else known[0]

    def finish(self, end: End) -> None:
        """Send END after the last chunk that was supplied.

        Nothing more is loaded. With a size that is not known before, `end.size` is it.
        """
        if self.end is not None:
            return
        self.end = end
        load = self._open
        if (
            end.intent != Intent.COMPLETED
            and load is not None
            and load.data is None
            and self.reader is None
        ):
            self._drop()  # its rest cannot be had: END says so (SPEC.md §10)
        begun = self._next_index + (self._open is not None)
        if end.intent != Intent.COMPLETED:
            self._stop_at(begun)
        elif self._count_known is None:
            self._count_known = max([begun, *(i + 1 for i in self._loaded)])
        self.wake()

    def _stop_at(self, count: int) -> None:
        """Send no chunk from `count` on, whatever was loaded."""
        self._count_known = count
        self._loading.clear()
        self._unload()

    # Sender

    def opened_early(self, standing: Standing) -> None:
        """Take OPENED after data was sent without waiting for it (SPEC.md §9.2).

        Raises:
            ProtocolViolation: position_beyond.
        """
        self._check_standing(standing)
        self._ranges = [(a, b) for a, b in standing.ranges]
        self.stored = max(self.stored, standing.position)
        self._highest = max(
            self._highest, standing.position, *(end for _first, end in self._ranges)
        )
        super().opened_early(standing)
        self.stream.wants_chunk()

    def detach(self) -> None:
        """Stop; what was loaded is dropped and will be loaded again."""
        super().detach()
        self._drop()

    def close(self) -> None:
        """Give back what was loaded, and what was reserved for it."""
        self._drop()

    def _drop(self) -> None:
        connection, load = self.stream.connection, self._open
        self._open = None
        self._loading.clear()
        if load is not None:
            self._unreserve(load.size - load.sent)
            if load.release is not None and connection is None:
                load.release()
            elif load.release is not None and connection is not None:
                # A fragment may still lie in the transport.
                connection.after_write(load.release)
        self._unload()

    def _unload(self) -> None:
        """Give back the chunks that were loaded and not begun."""
        loads = [*self._loaded.values()]
        self._loaded.clear()
        for load in loads:
            if load.release is not None:
                load.release()

    @property
    def loading(self) -> bool:
        """Whether a chunk that is to be sent next is waited for."""
        return bool(self._loading) and not self._loaded and self._open is None

    @property
    def stalled(self) -> bool:
        """Whether the stream's window has no room for the next chunk."""
        count = self._count_known
        if not self._attached or self._open is not None:
            return False
        index = self._next_index
        if count is not None and index >= count:
            return False
        held = self._held if self._is_held(index) else 0
        return not self.window.fits(1, self.length_of(index) - held)

    @property
    def held(self) -> int:
        """Bytes of the next chunk that the receiver said it holds."""
        return self._held

    @property
    def outstanding(self) -> bool:
        """Whether a chunk is half sent, or something sent is not acknowledged."""
        return self._open is not None or super().outstanding

    def _skips(self, index: int) -> bool:
        return index < self.stored or any(a <= index < b for a, b in self._ranges)

    def _next(self, limit: int) -> list[bytes | memoryview] | None:
        if self._unproven is not None:
            return None
        if self._open is None and not self._begin():
            if (
                self.end is not None
                and not self.end_sent
                and self._count_known is not None
                and self._next_index >= self._count_known
            ):
                return self._end_frame(self._count_known)
            return None
        return self._continue_begun(limit)

    def _begin(self) -> bool:
        self._pass_skipped()
        load = self._next_load()
        if load is None:
            self.stream.wants_chunk()
            load = self._loaded.get(self._next_index)  # it may come at once
        if load is None:
            return False
        held = self._held if self._is_held(load.index) else 0
        if not self._room(1, load.size - held):
            return False
        if held:
            crc = self._crc_of_first(load, held)
            if crc is None:
                self.reader = None
                return self._begin()
            if not self._skip_held(load, crc):
                return False
        self._reserve(1, load.size - held)
        self._loaded.pop(load.index, None)
        self._open = load
        return True

    def _pass_skipped(self) -> None:
        while self._skips(self._next_index):
            stored = self._loaded.pop(self._next_index, None)
            if stored is not None and stored.release is not None:
                stored.release()
            self._next_index += 1

    def _next_load(self) -> Load | None:
        """Return the next chunk to send, if it is here or can be read part by part."""
        index = self._next_index
        load = self._loaded.get(index)
        if load is not None or self.reader is None:
            return load
        if self._count_known is not None and index >= self._count_known:
            return None
        if self._count_known is None:  # how large it is needs all of it
            self.reader = None
            return None
        return Load(index, self.length_of(index))

    def _skip_held(self, load: Load, crc: int) -> bool:
        """Go on after what the receiver holds, if it has the CRC of the same here."""
        if crc != self._held_crc:
            self.stream.broken(
                Code.PROOF_MISMATCH,
                f"the receiver holds other bytes of chunk {load.index}",
            )
            return False
        load.sent, load.crc = self._held, crc
        self._held = 0
        return True

    def _crc_of_first(self, load: Load, size: int) -> int | None:
        """Return the CRC of the first bytes of a chunk; None if it is to be loaded.

        Loading all of it, into memory that is new, for one fragment at a time to be
        read from there, would be the longest part of a resume.
        """
        if load.data is not None:
            return crc32c(load.data[:size])
        if size > HELD_AT_ONCE:
            return None
        reader, crc, at = self.reader, 0, 0
        assert reader is not None
        while at < size:
            part = reader.read_part(load.index, at, min(HELD_PART, size - at))
            if part is None:
                return None
            crc = crc32c(part, crc)
            at += len(part)
            reader.release_part(part)
        return crc

    def _is_held(self, index: int) -> bool:
        return self._held > 0 and index == self.stored

    def _continue_begun(self, limit: int) -> list[bytes | memoryview] | None:
        load = self._open
        if load is None:
            return None
        connection = self.stream.connection
        assert connection is not None
        part = self._part(load, min(limit, connection.peer_payload))
        if part is None:
            return None
        size = len(part)
        if connection.bucket is not None:  # by fragments: a chunk is large
            connection.bucket.spend(0, size, connection.now)
        crc = crc32c(part)
        load.crc = combine(load.crc, crc, size) if load.sent else crc
        load.sent += size
        last = load.sent == load.size
        header = pack_header(
            FrameType.CHUNK,
            LAST if last else 0,
            load.fragment,
            self.stream.id,
            load.index,
            size,
            crc,
        )
        load.fragment += 1
        if last:
            self._finished(load)
        return [header, part]

    def _part(self, load: Load, limit: int) -> memoryview | None:
        """Return the next bytes of the open chunk; None if they have to be loaded."""
        connection, reader = self.stream.connection, self.reader
        assert connection is not None
        size = min(limit, load.size - load.sent)
        part = loaded_part(load, size)
        if part is not None:
            return part
        if reader is not None:
            part = reader.read_part(load.index, load.sent, size)
        if reader is None or part is None:
            self.reader = None
            self.stream.wants_chunk()
            return loaded_part(load, size)  # it may have come at once
        connection.after_write(partial(reader.release_part, part))
        return part

    def _finished(self, load: Load) -> None:
        connection = self.stream.connection
        assert connection is not None
        self._open = None
        self._next_index = load.index + 1
        self._count(load.index, load.index + 1)
        self._crcs[load.index] = (load.crc, load.size)
        self._extend_prefix()
        if load.release is not None:
            connection.after_write(load.release)
        self.stream.wants_chunk()

    def _extend_prefix(self) -> None:
        while True:
            known = self._crcs.get(self.prefix_units)
            if known is None:
                return
            crc, length = known
            # Below `stored` a chunk is never asked for again; above it a proof may end
            # at any chunk, so the parts are kept until then.
            if self.prefix_units >= self.stored:
                return
            del self._crcs[self.prefix_units]
            self.crc = combine(self.crc, crc, length)
            self._prefix_bytes += length
            self.prefix_units += 1

    def whole(self) -> tuple[int, int] | None:
        """Return (size, CRC-32C) of all chunks, or None if some are not known."""
        crc, size, index = self.crc, self._prefix_bytes, self.prefix_units
        total = self._count_known if self._count_known is not None else self._highest
        while index < total:
            known = self._crcs.get(index)
            if known is None:
                return None
            crc = combine(crc, known[0], known[1])
            size += known[1]
            index += 1
        return size, crc

    def prefix_crc(self, units: int) -> int | None:
        """Return the CRC of all chunks before `units`, or None if not known."""
        if units < self.prefix_units:
            return None
        crc = self.crc
        for index in range(self.prefix_units, units):
            known = self._crcs.get(index)
            if known is None:
                return None
            crc = combine(crc, known[0], known[1])
        return crc

    def unknown(self) -> list[tuple[int, int]]:
        """Return the [first, end) ranges the receiver has and we have no CRC of."""
        wanted = [*([(0, self.stored)] if self.stored else []), *self._ranges]
        missing: list[tuple[int, int]] = []
        for first, end in wanted:
            for index in range(max(first, self.prefix_units), end):
                if index in self._crcs:
                    continue
                if missing and missing[-1][1] == index:
                    missing[-1] = (missing[-1][0], index + 1)
                else:
                    missing.append((index, index + 1))
        return missing

    def _check_standing(self, standing: Standing) -> None:
        """Refuse positions that no such stream has: they are counted up to.

        Raises:
            ProtocolViolation: position_beyond.
        """
        total = MAX_CHUNKS if self.size is None else -(-self.size // self.chunk_size)
        highest = max(
            standing.position - 1, *(end for _first, end in standing.ranges), 0
        )
        if highest > total:  # the END counts as one behind the last
            raise ProtocolViolation(
                Code.POSITION_BEYOND,
                f"the receiver has chunk {highest - 1}, there are {total}",
            )

    def _move_to(self, standing: Standing) -> None:
        self._check_standing(standing)
        position = standing.position
        if position < min(self.stored, self._highest):
            raise ProtocolViolation(
                Code.POSITION_LOST,
                f"the receiver is at chunk {position}, it had acknowledged"
                f" {self.stored}: call a person",
            )
        self._drop()
        if self.end is not None and self.end.intent != Intent.COMPLETED:
            self._stop_at(position)
        self._ranges = [(a, b) for a, b in standing.ranges]
        self._held, self._held_crc = standing.held, standing.held_crc
        self.stored = max(self.stored, position)
        self._next_index = position
        self._highest = max(
            self._highest, position, *(end for _first, end in self._ranges)
        )
        self._extend_prefix()
        self._unproven = standing.proof
        self.stream.stored_moved(position)
        self._prove()
        self.stream.wants_chunk()

    def _prove(self) -> None:
        """Compare the receiver's proof as soon as our own CRCs are known.

        Nothing is loaded or sent before: a new process has to read the file first.
        """
        proof = self._unproven
        if proof is None:
            return
        ours = self.prefix_crc(proof.position)
        if ours is None:
            return
        if ours != proof.bodies_crc:
            self.stream.broken(
                Code.PROOF_MISMATCH,
                f"the receiver holds other bytes before chunk {proof.position}",
            )
            return
        self._unproven = None
        self.stream.wants_chunk()
        self.wake()

    def _forget(self, ack: Ack) -> None:
        self._ranges = [(a, b) for a, b in ack.ranges]
        if any(end > self._highest for _first, end in self._ranges):
            raise ProtocolViolation(
                Code.BAD_FRAME,
                f"ACK of chunks {self._ranges}, only {self._highest} were sent",
            )
        self._extend_prefix()
        self.stream.stored_moved(min(self.stored, self._highest))
        self.stream.wants_chunk()

    def _rewind(self) -> None:
        self._next_index = self.stored
        self._held = 0
        self._drop()
        if self.end is not None and self.end.intent != Intent.COMPLETED:
            self._stop_at(self.stored)  # what it read from fails: it cannot load again
        self.stream.wants_chunk()


def loaded_part(load: Load, size: int) -> memoryview | None:
    """Return the next bytes of a chunk that is in memory; None if it is not."""
    data = load.data
    return None if data is None else data[load.sent : load.sent + size]
