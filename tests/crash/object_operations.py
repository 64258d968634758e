"""Random operations on uploads and objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.messages import Outcome, OutcomeKind
from ackline.proto.values import Durability, Existing
from ackline.server.outcomes import record
from ackline.server.stores.entities import UploadParameters
from ackline.server.stores.errors import StorageFull, StoreFailed
from tests.crash.facts import GONE, UploadFacts, Violation
from tests.crash.operations import Operations

if TYPE_CHECKING:
    from ackline.server.stores.entities import ObjectRecord
    from ackline.server.stores.seams import Upload
    from tests.crash.facts import Change, Key

__all__ = ["ObjectOperations"]

_SINKS = ("index", "thumbnail")
_NAMES = ("a", "b", "c")

_COMPLETED = record(Outcome(OutcomeKind.COMPLETED, Code.OK, "", 0, 0))
_CANCELLED = record(Outcome(OutcomeKind.CANCELLED, Code.CANCELLED_BY_CLIENT, "", 0, 0))
_EXPIRED = record(Outcome(OutcomeKind.FAILED, Code.EXPIRED, "", 0, 0))


class ObjectOperations(Operations):
    """Uploads, commits, deletes, retention, sinks."""

    async def _new_upload(self) -> None:
        of = self._some_upload()
        parameters = self._parameters(
            of, digest_algorithm=self._rng.choice(("crc32c", "sha256"))
        )
        with self._only(("new",), shared=True) as free:
            if not free:
                return
            try:
                upload = await self._storage.chunks.create(parameters)
            except (StorageFull, StoreFailed) as error:
                await self._failed(error)
                return
            if self.alive:
                upload_id = upload.record.upload_id
                self._facts.uploads[upload_id] = of
                self._facts.values["outcome", upload_id] = None

    def _some_upload(self) -> UploadFacts:
        rng = self._rng
        return UploadFacts(
            name=rng.choice(_NAMES),
            data=rng.randbytes(rng.choice((0, 700, 2000, 5000))),
            chunk_size=1024,
            synced=rng.random() < 0.8,
            sinks=tuple(sink for sink in _SINKS if rng.random() < 0.5),
        )

    def _parameters(
        self, of: UploadFacts, *, digest_algorithm: str = "crc32c"
    ) -> UploadParameters:
        rng = self._rng
        return UploadParameters(
            identity="alice",
            name=of.name,
            chunk_size=of.chunk_size,
            total_size=len(of.data) if rng.random() < 0.7 else None,
            digest_algorithm=digest_algorithm,
            existing=rng.choice((Existing.REPLACE, Existing.ADD_VERSION)),
            durability=Durability.SYNCED if of.synced else Durability.WRITTEN,
        )

    async def _put_object(self) -> None:
        """Make an object in one step. Its id is known when it is about to be made."""
        of = self._some_upload()
        parameters = self._parameters(of)
        key = "object", of.name
        asked: list[Change] = []
        with self._only(key) as free:
            if not free:
                return
            kept = self._kept(of.name, parameters.existing)

            def outcome(made: ObjectRecord) -> bytes:
                if self.alive and not asked:
                    self._facts.uploads[made.object_id] = of
                    values: dict[Key, object] = {
                        ("outcome", made.object_id): _COMPLETED,
                        key: (*kept, made.object_id),
                    }
                    asked.append(self._facts.ask(values))
                return _COMPLETED

            chunks = [of.chunk(index) for index in range(of.count)]
            try:
                await self._storage.chunks.put(
                    parameters,
                    [(chunk, crc32c(chunk)) for chunk in chunks],
                    len(of.data),
                    outcome=outcome,
                    crc=crc32c(of.data),
                    sinks=of.sinks,
                )
            except (StorageFull, StoreFailed) as error:
                await self._failed(error, *asked)
                return
            if self.alive:
                self._facts.answer(*asked)

    def _kept(self, name: str, existing: Existing) -> tuple[object, ...]:
        """Return the versions that stay when another one comes."""
        before = self._facts.value("object", name)
        kept: tuple[object, ...] = before if isinstance(before, tuple) else ()
        return kept[:-1] if existing is Existing.REPLACE else kept

    def _open_upload(self) -> tuple[str, UploadFacts] | None:
        opened = [
            (upload_id, of)
            for upload_id, of in self._facts.uploads.items()
            if self._facts.value("outcome", upload_id) is None
        ]
        return self._rng.choice(opened) if opened else None

    async def _load(self, upload_id: str) -> Upload:
        """Return an upload; whoever opens it is told what is stored."""
        upload = await self._again(lambda: self._storage.chunks.load(upload_id))
        of = self._facts.uploads[upload_id]
        if of.synced and any(upload.chunk(index) is None for index in of.told):
            raise Violation(f"upload {upload_id} has lost {upload.lost_chunks}")
        return upload

    async def _store_chunk(self) -> None:
        found = self._open_upload()
        if found is None or not found[1].count:
            return
        upload_id, of = found
        with self._only(("outcome", upload_id), shared=True) as free:
            if not free:
                return
            upload = await self._load(upload_id)
            epoch = upload.record.epoch
            index = self._rng.randrange(of.count)
            data, at = of.chunk(index), 0
            try:
                if upload.chunk(index) is None and self._rng.random() < 0.2:
                    at = len(data) // 2
                    with self._only(("chunk", upload_id, str(index))) as alone:
                        if not alone:
                            return
                        await upload.park(index, 0, data[:at], epoch=epoch)
                        await self._stored(upload, of, index, at)
                else:
                    with self._only(
                        ("chunk", upload_id, str(index)), shared=True
                    ) as ok:
                        if ok:
                            await self._stored(upload, of, index, 0)
            except ValueError:  # another operation was faster with this chunk
                return
            except (StorageFull, StoreFailed) as error:
                await self._failed(error)

    async def _stored(
        self, upload: Upload, of: UploadFacts, index: int, at: int
    ) -> None:
        data = of.chunk(index)
        await upload.store(
            index,
            data[at:],
            crc32c(data),
            epoch=upload.record.epoch,
            length=len(data),
            offset=at,
        )
        if self.alive:
            of.told.add(index)

    async def _commit(self) -> None:
        found = self._open_upload()
        if found is None or len(found[1].told) < found[1].count:
            return
        upload_id, of = found
        keys: list[Key] = [("outcome", upload_id), ("object", of.name)]
        with self._only(*keys) as free:
            if not free:
                return
            upload = await self._load(upload_id)
            if upload.position < of.count:  # not synced, and lost
                return
            kept = self._kept(of.name, upload.record.parameters.existing)
            await self._change(
                {keys[0]: _COMPLETED, keys[1]: (*kept, upload_id)},
                upload.commit(
                    len(of.data),
                    epoch=upload.record.epoch,
                    outcome=lambda _: _COMPLETED,
                    crc=crc32c(of.data),
                    sinks=of.sinks,
                ),
            )

    async def _abort(self) -> None:
        found = self._open_upload()
        if found is None:
            return
        with self._only(("outcome", found[0])) as free:
            if free:
                await self._change(
                    {("outcome", found[0]): _CANCELLED},
                    self._storage.chunks.abort(found[0], _CANCELLED),
                )

    async def _expire_uploads(self) -> None:
        keep = [
            upload_id
            for upload_id in self._facts.uploads
            if self._facts.value("outcome", upload_id) is None
            and (self._rng.random() < 0.8 or self._busy["outcome", upload_id])
        ]
        expired = [
            upload_id
            for upload_id in self._facts.uploads
            if self._facts.value("outcome", upload_id) is None and upload_id not in keep
        ]
        with self._only(("new",), *[("outcome", each) for each in expired]) as free:
            if not free:
                return
            self._clock.now += 100
            changes = [
                self._facts.ask({("outcome", each): _EXPIRED}) for each in expired
            ]
            try:
                ended = await self._storage.chunks.expire(
                    idle=50, retention=1e9, outcome=_EXPIRED, keep=keep
                )
            except (StorageFull, StoreFailed) as error:
                for change in changes:
                    await self._failed(error, change)
                return
            if self.alive:
                for upload_id, change in zip(expired, changes, strict=True):
                    if upload_id in ended:
                        self._facts.answer(change)
                    else:  # its record is gone already
                        gone: dict[Key, object] = {("outcome", upload_id): GONE}
                        self._facts.compare(gone)
                        self._facts.settle(gone)

    def _some_object(self) -> tuple[Key, tuple[str, ...]] | None:
        found = [
            (key, value)
            for key, value in self._facts.values.items()
            if key[0] == "object" and isinstance(value, tuple)
        ]
        return self._rng.choice(found) if found else None

    async def _delete_object(self) -> None:
        found = self._some_object()
        if found is None:
            return
        with self._only(found[0]) as free:
            if free:
                await self._change(
                    {found[0]: GONE}, self._storage.chunks.delete(found[0][1])
                )

    async def _discard_object(self) -> None:
        """Do what retention does."""
        found = self._some_object()
        if found is None:
            return
        key, ids = found
        with self._only(key) as free:
            if free:
                await self._change(
                    {key: ids[1:] or GONE}, self._storage.chunks.discard([ids[0]])
                )

    async def _take(self) -> None:
        """Do what a sink does with an object."""
        deliveries = self._storage.deliveries
        try:
            for delivery in await deliveries.due(self._rng.choice(_SINKS), 1):
                await deliveries.begin(delivery, self._clock.now + 1)
                if self._rng.random() < 0.3:
                    await deliveries.fail(delivery, "no", self._clock.now + 1)
                    continue
                if self.alive:
                    self._facts.taken.add((delivery.object_id, delivery.sink))
                await deliveries.finish(delivery)
        except (StorageFull, StoreFailed) as error:
            await self._failed(error)
