"""Random operations on a real store, and the facts that come of them."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from ackline.proto.batches import encode_entries
from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.messages import Outcome, OutcomeKind
from ackline.proto.proofs import NOTHING
from ackline.proto.values import Durability, Existing
from ackline.server.outcomes import record
from ackline.server.stores.entities import (
    Append,
    PublisherState,
    RunRecord,
    SessionRecord,
    StreamRecord,
    UploadParameters,
)
from ackline.server.stores.errors import (
    PositionTrimmed,
    StorageFull,
    StoreError,
    StoreFailed,
)
from tests.crash.facts import GONE, SOME, Batch, UploadFacts, Violation
from tests.crash.inspection import inspect_log, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from random import Random

    from ackline.server.stores.seams import Log, Upload
    from ackline.server.stores.storage import Storage
    from tests.crash.facts import Change, Facts, Key, LogFacts
    from tests.server.stores.support import Clock

__all__ = ["Faults", "Workload"]

T = TypeVar("T")

#: Operations at a time.
_AT_ONCE = 8

_SINKS = ("index", "thumbnail")
_NAMES = ("a", "b", "c")
_LOGS = ("x", "y", "z")
_PUBLISHERS = ("p", "q")

_COMPLETED = record(Outcome(OutcomeKind.COMPLETED, Code.OK, "", 0, 0))
_CANCELLED = record(Outcome(OutcomeKind.CANCELLED, Code.CANCELLED_BY_CLIENT, "", 0, 0))
_EXPIRED = record(Outcome(OutcomeKind.FAILED, Code.EXPIRED, "", 0, 0))
_FAILED = record(Outcome(OutcomeKind.FAILED, Code.SOURCE_FAILED, "", 0, 0))

#: What makes an operation of an exclusive kind wait.
_EXCLUSIVE = 1000

#: Which calls a fault may hit, and with what.
_FAULTS = (
    ("fdatasync", errno.EIO),
    ("fdatasync", errno.EIO),
    ("pwritev", errno.EIO),
    ("pwritev", errno.ENOSPC),
    ("sync_directory", errno.EIO),
    ("unlink", errno.EIO),
    ("open", errno.ENOSPC),
)


class Faults:
    """Lets one call after the other fail, at the times of a seed."""

    def __init__(self, facts: Facts, rng: Random) -> None:
        self._facts = facts
        self._rng = rng
        self._next: tuple[str, str, int] | None = None

    def arm(self) -> None:
        """Let the next call of some kind fail."""
        where = self._rng.choice(("records", "objects", "logs"))
        self._next = where, *self._rng.choice(_FAULTS)

    def disarm(self) -> None:
        """Let nothing fail any more."""
        self._next = None

    def __call__(self, call: str, name: str) -> int:
        """Return the errno of a call, 0 if it is to succeed (`Disk.fault`)."""
        if self._next is None:
            return 0
        where, kind, error = self._next
        if kind != call or where not in name:
            return 0
        self._next = None
        self._facts.faulted = True
        return error


class Workload:
    """Some operations at a time on an open store, until `run` returns.

    A workload whose process was killed is told by `alive`; what its operations still
    hear is no fact.
    """

    def __init__(
        self,
        storage: Storage,
        facts: Facts,
        faults: Faults,
        rng: Random,
        clock: Clock,
    ) -> None:
        self.alive = True
        self._storage = storage
        self._facts = facts
        self._faults = faults
        self._rng = rng
        self._clock = clock
        self._busy: Counter[Key] = Counter()
        # A dict is an ordered set: a seed has to bring the same order.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._failure: BaseException | None = None

    async def run(self, count: int, *, faulty: bool) -> None:
        """Begin so many operations.

        Raises:
            Violation: An operation had another result than it has to have.
        """
        operations = self._operations()
        kinds = list(operations)
        weights = list(operations.values())
        for _ in range(count):
            (operation,) = self._rng.choices(kinds, weights)
            if faulty and self._rng.random() < 0.06:
                self._faults.arm()
            self._begin(operation())
            for _ in range(self._rng.randrange(8)):
                await asyncio.sleep(0)
            while len(self._tasks) >= _AT_ONCE:
                await asyncio.sleep(0)
            self._check()

    async def finish(self) -> None:
        """Wait for the operations that run.

        Raises:
            Violation: One had another result than it has to have.
        """
        self._faults.disarm()
        while self._tasks:
            await asyncio.sleep(0)
        self._check()

    async def kill(self) -> None:
        """End the operations that run; what they do is nobody's any more."""
        self.alive = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _operations(self) -> dict[Callable[[], Coroutine[None, None, None]], int]:
        return {
            self._new_upload: 4,
            self._store_chunk: 16,
            self._commit: 4,
            self._abort: 1,
            self._delete_object: 1,
            self._discard_object: 1,
            self._take: 2,
            self._expire_uploads: 1,
            self._append: 16,
            self._read: 4,
            self._add_kind: 1,
            self._configure: 2,
            self._trim: 3,
            self._seal: 1,
            self._delete_log: 1,
            self._run: 4,
            self._session: 5,
            self._checkpoint: 1,
        }

    def _begin(self, operation: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(operation)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if self.alive and not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    # What operations share.

    @contextmanager
    def _only(self, *keys: Key, shared: bool = False) -> Generator[bool]:
        """Say whether these are free, and hold them for the time of a block."""
        weight = 1 if shared else _EXCLUSIVE
        limit = _EXCLUSIVE - 1 if shared else 0
        free = all(self._busy[key] <= limit for key in keys)
        if free:
            self._busy.update(dict.fromkeys(keys, weight))
        try:
            yield free
        finally:
            if free:
                self._busy.subtract(dict.fromkeys(keys, weight))

    async def _change(
        self, values: dict[Key, object], operation: Coroutine[None, None, object]
    ) -> bool:
        """Make a change; return whether it was answered."""
        change = self._facts.ask(values)
        try:
            found = await operation
        except (StorageFull, StoreFailed) as error:
            await self._failed(error, change)
            return False
        if self.alive:
            self._facts.answer(change, found=found)
        return True

    async def _failed(self, error: StoreError, change: Change | None = None) -> None:
        """Look what became of a change after a fault."""
        if not self.alive:
            return
        if not self._facts.faulted:
            raise error
        if change is None:
            return
        keys = set(change.values)
        observed = await self._again(lambda: observe(self._storage, keys))
        if self.alive:
            self._facts.compare(observed)
            self._facts.settle(dict.fromkeys(change.values, GONE) | observed)

    async def _again(self, operation: Callable[[], Coroutine[None, None, T]]) -> T:
        """Do something until no fault is in its way; those are few."""
        while True:
            try:
                return await operation()
            except (StorageFull, StoreFailed) as error:
                await self._failed(error)
                await asyncio.sleep(0)

    # Uploads and objects.

    async def _new_upload(self) -> None:
        rng = self._rng
        of = UploadFacts(
            name=rng.choice(_NAMES),
            data=rng.randbytes(rng.choice((0, 700, 2000, 5000))),
            chunk_size=1024,
            synced=rng.random() < 0.8,
            sinks=tuple(sink for sink in _SINKS if rng.random() < 0.5),
        )
        parameters = UploadParameters(
            identity="alice",
            name=of.name,
            chunk_size=of.chunk_size,
            total_size=len(of.data) if rng.random() < 0.7 else None,
            digest_algorithm=rng.choice(("crc32c", "sha256")),
            existing=rng.choice((Existing.REPLACE, Existing.ADD_VERSION)),
            durability=Durability.SYNCED if of.synced else Durability.WRITTEN,
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
            before = self._facts.value("object", of.name)
            kept: tuple[object, ...] = before if isinstance(before, tuple) else ()
            if upload.record.parameters.existing is Existing.REPLACE:
                kept = kept[:-1]
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

    # Logs.

    async def _log(self, name: str, *, create: bool = True) -> Log | None:
        """Return a log, made if need be."""
        facts = self._facts
        missing = facts.value("log", name) == GONE
        if missing and not (create and await self._make_log(name)):
            return None
        log = await self._again(lambda: self._storage.logs.open(name, create=False))
        of = facts.logs[log.record.log_id]
        if log.recovery.lost_events:
            raise Violation(f"log {name} says that events are lost")
        if log.next_id < of.told_to:
            raise Violation(f"log {name} ends at {log.next_id}, not {of.told_to}")
        return log

    async def _make_log(self, name: str) -> bool:
        key: Key = ("log", name)
        with self._only(("making", name)) as free:
            if not free:
                return False

            async def make() -> str:
                log = await self._storage.logs.open(name)
                return log.record.log_id

            await self._change({key: SOME}, make())
            log_id = self._facts.value(*key)
            if not self.alive or log_id == GONE:
                return False
            self._facts.know_log(str(log_id))
            return True

    async def _append(self) -> None:
        name = self._rng.choice(_LOGS)
        with self._only(("log", name), shared=True) as free:
            log = await self._log(name) if free else None
            if log is None or self._facts.value("sealed", log.record.log_id):
                return
            of = self._facts.logs[log.record.log_id]
            publisher = self._rng.choice(_PUBLISHERS)
            if self._rng.random() < 0.05:
                await self._quietly(log.takeover(publisher))
            try:
                tickets = [
                    log.append(self._batch(log, of, publisher))
                    for _ in range(self._rng.randint(1, 4))
                ]
                for ticket in tickets:
                    await ticket
                    if self.alive:
                        of.told_to = max(of.told_to, ticket.next_id)
            except (StorageFull, StoreFailed) as error:
                await self._failed(error)

    def _batch(self, log: Log, of: LogFacts, publisher: str) -> Append:
        state = log.publisher(publisher) or PublisherState(1, 0, NOTHING, 0)
        bodies = [self._rng.randbytes(self._rng.choice((5, 100, 500)))]
        bodies *= self._rng.randint(1, 3)
        encoded = encode_entries(log.assigned_id, [(0, body) for body in bodies])
        sums_of = encoded.proof_parts()
        payload, count = encoded.payload, len(bodies)
        batch = Append(
            publisher=publisher,
            epoch=state.epoch,
            first_unit=state.position,
            count=count,
            payload=payload,
            payload_crc=crc32c(payload),
            publisher_sums=state.sums.extended(*sums_of),
            log_sums=log.sums.extended(*sums_of),
        )
        if self.alive:
            first = log.assigned_id
            units = state.position + count
            noted = Batch(
                first, first + count, payload, publisher, units, batch.log_sums
            )
            of.append(noted)
        return batch

    async def _quietly(self, operation: Coroutine[None, None, object]) -> None:
        try:
            await operation
        except (StorageFull, StoreFailed) as error:
            await self._failed(error)

    async def _read(self) -> None:
        name = self._rng.choice(_LOGS)
        with self._only(("log", name), shared=True) as free:
            log = await self._log(name, create=False) if free else None
            if log is None:
                return
            of = self._facts.logs[log.record.log_id]
            with suppress(PositionTrimmed):
                await self._quietly(inspect_log(log, of, trimming=1))

    async def _add_kind(self) -> None:
        name = self._rng.choice(_LOGS)
        with self._only(("log", name)) as free:
            log = await self._log(name, create=False) if free else None
            if log is None:
                return
            kind = f"kind {self._rng.randrange(100)}"
            kinds = log.record.kinds
            await self._change(
                {
                    ("kinds", log.record.log_id): tuple(
                        dict.fromkeys((*kinds, kind)),
                    )
                },
                log.add_kinds([kind]),
            )

    async def _configure(self) -> None:
        name = self._rng.choice(_LOGS)
        with self._only(("log", name)) as free:
            log = await self._log(name, create=False) if free else None
            if log is not None:
                keep = self._rng.choice((2000, 4000))
                await self._change(
                    {("keep", log.record.log_id): (keep, None)},
                    self._storage.logs.configure(
                        name, retention_bytes=keep, retention_seconds=None
                    ),
                )

    async def _trim(self) -> None:
        with self._only(*[("log", name) for name in _LOGS], shared=True) as free:
            if not free:
                return
            self._facts.trims += 1
            await self._quietly(self._storage.logs.trim())
            for name in _LOGS:
                log = await self._log(name, create=False)
                if log is not None and self.alive:
                    of = self._facts.logs[log.record.log_id]
                    of.kept_from = max(of.kept_from, log.first_id)
            if self.alive:
                self._facts.trims -= 1

    async def _seal(self) -> None:
        name = self._rng.choice(_LOGS)
        with self._only(("log", name)) as free:
            log = await self._log(name, create=False) if free else None
            if log is None or self._rng.random() < 0.7:
                return
            if self._facts.value("sealed", log.record.log_id) is None:
                await self._change(
                    {("sealed", log.record.log_id): _COMPLETED},
                    log.seal(_COMPLETED),
                )

    async def _delete_log(self) -> None:
        name = self._rng.choice(_LOGS)
        with self._only(("log", name)) as free:
            if free and self._facts.value("log", name) != GONE:
                await self._change(
                    {("log", name): GONE}, self._storage.logs.delete(name)
                )

    # Records alone.

    async def _run(self) -> None:
        run_id = f"run {self._rng.randrange(4)}"
        key: Key = ("run", run_id)
        with self._only(key) as free:
            if not free:
                return
            value, runs = self._facts.value(*key), self._storage.runs
            if value == GONE:
                made = RunRecord(
                    run_id=run_id,
                    source="build",
                    parameters=b"",
                    identity="alice",
                    key="",
                    generation=self._rng.getrandbits(64),
                    created=self._clock.now,
                    durable=True,
                )
                await self._change({key: None}, runs.create(made))
            elif value is None:
                await self._change({key: _FAILED}, runs.finish(run_id, _FAILED))
            else:
                await self._change({key: GONE}, runs.forget([run_id]))

    async def _session(self) -> None:
        session_id = f"session {self._rng.randrange(3)}"
        key: Key = ("session", session_id)
        with self._only(key) as free:
            if not free:
                return
            value = self._facts.value(*key)
            if value == GONE:
                await self._new_session(key)
            elif isinstance(value, tuple):
                await self._use_session(key, value[0])

    async def _new_session(self, key: Key) -> None:
        made = SessionRecord(
            session_id=key[1],
            identity="alice",
            epoch=1,
            token_hash=b"1",
            successor_hash=None,
            created=self._clock.now,
            touched=self._clock.now,
        )
        await self._change({key: (1, b"1")}, self._storage.sessions.save(made))

    async def _use_session(self, key: Key, epoch: int) -> None:
        sessions, session_id = self._storage.sessions, key[1]
        numbers = [
            each
            for each, value in self._facts.values.items()
            if each[:2] == ("stream", session_id) and value != GONE
        ]
        match self._rng.randrange(8):
            case 0:
                values: dict[Key, object] = dict.fromkeys((key, *numbers), GONE)
                await self._change(values, sessions.delete(session_id))
            case 1 | 2 | 3:
                token = self._rng.randbytes(4)
                operation = sessions.advance(
                    session_id,
                    epoch,
                    token_hash=token,
                    successor_hash=None,
                    touched=self._clock.now,
                )
                await self._change({key: (epoch + 1, token)}, operation)
            case 4 | 5 if numbers:
                stream = self._rng.choice(numbers)
                if self._facts.value(*stream) is None:
                    ended = sessions.end_stream(session_id, int(stream[2]), _COMPLETED)
                    await self._change({stream: _COMPLETED}, ended)
                else:
                    released = sessions.delete_streams(session_id, [int(stream[2])])
                    await self._change({stream: GONE}, released)
            case _:
                number = self._rng.getrandbits(30)
                made = StreamRecord(
                    session_id=session_id,
                    stream_id=number,
                    use=1,
                    open_message=b"",
                    target="",
                )
                await self._change(
                    {("stream", session_id, str(number)): None},
                    sessions.save_stream(made),
                )

    async def _checkpoint(self) -> None:
        await self._quietly(self._storage.checkpoint())
