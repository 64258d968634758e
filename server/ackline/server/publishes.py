"""Publishing: events from a client into a durable log (SPEC.md §9, §11, §13)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from ackline.proto.batches import Batch
from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.messages import (
    Durability,
    OutcomeKind,
    PublishDetail,
    PublishOpened,
    open_detail,
)
from ackline.proto.notices import BatchReceived, EndReceived
from ackline.proto.proofs import NOTHING
from ackline.server import outcomes
from ackline.server.handler import Answer, Handler
from ackline.server.refusals import RETRY_SECONDS, Refusal, code_of
from ackline.server.stores.entities import Append, PublisherState
from ackline.server.stores.errors import (
    Corrupt,
    Fenced,
    NotFound,
    Sealed,
    StorageFull,
    StoreError,
    StoreFailed,
    Unsupported,
)

if TYPE_CHECKING:
    from ackline.proto.messages import ResumeStream
    from ackline.proto.notices import Notice
    from ackline.proto.proofs import ProofSum
    from ackline.proto.stream import Stream
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import StreamRecord, Ticket
    from ackline.server.stores.seams import Log

__all__ = ["PublishHandler"]

log = logging.getLogger(__name__)


class _InFlight(NamedTuple):
    """A batch that was appended and is not durable yet."""

    ticket: Ticket
    next_unit: int
    size: int
    begun: float


class PublishHandler(Handler):
    """Appends what comes to a log, several batches at a time, in order.

    Attributes:
        trouble: why the disk takes nothing at the moment, or None.
    """

    kinds = frozenset({"logs"})

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        detail = open_detail(stream.open)
        assert isinstance(detail, PublishDetail)
        self.detail = detail
        self.publisher = ""
        self._log: Log | None = None
        self._epoch = 0
        self._state: PublisherState | None = None
        self._sums: ProofSum | None = None
        # Byte for byte from the publisher's numbers of kinds to the log's.
        self._table: bytes | None = None
        self.trouble: StoreError | None = None
        self._in_flight: deque[_InFlight] = deque()
        self._recovering = False

    @property
    def receiver(self) -> EventReceiver:
        """The receiving half."""
        assert isinstance(self.half, EventReceiver)
        return self.half

    @property
    def position(self) -> int:
        """Units stored, the END not counted."""
        receiver = self.receiver
        if receiver.end_number is not None:
            return min(receiver.stored, receiver.end_number)
        return receiver.stored

    @property
    def storing(self) -> bool:
        """Whether batches wait for the disk."""
        return bool(self._in_flight)

    @property
    def storing_since(self) -> float | None:
        """Since when the oldest of them does, by `time.perf_counter()`."""
        return self._in_flight[0].begun if self._in_flight else None

    # Opening

    async def prepare(self) -> None:
        """Open the log, which this may create, and take over the publisher.

        Raises:
            Refusal: the log is sealed.
            StoreError: it cannot be opened.
        """
        key = self.stream.open.key
        # Without a name of its own a publisher is known to its session only.
        named = (
            f"{self.session.identity}\x1f{key}" if key else f"~{secrets.token_hex(16)}"
        )
        await self._take_over(await self._open(create=True), named)

    def answer(self) -> Answer:
        """Take up the publisher's numbering, and what came early."""
        state = self._restore()
        self.receiver.grow()
        assert self._log is not None
        return Answer(
            existing=state.position > 0,
            durability=Durability.SYNCED,
            detail=PublishOpened(log_position=self._log.next_id),
            standing=self.receiver.standing(),
        )

    async def rebuild(self, record: StreamRecord) -> None:
        """Take over the publisher again.

        Raises:
            Refusal: the log was deleted, or sealed.
            StoreError: the log cannot be opened.
        """
        log_id, _, publisher = record.target.partition(" ")
        self.stream.receiver = EventReceiver(
            self.stream,
            budget=self.service.budget,
            durability=Durability.SYNCED,
            kinds=self.detail.kinds,
        )
        source = await self._open(create=False)
        if source.record.log_id != log_id:
            raise Refusal(Code.GENERATION_CHANGED, "the log was deleted and made again")
        if f"publishers/{log_id}/{publisher}" in self.service.owners:
            raise Refusal(Code.MOVED, "it was opened again with the same key")
        await self._take_over(source, publisher)
        self._restore()

    async def settle(self, wanted: ResumeStream) -> None:
        """Return when nothing is on its way to the log."""
        await self.settled()

    # The stream

    def noticed(self, notice: Notice) -> None:
        """Append what came."""
        match notice:
            case BatchReceived():
                self._append_all()
            case EndReceived():
                self._maybe_end()
            case _:
                pass

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """End the stream; what was stored stays in the log."""
        self._ending = True
        self.receiver.drop()
        await self.settled()
        self.decide(outcomes.ended(kind, code, text, self.position))

    def close(self) -> None:
        """Give up the publisher; it stays in the log, to be continued by its key."""
        if self._log is None:
            return
        self._log.unwatch(self._changed)
        if self.service.owners.get(self._owned) is self:
            del self.service.owners[self._owned]

    # Private

    @property
    def _owned(self) -> str:
        assert self._log is not None
        return f"publishers/{self._log.record.log_id}/{self.publisher}"

    async def _open(self, *, create: bool) -> Log:
        source = await self.service.logs.open(self.resource.name, create=create)
        if source.record.sealed is not None:
            raise Refusal(Code.SEALED, f"log {self.resource.name!r} takes no more")
        return source

    async def _take_over(self, source: Log, publisher: str) -> None:
        self._log, self.publisher = source, publisher
        self.target = f"{source.record.log_id} {publisher}"
        async with self.service.lock(self._owned):
            old = self.service.owners.get(self._owned)
            self.service.owners[self._owned] = self
            if isinstance(old, PublishHandler):
                old.moved()
                await old.settled()
            self._epoch = await source.takeover(publisher)
            await self._map_kinds(source)
        source.watch(self._changed)
        stream = self.stream
        stream.resource = f"logs/{self.resource.name}"
        stream.generation, stream.epoch = source.record.generation, self._epoch

    async def _map_kinds(self, source: Log) -> None:
        names = self.detail.kinds
        if not names:
            return
        numbers = await source.add_kinds(names)
        if numbers != list(range(1, len(names) + 1)):
            table = bytearray(range(256))
            table[1 : len(names) + 1] = bytes(numbers)
            self._table = bytes(table)

    def _restore(self) -> PublisherState:
        assert self._log is not None
        state = self._log.publisher(self.publisher)
        assert state is not None
        self._sums = state.sums
        self.receiver.restore(
            state.position, sums=state.sums, log_position=state.log_position
        )
        return state

    async def settled(self) -> None:
        """Return when nothing is on its way to the log."""
        while self._in_flight:
            await asyncio.wait([each.ticket.done for each in self._in_flight])
            await asyncio.sleep(0)

    def _append_all(self) -> None:
        receiver = self.receiver
        while not self._recovering and not self._ending:
            batch = receiver.take()
            if batch is None:
                return
            try:
                self._append(batch)
            except (StorageFull, StoreFailed) as error:
                receiver.consumed_to(receiver.consumed, len(batch.payload))
                self._recover_soon(error)
            except Fenced:
                self.moved()
                return
            except (Sealed, NotFound, Unsupported) as error:
                self._fail(error)
                return

    def _append(self, batch: Batch) -> None:
        """Append a batch in the log's numbers of kinds."""
        source = self._log
        assert source is not None
        assert self._sums is not None
        entries, bodies = batch.proof_parts()
        payload, crc, log_entries = batch.payload, batch.crc, entries
        if self._table is not None:
            renumbered = bytearray(payload)
            end = 4 + 4 * batch.entries
            renumbered[4:end:4] = renumbered[4:end:4].translate(self._table)
            payload = bytes(renumbered)
            crc = crc32c(payload)
            numbers = batch.first_id, batch.count, batch.entries
            log_entries, _ = Batch(*numbers, payload, crc, batch.special).proof_parts()
        sums = self._sums.extended(entries, bodies)
        ticket = source.append(
            Append(
                publisher=self.publisher,
                epoch=self._epoch,
                first_unit=batch.first_id,
                count=batch.count,
                payload=payload,
                payload_crc=crc,
                publisher_sums=sums,
                log_sums=source.sums.extended(log_entries, bodies),
            )
        )
        self._sums = sums
        self._in_flight.append(
            _InFlight(ticket, batch.next_id, len(batch.payload), perf_counter())
        )
        ticket.done.add_done_callback(self._stored)

    def _stored(self, _done: asyncio.Future[None]) -> None:
        """Acknowledge what is durable, from the oldest batch on."""
        last: _InFlight | None = None
        size, failure = 0, None
        while self._in_flight and self._in_flight[0].ticket.done.done():
            each = self._in_flight.popleft()
            failure = each.ticket.done.exception()
            size += each.size
            if failure is not None:
                break
            last = each
        if last is not None:
            self.trouble = None
            self.service.counters.ack_latency[self.stream.use].observe(
                perf_counter() - last.begun, self.trace_id
            )
            self.receiver.consumed_to(last.next_unit, size)
            self.receiver.stored_to(last.next_unit, log_position=last.ticket.next_id)
            self._maybe_end()
        elif size:
            self.receiver.consumed_to(self.receiver.consumed, size)
        if isinstance(failure, StoreError):
            self._recover_soon(failure)

    def _maybe_end(self) -> None:
        receiver = self.receiver
        end = receiver.end
        if end is None or not receiver.complete or self.stream.outcome is not None:
            return
        position = self.position
        receiver.end_stored()
        self.decide(outcomes.ended(end.intent, end.code, end.text, position))

    def _recover_soon(self, error: StoreError) -> None:
        if not self._recovering:
            self._recovering = True
            self.spawn(self._recover(error), "recover")

    async def _recover(self, error: StoreError) -> None:
        """Find out what the log has, and have the rest sent again."""
        log.error("%s: %s", self.label, error)
        self._tell(error)
        await self.settled()
        source = await self._reopened()
        if source is None:
            return
        state = self._state_in(source)
        if self._lost(state.position):
            return
        receiver = self.receiver
        self._sums = state.sums
        # More than was acknowledged, if a write is there whose sync failed.
        receiver.stored_to(state.position, log_position=state.log_position)
        receiver.refused(state.position, code=code_of(error), retry_after=RETRY_SECONDS)
        self._recovering = False

    def _state_in(self, source: Log) -> PublisherState:
        """Return how far the log says that the publisher got."""
        state = source.publisher(self.publisher)
        return state or PublisherState(self._epoch, 0, NOTHING, 0)

    def _lost(self, stored: int) -> bool:
        """Fail if the log has fewer units than were acknowledged; return whether."""
        acknowledged = self.position
        if stored >= acknowledged or self._ending:
            return self._ending
        self._ending = True
        self.service.counters.position_lost += 1
        self.fail_soon(
            Code.POSITION_LOST,
            f"the {acknowledged} units before were acknowledged, the log has {stored}",
        )
        return True

    async def _reopened(self) -> Log | None:
        """Open the log again, however long its disk fails."""
        while self.stream.outcome is None and not self.released:
            try:
                return await self.service.logs.open(self.resource.name, create=False)
            except (NotFound, Corrupt) as error:
                self._fail(error)
                return None
            except StoreError as again:
                log.error("%s: %s", self.label, again)
                self._tell(again)
                await asyncio.sleep(RETRY_SECONDS)
        return None

    def _tell(self, error: StoreError) -> None:
        """Have the client send nothing new for a while, and know why."""
        self.trouble = error
        receiver = self.receiver
        receiver.retry_after, receiver.retry_code = RETRY_SECONDS, code_of(error)
        self.stream.ack_due()

    def _changed(self) -> None:
        """See whether the log was deleted or sealed, or lost what was acknowledged."""
        source = self._log
        if source is None or self._ending or self.receiver.complete:
            return
        if source.deleted:
            self._fail(NotFound("log", self.resource.name))
        elif source.record.sealed is not None:
            self._fail(Sealed(self.resource.name, source.record.sealed))
        elif source.recovery.lost_events and not self._in_flight:
            self._lost(self._state_in(source).position)

    def _fail(self, error: StoreError) -> None:
        if not self._ending:
            self._ending = True
            self.fail_soon(code_of(error), str(error))
