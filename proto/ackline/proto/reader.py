"""Cuts the byte stream of one connection into frames, without copying large bodies.

The caller reads from its socket into `FrameReader.buffer()` and reports the count to
`FrameReader.received()`, which hands every complete, CRC-checked frame to a function.
Small frames are parsed where they were read: in one scratch buffer that all
connections of a process share, because it is empty again whenever `received()`
returns. A body that is not complete is given its own place, asked from the stream it
belongs to, and the next reads go straight there: a chunk is never copied between the
kernel and the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.frames import HEADER, HEADER_SIZE, FrameType

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SCRATCH_SIZE", "FrameReader", "FrameSink", "scratch_buffer"]

SCRATCH_SIZE = 256 * 2**10
"""Bytes read at once where nothing better is known: one largest default payload."""

BULK_HEAD = 512
"""Bytes offered after a body that was read in place: most likely the next header of
the same transfer follows, and what is read beyond it must be copied."""

UNASKED = 64 * 2**10
"""Bytes that a header alone can have a receiver allocate, where no window bounds it."""

_EVENTS: Final = FrameType.EVENTS.value

CHECKED: Final = HEADER_SIZE - 4
"""Header bytes that the CRC covers."""

SMALL: Final = 2**10
COPIED: Final = 16 * 2**10
"""Frames with payloads up to the first are cut out of copies of up to the second."""


class FrameSink(Protocol):
    """What a reader needs of the connection it serves."""

    def frame_received(
        self,
        kind: int,
        flags: int,
        fragment: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
        in_place: bool,
    ) -> None:
        """Take one frame.

        A `payload` that is no bytes is valid during the call, unless `in_place`.
        """

    def place_for(
        self, kind: int, fragment: int, stream_id: int, sequence: int, length: int
    ) -> memoryview | None:
        """Return where an incomplete body belongs, or None for a buffer of its own.

        The place may be up to `HEADER_SIZE` bytes longer than the body, for the next
        header; what is written there is of no use once the frame is handed out.
        """


def scratch_buffer() -> memoryview:
    """Make a scratch buffer for all readers of one event loop."""
    return memoryview(bytearray(SCRATCH_SIZE))


class FrameReader:
    """The receiving end of one connection's bytes.

    Call `buffer()`, read into it, call `received(n)`; repeat. `hold()` stops parsing
    after the current frame, `release()` goes on with what had been read.

    Args:
        sink: takes the frames.
        scratch: from `scratch_buffer()`; shared.
        max_payload: bytes; a header that states more is refused before anything is
            buffered for it (SPEC.md §3).

    Attributes:
        stream_id: of the newest frame, as its header says; after a violation, whose
            frame it was.
    """

    __slots__ = (
        "_body",
        "_bulk",
        "_checked",
        "_filled",
        "_header",
        "_held",
        "_in_place",
        "_length",
        "_rest",
        "_sink",
        "bytes",
        "frames",
        "max_payload",
        "read_size",
        "scratch",
        "stream_id",
    )

    def __init__(
        self, sink: FrameSink, scratch: memoryview, *, max_payload: int, read_size: int
    ) -> None:
        self._sink = sink
        self.scratch = scratch
        self.max_payload = max_payload
        self.read_size = read_size
        self.frames = 0
        self.bytes = 0
        self.stream_id = 0
        self._rest = b""
        self._held = False
        self._header: tuple[int, int, int, int, int, int, int] | None = None
        self._body: memoryview | None = None
        self._checked = b""
        self._filled = 0
        self._length = 0
        self._in_place = False
        self._bulk = False

    def part(self) -> None:
        """Let the connection go: no more bytes come."""
        self._sink = _NOBODY

    @property
    def begun(self) -> bytes:
        """The bytes of a header that is not complete."""
        return self._rest

    @property
    def missing(self) -> int:
        """How long the frame is that has begun and is not complete; 0 if none has."""
        if self._body is not None:
            return HEADER_SIZE + self._length
        return HEADER_SIZE if self._rest else 0

    def buffer(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        if self._body is not None:
            return self._body[self._filled :]
        rest = len(self._rest)
        if rest:
            self.scratch[:rest] = self._rest
        elif not self._bulk and self.read_size == len(self.scratch):
            return self.scratch  # as nearly always, with no piece of it to be made
        if self._bulk:
            return self.scratch[rest : max(BULK_HEAD, rest + HEADER_SIZE)]
        return self.scratch[rest : max(self.read_size, rest + HEADER_SIZE)]

    def received(self, count: int) -> None:
        """Take `count` bytes that were read into `buffer()`.

        Raises:
            ProtocolViolation: a header or CRC is wrong, or the sink refused a frame.
        """
        self.bytes += count
        if self._body is not None:
            self._filled += count
            if self._filled >= self._length:
                self._finish_body(self._body)
            elif self._filled == len(self._body):
                grown = bytearray(min(self._length, 2 * self._filled))
                grown[: self._filled] = self._body
                self._body = memoryview(grown)
            return
        end = len(self._rest) + count
        self._rest = b""
        self._parse(self.scratch, end)

    def feed(self, data: Buffer) -> None:
        """Take bytes that were read elsewhere: for tests and simple transports."""
        view = memoryview(data).cast("B")
        while view:
            place = self.buffer()
            n = min(len(place), len(view))
            place[:n] = view[:n]
            self.received(n)
            view = view[n:]

    def hold(self) -> None:
        """Stop handing out frames after the current one."""
        self._held = True

    def release(self) -> None:
        """Go on after `hold()`, with what had been read by then first."""
        self._held = False
        rest, self._rest = self._rest, b""
        if rest:
            self._parse(memoryview(rest), len(rest))

    def _parse(self, data: memoryview, end: int) -> None:
        at = 0
        # A copy of what is here of small frames, up to `copied`: to cut three pieces
        # out of bytes takes a third of the time that it does out of a memoryview.
        copy, base, copied = b"", 0, 0
        while not self._held and end - at >= HEADER_SIZE:
            header = HEADER.unpack_from(data, at)
            length = header[0]
            if length > self.max_payload:
                raise ProtocolViolation(
                    Code.FRAME_TOO_LARGE,
                    f"payload of {length} bytes, the limit is {self.max_payload}",
                )
            start = at + HEADER_SIZE
            stop = start + length
            if stop > end:
                self._begin_body(header, data[at:start], data[start:end])
                return
            # `_deliver()` in line: many small frames come in one read.
            _length, kind, flags, fragment, stream_id, sequence, crc = header
            self._bulk = False
            self.stream_id = stream_id
            checked: bytes | memoryview
            payload: bytes | memoryview
            if length <= SMALL:
                if stop > copied:
                    base, copied = at, min(end, at + COPIED)
                    copy = bytes(data[base:copied])
                checked = copy[at - base : at - base + CHECKED]
                payload = copy[start - base : stop - base]
            else:
                checked, payload = data[at : at + CHECKED], data[start:stop]
            at = stop
            payload_crc = crc32c(payload)
            if crc32c(checked, payload_crc) != crc:
                raise _bad_crc(kind, stream_id, sequence)
            self.frames += 1
            self._hand_out(
                kind, flags, fragment, stream_id, sequence, payload, payload_crc, False
            )
        self._rest = bytes(data[at:end])

    def _begin_body(
        self,
        header: tuple[int, int, int, int, int, int, int],
        raw: memoryview,
        head: memoryview,
    ) -> None:
        length, kind, _flags, fragment, stream_id, sequence, _crc = header
        place = self._sink.place_for(kind, fragment, stream_id, sequence, length)
        self._in_place = place is not None
        if place is None:
            # No window bounds a control frame: its memory follows what has come of it.
            size = length
            if kind != _EVENTS:
                size = min(length, max(UNASKED, 2 * len(head)))
            place = memoryview(bytearray(size))
        body = place
        body[: len(head)] = head
        self._checked = bytes(raw[:CHECKED])
        self._header, self._body, self._filled = header, body, len(head)
        self._length = length

    def _finish_body(self, body: memoryview) -> None:
        """Hand out the frame, and go on with the header that was read behind it.

        A fragment then costs one read, not a second one of a few bytes for its header:
        those were half of all reads of an upload.
        """
        header = self._header
        assert header is not None
        behind = bytes(body[self._length : self._filled])
        self._header = self._body = None
        self._bulk = True
        self._deliver(
            header, self._checked, body[: self._length], in_place=self._in_place
        )
        self._parse(memoryview(behind), len(behind))

    def _deliver(
        self,
        header: tuple[int, int, int, int, int, int, int],
        checked: Buffer,
        payload: bytes | memoryview,
        *,
        in_place: bool,
    ) -> None:
        _length, kind, flags, fragment, stream_id, sequence, crc = header
        self.stream_id = stream_id
        payload_crc = crc32c(payload)
        if crc32c(checked, payload_crc) != crc:
            raise _bad_crc(kind, stream_id, sequence)
        self.frames += 1
        self._hand_out(
            kind, flags, fragment, stream_id, sequence, payload, payload_crc, in_place
        )

    def _hand_out(
        self,
        kind: int,
        flags: int,
        fragment: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
        in_place: bool,
    ) -> None:
        """Give the sink a frame; a connection's own reader does it without the way."""
        self._sink.frame_received(
            kind, flags, fragment, stream_id, sequence, payload, crc, in_place
        )


def _bad_crc(kind: int, stream_id: int, sequence: int) -> ProtocolViolation:
    return ProtocolViolation(
        Code.BAD_CRC,
        f"the CRC of a frame of type 0x{kind:02x} on stream {stream_id} with"
        f" sequence number {sequence} does not match its bytes",
    )


class _Nobody:
    """Takes frames after the last one."""

    def frame_received(
        self,
        kind: int,
        flags: int,
        fragment: int,
        stream_id: int,
        sequence: int,
        payload: bytes | memoryview,
        crc: int,
        in_place: bool,
    ) -> None:
        pass

    def place_for(
        self, kind: int, fragment: int, stream_id: int, sequence: int, length: int
    ) -> memoryview | None:
        return None


_NOBODY = _Nobody()
