"""Uploads: chunks from a client into an object (SPEC.md §9, §10, §14)."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ackline.proto.chunk_receiver import ChunkReceiver
from ackline.proto.errors import Code
from ackline.proto.messages import (
    Durability,
    Intent,
    OutcomeKind,
    UploadDetail,
    UploadOpened,
    open_detail,
)
from ackline.proto.notices import ChunkParked, ChunkReceived, EndReceived
from ackline.server import outcomes
from ackline.server.commits import commit_upload, put_upload
from ackline.server.handler import Answer, Handler
from ackline.server.quotas import stored_bytes
from ackline.server.refusals import RETRY_SECONDS, Refusal
from ackline.server.stores.errors import (
    ChecksumConflict,
    Ended,
    Fenced,
    StorageFull,
    StoreError,
    StoreFailed,
)
from ackline.server.upload_parameters import check_upload, upload_parameters

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractAsyncContextManager

    from ackline.proto.messages import Outcome, ResumeStream
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream
    from ackline.server.quotas import Claim
    from ackline.server.service import Service
    from ackline.server.sessions import Session
    from ackline.server.stores.entities import (
        StreamRecord,
        UploadParameters,
        UploadRecord,
    )
    from ackline.server.stores.seams import Upload

__all__ = ["UploadHandler"]

log = logging.getLogger(__name__)


class UploadHandler(Handler):
    """Stores chunks as they come, and commits them as one object at END.

    Attributes:
        upload: the store's side, once prepared.
        made: in its place, what came whole and is committed.
        epoch: what this stream is admitted with there.
        trouble: why the disk takes nothing at the moment, or None.
    """

    kinds = frozenset({"objects"})

    def __init__(self, service: Service, session: Session, stream: Stream) -> None:
        super().__init__(service, session, stream)
        detail = open_detail(stream.open)
        assert isinstance(detail, UploadDetail)
        self.detail = detail
        self.upload: Upload | None = None
        self.made: UploadRecord | None = None
        self._begun = 0.0
        self._existing = False
        self._claim: Claim | None = None
        self.epoch = 0
        self._held: tuple[int, int, int] | None = None
        self.trouble: StoreError | None = None
        # Since when, by `time.perf_counter()`.
        self._storing: dict[asyncio.Task[None], float] = {}
        self._finishing = False
        self._committing: asyncio.Task[None] | None = None

    @property
    def receiver(self) -> ChunkReceiver:
        """The receiving half."""
        assert isinstance(self.half, ChunkReceiver)
        return self.half

    @property
    def name(self) -> str:
        """The object to be."""
        return str(self.resource)

    @property
    def total(self) -> int | None:
        """Chunks there will be, if the size is known."""
        detail = self.detail
        return None if detail.size is None else -(-detail.size // detail.chunk_size)

    @property
    def position(self) -> int:
        """Chunks accepted without a hole."""
        return self.receiver.stored

    @property
    def lasting(self) -> bool:
        """Uploads are on the disk."""
        return True

    @property
    def committing(self) -> bool:
        """Whether everything is there and being verified."""
        return self._finishing

    @property
    def storing(self) -> bool:
        """Whether chunks wait for the disk."""
        return bool(self._storing)

    @property
    def storing_since(self) -> float | None:
        """Since when the oldest of them does, by `time.perf_counter()`."""
        return min(self._storing.values(), default=None)

    # Opening

    async def prepare(self) -> None:
        """Make the upload, or find the one of this key.

        Raises:
            Refusal: the parameters are not possible or differ from those of the key.
            StoreError: the store refuses or fails.
        """
        check_upload(self.detail, self.service.options)
        of = upload_parameters(
            self.stream.open,
            self.detail,
            identity=self.session.identity,
            name=self.resource.name,
            durability=self.service.durability,
        )
        async with self._key_lock(of):
            while not await self._make_or_find(of):
                pass  # it ended while this waited for it: look again

    def answer(self) -> Answer:
        """Hand over what came early, and grant the first window."""
        receiver = self.receiver
        if self.recorded is not None:
            standing = self.end_as_recorded(self.recorded)
        else:
            self._restore()
            receiver.grow()
            standing = receiver.standing()
        return Answer(
            existing=self._existing,
            durability=receiver.durability,
            detail=UploadOpened(chunk_size=self.detail.chunk_size),
            standing=standing,
        )

    async def rebuild(self, record: StreamRecord) -> None:
        """Load the upload again.

        Raises:
            Refusal: it is gone.
            StoreError: it cannot be loaded.
        """
        upload_id = record.target
        self.stream.receiver = ChunkReceiver(
            self.stream,
            pool=self.service.pool,
            budget=self.service.budget,
            chunk_size=self.detail.chunk_size,
            size=self.detail.size,
            durability=Durability.SYNCED,
            max_chunks=self.service.options.max_upload_chunks,
        )
        known = await self.service.chunks.upload(upload_id)
        if known is None:
            raise Refusal(Code.NOT_FOUND, f"uploads/{upload_id} is gone")
        self._identify(known)
        if known.outcome is not None:
            self.end_as_recorded(outcomes.load(known.outcome))
            return
        try:
            async with self._key_lock(known.parameters):
                if f"uploads/{upload_id}" in self.service.owners:
                    raise Refusal(Code.MOVED, "it was opened again with the same key")
                self.upload = await self.service.chunks.load(upload_id)
                self._tell_lost()
                self.epoch = await self.upload.takeover()
                await self._claim_stored()
                self._own()
        except Ended as error:
            self.end_as_recorded(outcomes.load(error.outcome))
            return
        self._restore()

    async def settle(self, wanted: ResumeStream) -> None:
        """Return when no chunk is on its way to the disk."""
        await self.settle_all()

    # The stream

    def noticed(self, notice: Notice) -> None:
        """Store what came."""
        match notice:
            case ChunkReceived() if not self._has_room(notice):
                self._store_soon(self._store_if_room(notice), "store")
            case ChunkReceived():
                begun = self._begun if self.made else time.perf_counter()
                if not self._store_now(notice, begun):
                    self._store_soon(self._store(notice, begun), "store")
            case ChunkParked():
                self._store_soon(self._park(notice), "park")
            case EndReceived(end=end):
                if end.intent == Intent.COMPLETED:
                    self._maybe_commit()
                else:
                    kind = OutcomeKind(int(end.intent))
                    self.spawn(self.end(kind, end.code, end.text, work=True), "end")
            case _:
                pass

    async def end(self, kind: OutcomeKind, code: int, text: str, *, work: bool) -> None:
        """Abandon the upload and delete what was stored."""
        upload = self.upload
        if upload is None or self.stream.outcome is not None:
            return
        self._ending = True
        await self.settle_all()
        outcome = outcomes.ended(kind, code, text, self.position)
        while True:
            try:
                standing = await upload.abort(outcomes.record(outcome))
                break
            except (StorageFull, StoreFailed) as error:
                log.warning("%s: the end is not recorded yet: %s", self.label, error)
                await asyncio.sleep(RETRY_SECONDS)
        self.decide(outcomes.load(standing))

    async def settle_all(self) -> None:
        """Return when no chunk is on its way to the disk."""
        while self._storing:
            await asyncio.wait(list(self._storing))

    def expired(self, outcome: Outcome) -> None:
        """Take note that the store gave the upload up."""
        self.decide(outcome)

    def close(self) -> None:
        """Give up the upload; it stays in the store, to be continued by its key."""
        self._settle_claim()
        upload = self.upload
        if upload is None:
            return
        self.receiver.write = None  # a cycle
        key = f"uploads/{upload.record.upload_id}"
        if self.service.owners.get(key) is self:
            del self.service.owners[key]
            if self.stream.outcome is None:
                self.spawn(self._let_go(upload.record.upload_id), "release")

    async def _let_go(self, upload_id: str) -> None:
        await self.settle_all()
        if self._committing is not None:
            await asyncio.wait([self._committing])
            if self.stream.outcome is not None:
                return
        if self.abandoned and not self.stream.open.key:
            # Without a key nobody can find it again: its data would only lie there.
            outcome = outcomes.ended(
                OutcomeKind.CANCELLED,
                Code.CANCELLED_BY_CLIENT,
                "it was released and has no key to be continued by",
                self.position,
            )
            await self.service.chunks.abort(upload_id, outcomes.record(outcome))
            return
        if f"uploads/{upload_id}" not in self.service.owners:
            await self.service.chunks.release(upload_id)

    # Private

    def _key_lock(self, of: UploadParameters) -> AbstractAsyncContextManager[object]:
        if not of.key:
            return nullcontext()
        return self.service.lock(f"upload {of.identity} {of.name} {of.key}")

    async def _make_or_find(self, of: UploadParameters) -> bool:
        """Take up the upload of the key; return False if it just ended."""
        found = None
        if of.key:
            found = await self.service.chunks.find(of.identity, of.name, of.key)
        if found is not None and self._ended_before(found, of):
            return True
        if found is not None and found.outcome is None:
            try:
                await self._continue(found)
            except Ended:
                return False
            await self._claim_stored()
        else:
            self._existing = False
            await self._make(of)
            if self.made is not None:
                self._identify(self.made)
                return True
        self._own()
        return True

    async def _make(self, of: UploadParameters) -> None:
        """Make the upload, and commit it at once if it came whole."""
        size, upload_id = of.total_size, ""
        stored = stored_bytes(self.service, self.session.known)
        if stored is not None:
            self._claim = await stored.claim(size, self._quota)
            upload_id = self._claim.upload_id
        self._begun = time.perf_counter()
        try:
            if await put_upload(self, of, upload_id):
                return
            self.upload = await self.service.chunks.create(of, upload_id)
            self.epoch = self.upload.record.epoch
        finally:
            if size is not None:  # it is recorded
                self._settle_claim()

    @property
    def _quota(self) -> float:
        return self.session.known.quotas.stored_bytes

    def has_room_for(self, size: int) -> bool:
        """Claim so many bytes in all; return False if the quota has no room."""
        return self._claim is None or self._claim.grow(size, self._quota)

    def _has_room(self, notice: ChunkReceived) -> bool:
        return self.has_room_for(notice.index * self.detail.chunk_size + notice.length)

    async def _store_if_room(self, notice: ChunkReceived) -> None:
        """Store a chunk if something was deleted since the quota was counted."""
        begun = time.perf_counter()
        if self._claim is not None:
            try:
                await self._claim.of.count()
            except StoreError as error:
                await self._store_failed(notice, error)
                return
        if self._has_room(notice):
            await self._store(notice, begun)
        else:
            text = f"the quota of {self.session.identity} has no room for more"
            self.fail_soon(Code.QUOTA_EXCEEDED, text)

    async def _claim_stored(self) -> None:
        """Claim what an upload that goes on has stored, if nobody knows its size."""
        upload = self.upload
        assert upload is not None
        stored = stored_bytes(self.service, self.session.known)
        if stored is not None and self.detail.size is None:
            self._claim = await stored.claim_stored(
                upload.record.upload_id, upload.bytes_stored
            )

    def _settle_claim(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.settle()

    def _ended_before(self, found: UploadRecord, of: UploadParameters) -> bool:
        """Tell whether the key's upload has an outcome that stands; take it."""
        outcome = None if found.outcome is None else outcomes.load(found.outcome)
        if outcome is not None and outcomes.retryable(outcome):
            return False
        if found.parameters.parameters_hash != of.parameters_hash:
            raise Refusal(
                Code.KEY_CONFLICT,
                "the key belongs to an upload with other parameters (chunk_size, size,"
                " algorithm, digest, existing or metadata): use another key",
            )
        self._existing = True
        if outcome is None:
            return False
        self.recorded = outcome
        self._identify(found)
        return True

    async def _continue(self, found: UploadRecord) -> None:
        """Take the upload over from whoever has it."""
        name = f"uploads/{found.upload_id}"
        old = self.service.owners.get(name)
        self.service.owners[name] = self  # before the old one lets go of the file
        if isinstance(old, UploadHandler):
            old.moved()
            await old.settle_all()
            size, crc = old.receiver.held()
            if size and not self.detail.early:
                self._held = (old.receiver.stored, size, crc)
        try:
            upload = await self.service.chunks.load(found.upload_id)
            self.epoch = await upload.takeover()
        except BaseException:
            if self.service.owners.get(name) is self:
                del self.service.owners[name]
            raise
        self.upload = upload
        self._tell_lost()

    def _own(self) -> None:
        assert self.upload is not None
        record = self.upload.record
        self._identify(record)
        self.service.owners[f"uploads/{record.upload_id}"] = self

    def _identify(self, record: UploadRecord) -> None:
        stream = self.stream
        self.target = record.upload_id
        stream.resource = f"uploads/{record.upload_id}"
        stream.generation = record.generation
        stream.epoch = self.epoch or record.epoch
        self.receiver.durability = record.parameters.durability

    def _restore(self) -> None:
        upload, receiver = self.upload, self.receiver
        if upload is None:  # it came whole
            receiver.restore({})
            return
        if self._held is not None:
            receiver.restore_held(*self._held)
        known = {
            index: chunk
            for first, end in [(0, upload.position), *upload.ranges_beyond]
            for index in range(first, end)
            if (chunk := upload.chunk(index)) is not None
        }
        receiver.restore(known)
        if upload.in_memory:
            receiver.write = self._write_part

    def _tell_lost(self) -> None:
        assert self.upload is not None
        lost = self.upload.lost_chunks
        if lost:
            log.warning(
                "%s: %d chunks are recorded and not on the disk, from chunk %d on",
                self.label,
                len(lost),
                lost[0],
            )

    def _store_soon(self, coroutine: Coroutine[Any, Any, None], what: str) -> None:
        task = self.spawn(coroutine, what)
        self._storing[task] = time.perf_counter()
        task.add_done_callback(self._storing.pop)

    async def _store(self, notice: ChunkReceived, begun: float) -> None:
        upload, receiver = self.upload, self.receiver
        assert upload is not None
        try:
            await upload.store(
                notice.index,
                notice.data,
                notice.crc,
                epoch=self.epoch,
                length=notice.length,
                offset=notice.length - len(notice.data),
            )
        except ChecksumConflict:
            self.stream.conflict(notice.index)
        except Fenced:
            return  # another stream has the upload: dropped
        except Ended as error:
            if not self.released:
                self.decide(outcomes.load(error.outcome))
        except StorageFull as error:
            log.warning("%s: chunk %d: %s", self.label, notice.index, error)
            self.trouble = error
            receiver.chunk_refused(
                notice, code=Code.INSUFFICIENT_STORAGE, retry_after=RETRY_SECONDS
            )
        except StoreError as error:
            await self._store_failed(notice, error)
        else:
            self._stored(notice, begun)

    def _store_now(self, notice: ChunkReceived, begun: float) -> bool:
        """Store a chunk that is written, if nothing is to be waited for."""
        upload = self.upload
        if self.made is None and (
            notice.data
            or upload is None
            or not upload.store_now(
                notice.index, notice.crc, epoch=self.epoch, length=notice.length
            )
        ):
            return False
        self._stored(notice, begun)
        return True

    def _stored(self, notice: ChunkReceived, begun: float) -> None:
        self.trouble = None
        self.receiver.chunk_stored(notice)
        self.service.counters.ack_latency[self.stream.use].observe(
            time.perf_counter() - begun, self.trace_id
        )
        self._maybe_commit()

    def _write_part(self, index: int, offset: int, data: memoryview) -> bool:
        """Write a part of a chunk where no device is to be waited for."""
        upload = self.upload
        assert upload is not None
        try:
            upload.write_part(index, offset, data, epoch=self.epoch)
        except (Fenced, Ended):
            pass  # `store()` will hear of it too
        except StorageFull as error:
            self.trouble = error
            return self._give_up(index, error, Code.INSUFFICIENT_STORAGE)
        except (StoreError, ValueError) as error:
            self._store_soon(self._look_again(), "look again")
            return self._give_up(index, error, Code.STORAGE_FAILED)
        return True

    async def _look_again(self) -> None:
        await self.fail_if_lost()

    def _give_up(self, index: int, error: Exception, code: Code) -> bool:
        log.warning("%s: chunk %d: %s", self.label, index, error)
        self.receiver.give_up_open(code=code, retry_after=RETRY_SECONDS)
        return False

    async def _store_failed(self, notice: ChunkReceived, error: StoreError) -> None:
        """Find out what the disk still has before anything else is promised."""
        log.error("%s: chunk %d: %s", self.label, notice.index, error)
        self.trouble = error
        assert self.upload is not None
        receiver = self.receiver
        receiver.restore_held(-1, 0, 0)
        lost = await self.fail_if_lost()
        if not lost:
            receiver.chunk_refused(
                notice, code=Code.STORAGE_FAILED, retry_after=RETRY_SECONDS
            )

    async def fail_if_lost(self) -> bool:
        """Load the upload after a failure, and compare it with what was promised.

        Returns:
            Whether an acknowledged chunk is not there: then the upload is failed.
        """
        upload = self.upload
        assert upload is not None
        try:
            await self.service.chunks.load(upload.record.upload_id)
        except StoreError as error:
            log.error("%s: it cannot be loaded again: %s", self.label, error)
            return False
        lost = [each for each in self.receiver.chunks() if upload.chunk(each) is None]
        if not lost:
            return False
        self.service.counters.position_lost += 1
        # Not waited for: it waits for all chunks, and one of them may be asking.
        self.spawn(
            self.end(
                OutcomeKind.FAILED,
                Code.POSITION_LOST,
                f"chunk {min(lost)} was acknowledged and is not on the disk",
                work=True,
            ),
            "fail",
        )
        return True

    async def _park(self, notice: ChunkParked) -> None:
        upload = self.upload
        kept = False
        if upload is not None:
            try:
                await upload.park(
                    notice.index,
                    notice.offset,
                    notice.data[: notice.size],
                    epoch=self.epoch,
                )
                kept = True
            except (StoreError, ValueError) as error:
                log.debug("%s: a part is not kept: %s", self.label, error)
        self.receiver.chunk_parked(notice, kept=kept)

    def _maybe_commit(self) -> None:
        if (
            self.receiver.complete
            and not self._finishing
            and not self._ending
            and self.stream.outcome is None
        ):
            self._finishing = True
            self._committing = self.spawn(self._commit(), "commit")

    async def _commit(self) -> None:
        try:
            await commit_upload(self)
        finally:
            self._finishing = False
