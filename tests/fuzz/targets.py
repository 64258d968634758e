"""What is fuzzed, and what has to hold whatever comes.

- nothing is raised but `ProtocolViolation`, and by the decoder alone;
- memory stays within windows, budgets and `max_payload`;
- a core comes to rest: no timer is due for ever, no output without end;
- the outcome is the same in one piece, in small pieces, and byte after byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ackline.proto.batches import KindTable, parse_batch
from ackline.proto.client_connection import ClientConnection
from ackline.proto.errors import ProtocolViolation
from ackline.proto.feed import EventBuffer
from ackline.proto.frames import SPECIAL, FrameType, frame_type
from ackline.proto.messages import (
    PAYLOADS,
    Done,
    End,
    Intent,
    Open,
    Opened,
    Use,
    decode,
    open_detail,
    opened_detail,
)
from ackline.proto.notices import RequestReceived
from ackline.proto.reader import FrameReader, scratch_buffer
from ackline.proto.server_connection import ServerConnection
from ackline.proto.windows import Budget
from tests.fuzz.scripts import What, steps
from tests.proto.joined import MemoryClient, MemoryServer, limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.proto.connection import Connection
    from ackline.proto.notices import Notice

__all__ = ["PIECES", "SMALL", "TARGETS", "FuzzClient", "FuzzServer"]

SMALL = limits(
    max_payload=16_384,
    max_chunk_size=20_000,
    max_streams=16,
    window_units=100,
    window_bytes=100_000,
    initial_units=4,
    initial_bytes=10_000,
)
BUDGET = 300_000
MAX_OUTPUT = 3 * 2**20
"""Bytes of answers: three times what makes a server stop reading."""

MAX_TURNS = 2_000
PIECES = (2**30, 7, 1)

Outcome = list[Any]


# The decoder


class _Sink:
    """Takes frames; every second long body gets a place of its own."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, ...]] = []
        self.payloads: list[bytes] = []

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
        self.frames.append((kind, flags, fragment, stream_id, sequence, crc))
        self.payloads.append(bytes(payload))

    def place_for(
        self, kind: int, fragment: int, stream_id: int, sequence: int, length: int
    ) -> memoryview | None:
        return memoryview(bytearray(length)) if stream_id % 2 else None


def decoder(script: bytes) -> None:
    """Cut bytes into frames, and parse each of them."""
    wire = b"".join(step.data for step in steps(script))
    found = [_cut(wire, piece) for piece in PIECES]
    assert all(each == found[0] for each in found)
    for header, payload in zip(found[0][0], found[0][1], strict=True):
        _parse(header, payload)


def _cut(wire: bytes, piece: int) -> Outcome:
    sink = _Sink()
    reader = FrameReader(
        sink, scratch_buffer(), max_payload=SMALL.max_payload, read_size=8192
    )
    violation: tuple[int, str, int] | None = None
    try:
        _feed(reader.buffer, reader.received, wire, piece)
    except ProtocolViolation as error:
        violation = error.code, error.text, reader.stream_id
    return [sink.frames, sink.payloads, violation]


def _feed(
    buffer: Callable[[], memoryview],
    received: Callable[[int], None],
    wire: bytes,
    piece: int,
) -> None:
    at = 0
    while at < len(wire):
        place = buffer()
        size = min(len(place), piece, len(wire) - at)
        assert 0 < size <= 2**18 + 64
        place[:size] = wire[at : at + size]
        received(size)
        at += size


def _parse(header: tuple[int, ...], payload: bytes) -> None:
    try:
        kind = frame_type(header[0])
        if kind is FrameType.EVENTS:
            batch = parse_batch(header[4], payload, special=bool(header[1] & SPECIAL))
            kinds = KindTable(("a", "b"))
            batch.check_kinds(kinds)
            assert batch.next_id >= header[4]
            batch.events(kinds)
        elif kind in PAYLOADS:
            message = decode(PAYLOADS[kind], payload)
            if isinstance(message, Open):
                open_detail(message)
            elif isinstance(message, Opened):
                for use in Use:
                    opened_detail(use, message)
    except ProtocolViolation:
        pass


# The cores


class FuzzServer(MemoryServer):
    """A server with something of everything, that answers requests too."""

    def __init__(self) -> None:
        super().__init__(server_limits=SMALL, budget=BUDGET)
        self.objects["objects/x"] = bytes(range(256)) * 20
        for name in ("sources/x", "logs/x"):
            self.logs[name] = feed = EventBuffer(
                generation=3, max_events=1000, max_bytes=10**6, keep=True, define=True
            )
            for number in range(30):
                feed.append(b"e" * number, feed.define(f"k{number % 3}"))
            if name == "sources/x":
                feed.finish(End(Intent.COMPLETED, 0, "", size=30))

    def handle(self, connection: ServerConnection, notice: Notice) -> None:
        super().handle(connection, notice)
        if isinstance(notice, RequestReceived):
            connection.reply(notice.request_id, Done("as you say"))


class FuzzClient(MemoryClient):
    """A client with a stream of each use."""

    def __init__(self) -> None:
        super().__init__(client_limits=SMALL)
        self.budget = Budget(BUDGET)

    def begin(self) -> None:
        self.upload(b"upload" * 900, chunk_size=1024, key="u", early=True)
        self.upload(b"upload" * 900, chunk_size=1024, key="v", resource="objects/y")
        _, feed = self.publish("logs/x", key="p")
        for number in range(20):
            feed.append(b"p" * number)
        self.subscribe("sources/x")
        self.subscribe("logs/x", "drop-oldest", 10)
        self.fetch("objects/x", chunk_size=1024)


class _Player:
    """Plays a script against one core after the other."""

    def __init__(self, piece: int) -> None:
        self.piece = piece
        self.now = 1000.0
        self.output = b""
        self.core = self.connect()

    def connect(self) -> Connection:
        raise NotImplementedError

    def hold(self, *, held: bool) -> None:
        raise NotImplementedError

    def outcome(self) -> Outcome:
        raise NotImplementedError

    def play(self, script: bytes) -> Outcome:
        """Play it; return what came of it."""
        wire = b""
        for step in steps(script):
            if step.data:
                wire += step.data
                continue
            self.deliver(wire)
            wire = b""
            self.happen(step.what, step.number)
        self.deliver(wire)
        self.hold(held=False)
        self.rest()
        return [self.output, self.core.closing, *self.outcome()]

    def happen(self, what: What, number: int) -> None:
        match what:
            case What.TIME:
                self.now += number / 100
                self.core.handle_timeout(self.now)
            case What.OUTPUT:
                self.write()
            case What.STORE:
                self.hold(held=bool(number % 2))
            case What.RECONNECT:
                self.core.lost()
                self.core = self.connect()
            case _:
                pass

    def deliver(self, wire: bytes) -> None:
        view = memoryview(wire)
        while view and not self.core.closing:
            if not self.core.reading:
                self.write()
                self.core.handle_timeout(self.now)
                if not self.core.reading:
                    return
            place = self.core.buffer()
            size = min(len(place), self.piece, len(view))
            assert 0 < size <= 2**18 + 64
            place[:size] = view[:size]
            self.core.received(size, self.now)
            view = view[size:]

    def write(self) -> None:
        """Take all output away."""
        size = 0
        for _ in range(MAX_TURNS):
            parts = self.core.data_to_send(self.now)
            if not parts:
                break
            written = b"".join(parts)
            size += len(written)
            self.output += written
        else:
            raise AssertionError("there is no end of the output")
        assert size <= MAX_OUTPUT

    def rest(self) -> None:
        for _ in range(MAX_TURNS):
            self.write()
            if self.core.next_timeout() > self.now:
                return
            self.core.handle_timeout(self.now)
        raise AssertionError("a timer is due for ever")


class _ServerPlayer(_Player):
    def connect(self) -> Connection:
        if not hasattr(self, "server"):
            self.server = FuzzServer()
        return self.server.connection(lambda: None, self.now)

    def hold(self, *, held: bool) -> None:
        self.server.hold_stores = held
        self.server.hold_opens = held
        if not held:
            self.server.release_opens()
            self.server.settle()

    def outcome(self) -> Outcome:
        server = self.server
        assert 0 <= server.budget.used <= BUDGET
        uploads = {
            key: (sorted(each.chunks.items()), each.outcome)
            for key, each in server.uploads.items()
        }
        notices = [type(notice).__name__ for notice in server.notices]
        return [server.published, uploads, server.stats.errors_sent, notices]


class _ClientPlayer(_Player):
    def connect(self) -> Connection:
        first = not hasattr(self, "client")
        if first:
            self.client = FuzzClient()
        core = ClientConnection(
            self.client.session,
            limits=SMALL,
            scratch=scratch_buffer(),
            notify=self.client.handle,
            on_output=lambda: None,
            now=self.now,
            stats=self.client.stats,
        )
        self.client.connection = core
        core.start(agent="fuzz", scheme="", credential=b"")
        if first:
            self.client.begin()
        return core

    def hold(self, *, held: bool) -> None:
        self.client.hold_stores = held
        if not held:
            self.client.release_stores()

    def outcome(self) -> Outcome:
        client = self.client
        assert 0 <= client.budget.used <= BUDGET
        notices = [type(notice).__name__ for notice in client.notices]
        return [
            client.events,
            client.fetched,
            client.outcomes,
            client.refusals,
            client.broken,
            client.stats.errors_sent,
            notices,
        ]


def _compared(player: type[_Player]) -> Callable[[bytes], None]:
    def target(script: bytes) -> None:
        first = player(PIECES[0]).play(script)
        for piece in PIECES[1:]:
            again = player(piece).play(script)
            assert again == first, f"pieces of {piece}: {again} is not {first}"

    return target


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder,
    "server": _compared(_ServerPlayer),
    "client": _compared(_ClientPlayer),
}
