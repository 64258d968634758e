"""Runs: sources at work, each writing into one sequence of events (SPEC.md §14)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.errors import Code
from ackline.server import outcomes
from ackline.server.about import about_run
from ackline.server.kept_runs import KeptRuns
from ackline.server.refusals import RETRY_SECONDS, Refusal, code_of
from ackline.server.run import Run
from ackline.server.runlog import RunLog, log_name
from ackline.server.stores.entities import RunRecord
from ackline.server.stores.errors import (
    Corrupt,
    EventsLost,
    NotFound,
    StorageFull,
    StoreError,
    StoreFailed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.messages import Outcome, Value
    from ackline.server.about import About
    from ackline.server.service import Service
    from ackline.server.sources import Source
    from ackline.server.stores.seams import Log

__all__ = ["Runs"]

log = logging.getLogger(__name__)


class Runs:
    """All runs that are active, or ended and still read.

    Attributes:
        sources: what can be run, by name.
    """

    def __init__(self, service: Service, sources: Mapping[str, Source]) -> None:
        self.sources = sources
        self._service = service
        self._store = service.storage.runs
        self._by_id: dict[str, Run] = {}
        self._kept = KeptRuns(service.options.run_retention_bytes)
        self._closing = False

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Run]:
        """Return the runs in memory."""
        return list(self._by_id.values())

    def get(self, run_id: str) -> Run | None:
        """Return a run in memory, or None."""
        return self._by_id.get(run_id)

    async def record(self, run_id: str) -> RunRecord | None:
        """Return what is on record of a run, or None."""
        return await self._store.run(run_id)

    async def log_of(self, record: RunRecord) -> Log:
        """Return the log of a durable run that has ended, with its end.

        Raises:
            StoreError: it cannot be read.
        """
        found = await self._service.logs.open(log_name(record.run_id))
        if record.outcome is not None and found.record.sealed is None:
            await found.seal(record.outcome)  # the process died between the two
        return found

    async def start(self) -> None:
        """Take up what is computed again; record what died with its process.

        Raises:
            StoreError: that cannot be recorded.
        """
        for record in await self._store.active():
            source = self.sources.get(record.source)
            try:
                if source is not None and _goes_on(source, record):
                    await self._go_on(source, record)
                else:
                    await self._lose(record)
            except (Corrupt, EventsLost) as error:
                log.error("%s: %s", _label(record), error)
                outcome = outcomes.failed(code_of(error), str(error), 0)
                await self._store.finish(record.run_id, outcomes.record(outcome))

    async def open(
        self, identity: str, name: str, key: str, parameters: dict[str, Value]
    ) -> tuple[Run | RunRecord, bool]:
        """Start a run, or join the one of this key.

        Returns:
            The run, or the record of one that is not in memory; and whether it was
            there before.

        Raises:
            Refusal: there is no such source, or its parameters are others.
            StoreError: the run cannot be recorded.
        """
        source = self.sources.get(name)
        if source is None:
            raise Refusal(Code.NOT_FOUND, f"there is no source {name!r}")
        source.check(parameters)
        encoded = msgspec.msgpack.encode(parameters, order="sorted")
        lock = self._service.lock(f"run {identity} {name} {key}")
        async with lock if key else nullcontext():
            found = await self._store.find(identity, name, key) if key else None
            if found is not None:
                if found.parameters != encoded:
                    raise Refusal(
                        Code.KEY_CONFLICT,
                        "the key belongs to a run with other parameters: use another",
                    )
                return self._by_id.get(found.run_id, found), True
            return await self._begin(source, identity, key, parameters, encoded), False

    async def expire(self) -> None:
        """Forget how old runs ended, and what the durable ones produced.

        Raises:
            StoreError: that cannot be changed.
        """
        while expired := await self._store.expired(self._service.options.outcome_ttl):
            for record in expired:
                if record.durable:
                    with suppress(NotFound):
                        await self._service.logs.delete(log_name(record.run_id))
            # Last: a log whose run is on record is found again if this is cut short.
            await self._store.forget([record.run_id for record in expired])

    async def stop(self, seconds: float) -> None:
        """End all runs: they cannot outlive the process. Some go on in the next one.

        One whose `finally` takes longer than that is left behind; the next start of
        the server records how it ended.
        """
        self._closing = True
        stopping = {asyncio.ensure_future(_stopped(run)): run for run in self.all()}
        if not stopping:
            return
        _done, late = await asyncio.wait(stopping, timeout=seconds)
        for task in late:
            task.cancel()
            stopping[task].give_up()
        if late:
            log.warning("%d sources did not stop within %g s", len(late), seconds)

    async def finished(self, run: Run, outcome: Outcome) -> Outcome:
        """Record how a run ended, however often the disk fails.

        What is told before it is on record would be another outcome after a restart.

        Returns:
            The outcome that stands.
        """
        recorded = outcomes.record(outcome)
        while True:
            try:
                stands = outcomes.load(await self._store.finish(run.run_id, recorded))
                if run.run_log is not None:
                    await run.run_log.seal(stands)
            except StoreError as error:
                log.error("%s: the end is not recorded: %s", run.label, error)
                lasting = not isinstance(error, StorageFull | StoreFailed)
                if lasting or self._closing:  # then nobody is told any more
                    return outcome
            else:
                return stands
            await asyncio.sleep(RETRY_SECONDS)

    def ended(self, run: Run) -> None:
        """Keep the events of a run for late readers, as far as there is memory.

        Those of a durable run are read from its log.
        """
        if run.run_log is not None:
            run.buffer.restart(run.buffer.next_id)
            self.discard(run)
            return
        for other in self._kept.add(run):
            log.info("%s: its events make room for others", other.label)
            other.buffer.restart(other.buffer.next_id)
            self.discard(other)

    def discard(self, run: Run) -> None:
        """Let go of an ended run: from now on there is its record."""
        self._by_id.pop(run.run_id, None)
        self._kept.discard(run)

    async def _begin(
        self,
        source: Source,
        identity: str,
        key: str,
        parameters: dict[str, Value],
        encoded: bytes,
    ) -> Run:
        record = RunRecord(
            run_id=secrets.token_hex(16),
            source=source.name,
            parameters=encoded,
            identity=identity,
            key=key,
            generation=secrets.randbits(63) + 1,
            created=time.time(),
            durable=source.durable,
        )
        await self._store.create(record)
        try:
            run = await self._make(source, record)
        except StoreError:
            await self._store.forget([record.run_id])
            raise
        if source.recomputes and run.run_log is None:
            run.wait(parameters)
        else:
            run.start(parameters)
        return run

    async def _make(self, source: Source, record: RunRecord) -> Run:
        """Return a run that has not begun, with its log if it is durable."""
        run_log: RunLog | None = None
        if record.durable:
            logs, name = self._service.logs, log_name(record.run_id)
            await logs.configure(
                name,
                retention_seconds=None,
                retention_bytes=self._service.options.durable_run_bytes,
            )
            run_log = RunLog(logs, await logs.open(name))
            await run_log.begin()
        run = self._by_id[record.run_id] = Run(self._service, source, record, run_log)
        return run

    async def _go_on(self, source: Source, record: RunRecord) -> None:
        """Take up a run of an earlier process.

        A durable one goes on at once behind its last event. From where on another one
        is needed, only its consumers know.
        """
        parameters: dict[str, Value] = msgspec.msgpack.decode(record.parameters)
        run = await self._make(source, record)
        if record.durable:
            run.start(parameters)
        else:
            run.wait(parameters)
        log.info("%s goes on", run.label)

    async def _lose(self, record: RunRecord) -> None:
        """Record that a run died with its process."""
        position = (await self.log_of(record)).next_id if record.durable else 0
        outcome = outcomes.record(_lost("the process that ran it has ended", position))
        stands = await self._store.finish(record.run_id, outcome)
        if record.durable:
            await self.log_of(replace(record, outcome=stands))
        log.warning("%s died with its process", _label(record))


def _label(record: RunRecord) -> About:
    return about_run(record.run_id, record.source, record.identity)


def _goes_on(source: Source, record: RunRecord) -> bool:
    """Tell whether the source as it is now can go on with a run."""
    if not source.recomputes or source.durable != record.durable:
        return False
    try:
        source.check(msgspec.msgpack.decode(record.parameters))
    except Refusal as refusal:
        log.warning("%s: %s", _label(record), refusal)
        return False
    return True


async def _stopped(run: Run) -> None:
    if run.source.recomputes:
        await run.suspend()
    else:
        outcome = _lost("the server stopped", 0)
        await run.stop(outcome.outcome, outcome.code, outcome.text)


def _lost(why: str, position: int) -> Outcome:
    return outcomes.failed(Code.PRODUCER_LOST, f"{why}: start it again", position)
