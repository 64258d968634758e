"""Random operations on logs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ackline.proto.batches import encode_entries
from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.messages import Outcome, OutcomeKind
from ackline.proto.proofs import NOTHING
from ackline.server.outcomes import record
from ackline.server.stores.entities import Append, PublisherState
from ackline.server.stores.errors import PositionTrimmed, StorageFull, StoreFailed
from tests.crash.facts import GONE, SOME, Batch, Violation
from tests.crash.inspection import inspect_log
from tests.crash.operations import Operations

if TYPE_CHECKING:
    from ackline.server.stores.seams import Log
    from tests.crash.facts import Key, LogFacts

__all__ = ["LogOperations"]

_LOGS = ("x", "y", "z")
_PUBLISHERS = ("p", "q")

_COMPLETED = record(Outcome(OutcomeKind.COMPLETED, Code.OK, "", 0, 0))


class LogOperations(Operations):
    """Appends, reads, kinds, retention, seals, deletes."""

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
