"""A client for tests: the core on a socket, and nothing kind on top of it.

It keeps every notice, answers what a client must answer at once (stored events, stored
chunks), and lets the test do the rest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

from ackline.aio import Pump, PumpProtocol, shared_scratch
from ackline.proto.batches import Gap
from ackline.proto.buffers import BufferPool
from ackline.proto.checksums import crc32c
from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.chunk_sender import ChunkSender
from ackline.proto.client_connection import ClientConnection
from ackline.proto.client_session import ClientSession
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.kinds import KindTable
from ackline.proto.messages import (
    Durability,
    End,
    FetchDetail,
    Intent,
    Limits,
    Open,
    PublishDetail,
    Scope,
    Start,
    SubscribeDetail,
    UploadDetail,
    Use,
    raw,
)
from ackline.proto.notices import (
    BatchReceived,
    ChunkParked,
    ChunkReceived,
    ChunkWanted,
    ConnectionFailed,
    EndReceived,
    OutcomeReceived,
    ReplyReceived,
    SessionResumed,
    StoredMoved,
    StreamBroken,
    StreamError,
    StreamOpened,
    StreamRefused,
    Welcomed,
)
from ackline.proto.stats import Stats
from ackline.proto.stream import Stream
from ackline.proto.windows import Budget

if TYPE_CHECKING:
    from msgspec import Struct

    from ackline.proto.frames import FrameType
    from ackline.proto.messages import Outcome
    from ackline.proto.notices import Notice

__all__ = ["LIMITS", "PATIENCE", "Peer", "Work"]

LIMITS = Limits(
    max_payload=262_144,
    max_chunk_size=16 * 2**20,
    max_streams=0,
    window_units=65_536,
    window_bytes=32 * 2**20,
    initial_units=0,
    initial_bytes=0,
    heartbeat=10.0,
)

PATIENCE = 50.0
"""Seconds after which a test that waits has failed."""

N = TypeVar("N")


class Work:
    """One stream of the peer, and what came of it."""

    def __init__(self, peer: Peer, message: Open) -> None:
        self.peer = peer
        self.stream: Stream = peer.session.new_stream(message, notify=self.notify)
        self.notices: list[Notice] = []
        self.data = b""
        self.received: list[tuple[int, str, bytes]] = []
        self.gaps: list[tuple[int, int]] = []
        self.chunks: dict[int, bytes] = {}
        self.take = True
        self.store = True
        self.changed = asyncio.Event()

    @property
    def outcome(self) -> Outcome | None:
        return self.stream.outcome

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)
        match notice:
            case ChunkWanted() | StoredMoved() if isinstance(
                self.stream.sender, ChunkSender
            ):
                self.supply()
            case BatchReceived() if self.take:
                self.take_all()
            case ChunkReceived() if self.take:
                self.keep(notice)
            case ChunkParked():
                receiver = self.stream.receiver
                assert isinstance(receiver, ChunkReceiver)
                receiver.chunk_parked(notice, kept=False)
            case EndReceived():
                self.maybe_end()
            case _:
                pass
        self.changed.set()

    def supply(self) -> None:
        sender = self.stream.sender
        assert isinstance(sender, ChunkSender)
        for first, end in sender.unknown():
            for index in range(first, end):
                part = self.part(index)
                sender.known(index, crc32c(part), len(part))
        while (wanted := sender.wanted()) is not None:
            sender.supply(wanted, memoryview(self.part(wanted)))

    def part(self, index: int) -> bytes:
        sender = self.stream.sender
        assert isinstance(sender, ChunkSender)
        return self.data[index * sender.chunk_size : (index + 1) * sender.chunk_size]

    def go_on(self) -> None:
        """Take what was left lying, and everything from now on."""
        self.take = True
        if isinstance(self.stream.receiver, EventReceiver):
            self.take_all()
        for notice in list(self.notices):
            if isinstance(notice, ChunkReceived) and notice.index not in self.chunks:
                self.keep(notice)

    def keep(self, notice: ChunkReceived) -> None:
        receiver = self.stream.receiver
        assert isinstance(receiver, ChunkReceiver)
        held = self.chunks.get(notice.index, b"")[: notice.offset]
        self.chunks[notice.index] = held + bytes(notice.data)
        receiver.chunk_stored(notice)
        self.maybe_end()

    def take_all(self) -> None:
        receiver = self.stream.receiver
        assert isinstance(receiver, EventReceiver)
        while (batch := receiver.take()) is not None:
            for event in batch.events(receiver.kinds):
                if isinstance(event, Gap):
                    self.gaps.append((event.id, event.count))
                else:
                    self.received.append((event.id, event.kind, event.data))
            receiver.consumed_to(batch.next_id, len(batch.payload))
            if self.store:
                receiver.stored_to(batch.next_id)
        self.maybe_end()

    def maybe_end(self) -> None:
        receiver = self.stream.receiver
        assert isinstance(receiver, ChunkReceiver | EventReceiver)
        if receiver.complete:
            receiver.end_stored()

    async def until(self, kind: type[N]) -> N:
        """Return the first notice of a kind, waiting for it if need be."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for notice in self.notices:
                    if isinstance(notice, kind):
                        return notice
                self.changed.clear()
                await self.changed.wait()

    async def opened(self) -> StreamOpened:
        return await self.until(StreamOpened)

    async def refused(self) -> StreamRefused:
        return await self.until(StreamRefused)

    async def ended(self) -> Outcome:
        return (await self.until(OutcomeReceived)).outcome

    async def broken(self) -> StreamBroken:
        return await self.until(StreamBroken)

    async def error(self) -> StreamError:
        return await self.until(StreamError)

    async def events(self, count: int) -> list[tuple[int, str, bytes]]:
        """Return what was received once there is that much."""
        async with asyncio.timeout(PATIENCE):
            while len(self.received) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.received

    async def stored(self, position: int) -> None:
        """Wait until the server keeps everything before a position."""
        sender = self.stream.sender
        assert sender is not None
        async with asyncio.timeout(PATIENCE):
            while sender.stored < position:
                self.changed.clear()
                await self.changed.wait()

    def cancel(self, *, work: bool = False) -> None:
        self.peer.core.cancel(self.stream, scope=Scope.WORK if work else Scope.STREAM)

    def release(self) -> None:
        self.peer.core.release(self.stream)


class Peer:
    """A client with a session, on one connection after the other."""

    def __init__(self, port: int, *, limits: Limits = LIMITS) -> None:
        self.port = port
        self.limits = limits
        self.session = ClientSession()
        self.notices: list[Notice] = []
        self.pool = BufferPool()
        self.budget = Budget(256 * 2**20)
        self.changed = asyncio.Event()
        self.core: ClientConnection
        self.pump: Pump
        self._requests = 0
        self._hello: tuple[str, bytes] = ("", b"")

    async def connect(
        self, *, scheme: str = "", credential: bytes = b"", wait: bool = True
    ) -> Peer:
        """Connect, and resume if there is a session."""
        self.notices.clear()
        self._hello = scheme, credential
        loop = asyncio.get_running_loop()
        resume = self.session.session is not None
        self.pump = Pump(self)
        await loop.create_connection(
            lambda: PumpProtocol(self.pump), "127.0.0.1", self.port
        )
        if wait:
            await self.until(SessionResumed if resume else Welcomed)
        return self

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    async def drop(self) -> None:
        """Lose the connection."""
        self.pump.abort()
        await self.pump.closed

    # The pump

    def pump_made(self, pump: Pump) -> ClientConnection:
        loop = asyncio.get_running_loop()
        self.core = ClientConnection(
            session=self.session,
            limits=self.limits,
            scratch=shared_scratch(loop),
            notify=self.notify,
            on_output=pump.on_output,
            now=loop.time(),
            stats=Stats(),
        )
        scheme, credential = self._hello
        self.core.start(agent="peer", scheme=scheme, credential=credential)
        return self.core

    def pump_lost(self, pump: Pump, error: Exception | None) -> None:
        self.changed.set()

    def notify(self, notice: Notice) -> None:
        stream = getattr(notice, "stream", None)
        if isinstance(stream, Stream):
            stream.notify(notice)
            return
        self.notices.append(notice)
        self.changed.set()

    async def until(self, kind: type[N]) -> N:
        async with asyncio.timeout(PATIENCE):
            while True:
                for notice in self.notices:
                    if isinstance(notice, kind):
                        return notice
                self.changed.clear()
                await self.changed.wait()

    async def failed(self) -> ConnectionFailed:
        return await self.until(ConnectionFailed)

    async def request(self, kind: FrameType, message: Struct) -> Struct:
        """Send a request and return its answer."""
        self._requests += 1
        number = self._requests
        self.core.request(kind, number, message)
        async with asyncio.timeout(PATIENCE):
            while True:
                for notice in self.notices:
                    if (
                        isinstance(notice, ReplyReceived)
                        and notice.request_id == number
                    ):
                        return notice.message
                self.changed.clear()
                await self.changed.wait()

    # Streams

    def upload(
        self,
        name: str,
        data: bytes,
        *,
        chunk_size: int = 65_536,
        size: int | None = -1,
        key: str = "",
        end: bool = True,
        parameters: dict[str, object] | None = None,
        deadline: float = 0.0,
        trace: str = "",
        **detail: object,
    ) -> Work:
        work = Work(
            self,
            Open(
                Use.UPLOAD,
                f"objects/{name}",
                key,
                0,
                0,
                raw(
                    UploadDetail(
                        chunk_size,
                        len(data) if size == -1 else size,
                        **detail,  # type: ignore[arg-type]
                    )
                ),
                parameters or {},  # type: ignore[arg-type]
                deadline=deadline,
                trace=trace,
            ),
        )
        work.data = data
        sender = ChunkSender(
            work.stream,
            chunk_size=chunk_size,
            size=len(data),
            priority=4,
        )
        work.stream.sender = sender
        if end:
            sender.finish(
                End(Intent.COMPLETED, 0, "", size=len(data), crc=crc32c(data))
            )
        self.core.open(work.stream)
        return work

    def fetch(
        self,
        name: str,
        *,
        chunk_size: int = 65_536,
        take: bool = True,
        have: dict[int, tuple[int, int]] | None = None,
        deadline: float = 0.0,
        **detail: object,
    ) -> Work:
        """Fetch; `have` are length and CRC of chunks that are here already."""
        work = Work(
            self,
            Open(
                Use.FETCH,
                f"objects/{name}",
                "",
                4,
                4 * chunk_size,
                raw(FetchDetail(chunk_size, **detail)),  # type: ignore[arg-type]
                deadline=deadline,
            ),
        )
        work.take = take
        receiver = ChunkReceiver(
            work.stream,
            pool=self.pool,
            budget=self.budget,
            chunk_size=chunk_size,
            size=None,
            durability=Durability.MEMORY,
        )
        receiver.restore(have or {})
        work.stream.receiver = receiver
        self.core.open(work.stream)
        return work

    def publish(
        self,
        name: str,
        bodies: list[bytes],
        *,
        key: str = "",
        kinds: tuple[str, ...] = (),
        end: bool = True,
        start: int = 0,
        deadline: float = 0.0,
    ) -> Work:
        """Publish; body number n is of kind n modulo the number of kinds."""
        work = Work(
            self,
            Open(
                Use.PUBLISH,
                f"logs/{name}",
                key,
                0,
                0,
                raw(PublishDetail(kinds)),
                deadline=deadline,
            ),
        )
        buffer = EventBuffer(
            generation=0,
            max_events=10**6,
            max_bytes=10**9,
            start=start,
            kinds=KindTable(kinds),
        )
        for number, body in enumerate(bodies):
            buffer.append(body, number % (len(kinds) + 1))
        work.stream.sender = sender = EventSender(
            work.stream, buffer, position=start, priority=2
        )
        if end:
            sender.finish(End(Intent.COMPLETED, 0, "", size=len(bodies)))
        self.core.open(work.stream)
        return work

    def subscribe(
        self,
        resource: str,
        start: Start = Start.FIRST,
        value: int = 0,
        *,
        key: str = "",
        parameters: dict[str, object] | None = None,
        take: bool = True,
        window: int = 2**20,
        units: int | None = None,
        deadline: float = 0.0,
        **detail: object,
    ) -> Work:
        work = Work(
            self,
            Open(
                Use.SUBSCRIBE,
                resource,
                key,
                window // 16,
                window,
                raw(SubscribeDetail(start, value, **detail)),  # type: ignore[arg-type]
                parameters or {},  # type: ignore[arg-type]
                deadline=deadline,
            ),
        )
        work.take = take
        receiver = EventReceiver(
            work.stream,
            budget=self.budget,
            durability=Durability.MEMORY,
            definitions=True,
            max_window=window,
            max_units=units,
            lazy=True,
        )
        receiver.grant.restart(units or window // 16, window)
        work.stream.receiver = receiver
        self.core.open(work.stream)
        return work
