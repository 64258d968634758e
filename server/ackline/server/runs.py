"""Runs: sources at work, each writing into one sequence of events (SPEC.md §14)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import msgspec

from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.server import outcomes
from ackline.server.refusals import RETRY_SECONDS, Refusal
from ackline.server.run import Run
from ackline.server.stores.entities import RunRecord
from ackline.server.stores.errors import StorageFull, StoreError, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.messages import Outcome, Value
    from ackline.server.service import Service
    from ackline.server.sources import Source

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

    async def start(self) -> None:
        """Record that the runs of an earlier process died with it.

        Raises:
            StoreError: that cannot be recorded.
        """
        lost = await self._store.fail_lost(outcomes.record(_lost()))
        for record in lost:
            log.warning(
                "runs/%s of %s died with its process", record.run_id, record.source
            )

    async def open(
        self, identity: str, name: str, key: str, parameters: dict[str, Value]
    ) -> tuple[Run | RunRecord, bool]:
        """Start a run, or join the one of this key.

        Returns:
            The run, or the record of one of which nothing is left but its outcome; and
            whether it was there before.

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
        """Forget how old runs ended.

        Raises:
            StoreError: the records cannot be changed.
        """
        await self._store.expire(self._service.options.outcome_ttl)

    async def stop(self, seconds: float) -> None:
        """End all runs: they cannot outlive the process.

        One whose `finally` takes longer than that is left behind; the next start of
        the server records how it ended.
        """
        self._closing = True
        stopping = [
            asyncio.ensure_future(
                run.stop(OutcomeKind.FAILED, _lost().code, "the server stopped")
            )
            for run in self.all()
        ]
        if not stopping:
            return
        _done, late = await asyncio.wait(stopping, timeout=seconds)
        for task in late:
            task.cancel()
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
                return outcomes.load(await self._store.finish(run.run_id, recorded))
            except StoreError as error:
                log.error("runs/%s: the end is not recorded: %s", run.run_id, error)
                lasting = not isinstance(error, StorageFull | StoreFailed)
                if lasting or self._closing:  # then nobody is told any more
                    return outcome
            await asyncio.sleep(RETRY_SECONDS)

    def discard(self, run: Run) -> None:
        """Let go of the events of an ended run that nobody reads any more."""
        self._by_id.pop(run.run_id, None)

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
            survives=False,
        )
        await self._store.create(record)
        run = Run(self._service, source, record)
        self._by_id[record.run_id] = run
        run.start(parameters)
        return run


def _lost() -> Outcome:
    return outcomes.failed(
        Code.PRODUCER_LOST, "the process that ran it has ended: start it again", 0
    )
