"""What the page shows: one sample a second at most, whoever looks (SPEC.md §22)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from ackline.proto.messages import Use
from ackline.server.counters import add_units
from ackline.server.health import problems
from ackline.server.lately import Ended, failure
from ackline.server.reasons import run_reasons, stream_reasons

if TYPE_CHECKING:
    from ackline.server.handler import Handler
    from ackline.server.run import Run
    from ackline.server.service import Service
    from ackline.server.sessions import Session

__all__ = ["Row", "Sample", "Sampler", "Totals"]

INTERVAL = 1.0
"""Seconds a sample is good for."""

_SLICE = 200
"""Streams looked at before the loop gets its turn: about 1 ms."""

RUN = "run"
"""The use that a run is shown as, beside the four of streams."""


class Row(Struct, frozen=True, omit_defaults=True):
    """One live stream or run.

    Attributes:
        id: `SESSION/STREAM`, or `runs/ID`: what it is cancelled by.
        use: of the stream, or `run`.
        name: what it is about, for people.
        resource: its stable id, what STATUS is asked for.
        state, reasons: as in STATUS (SPEC.md §19).
        position: units acknowledged; of a run events produced.
        total: units there will be, if known.
        window: bytes the other side may still send, or take; None while disconnected.
        identity, peer: whose it is, and from where; empty for a run.
        consumers: of a run.
        error: how it failed.
    """

    id: str
    use: str
    name: str
    resource: str
    state: str
    reasons: tuple[str, ...]
    position: int
    total: int | None = None
    window: int | None = None
    identity: str = ""
    peer: str = ""
    consumers: int | None = None
    error: str = ""

    @property
    def waits(self) -> bool:
        """Whether it waits at this moment for something other than new work."""
        # A run that is not paused goes on without consumers, as long as it has room.
        alone = self.use == RUN and self.state != "PAUSED"
        return bool(set(self.reasons) - (_ALONE if alone else _IDLE))


_IDLE = {"nothing_to_send", "producer"}
_ALONE = _IDLE | {"disconnected"}


class Totals(Struct, frozen=True):
    """What the charts are drawn from: counters since the start, and gauges.

    Attributes:
        at: monotonic seconds; rates are differences over this.
        uptime: seconds.
        received, sent: bytes of frames.
        units: received or sent so far, by use.
        ack_latency: ACKs by upper bound in seconds, as of a histogram.
        connections, sessions, runs: now.
        streams: live ones by state.
        stuck: streams and runs that do not move, though there is work.
        refusals: ERROR frames sent.
        problems: why clients should not be sent here, as `/readyz` says it.
    """

    at: float
    uptime: float
    received: int
    sent: int
    units: dict[str, int]
    ack_latency: dict[str, list[int]]
    connections: int
    sessions: int
    runs: int
    streams: dict[str, int]
    stuck: int
    refusals: int
    problems: list[str]


class Sample:
    """Everything at one moment.

    Attributes:
        totals: for the charts.
        rows: runs, then streams; the oldest first.
        stuck: those of them that wait, and are where they were a sample ago: all that
            flows waits for a disk or window now and then.
        ended: what has ended lately, the newest first.
    """

    def __init__(
        self, totals: Totals, rows: list[Row], stuck: list[Row], ended: list[Ended]
    ) -> None:
        self.totals = totals
        self.rows = rows
        self.stuck = stuck
        self.ended = ended
        self._texts: list[str] = []

    def find(self, words: str, use: str, show: str) -> list[Row]:
        """Return the rows that a viewer wants to see.

        Args:
            words: what must be part of id, name, resource, identity or address; each
                of them, whatever its case.
            use: only this one, or "" for all.
            show: `stuck`, `failed`, or anything else for all.
        """
        rows = self.stuck if show == "stuck" else self.rows
        wanted = words.casefold().split()
        if wanted and show == "stuck":
            rows = [row for row in rows if all(word in _text(row) for word in wanted)]
        elif wanted:
            if not self._texts:  # once for all viewers: the dearer half of it
                self._texts = [_text(row) for row in rows]
            rows = [
                row
                for row, text in zip(rows, self._texts, strict=True)
                if all(word in text for word in wanted)
            ]
        if use:
            rows = [row for row in rows if row.use == use]
        if show == "failed":
            rows = [row for row in rows if row.state == "FAILED"]
        return rows

    def find_ended(self, words: str, use: str, show: str) -> list[Ended]:
        """Return what a viewer wants to see of what has ended; see `find`."""
        wanted = words.casefold().split()
        return [
            each
            for each in self.ended
            if use in ("", each.use)
            and (show != "failed" or each.outcome == "FAILED")
            and all(word in _text(each) for word in wanted)
        ]


class Sampler:
    """Takes samples, for all viewers together."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._taken: Sample | None = None
        self._taking: asyncio.Task[Sample] | None = None

    async def sample(self) -> Sample:
        """Return a sample that is at most `INTERVAL` old."""
        taken = self._taken
        if taken is not None and self._service.now() - taken.totals.at < INTERVAL:
            return taken
        if self._taking is None:
            self._taking = asyncio.create_task(self._take(), name="sample")
        return await asyncio.shield(self._taking)

    async def _take(self) -> Sample:
        try:
            self._taken = await self._look()
            return self._taken
        finally:
            self._taking = None

    async def _look(self) -> Sample:
        service = self._service
        troubles = await problems(service)
        units = Counter(service.counters.units)
        # Of now, as the totals are: one that ends meanwhile is then counted once.
        handlers = [
            (handler, session)
            for session in service.sessions.all()
            for handler in session.handlers
        ]
        unused = Counter[Use]()
        states = Counter[str]()
        rows: list[Row] = []
        for number, run in enumerate(service.runs.all(), 1):
            rows.append(_run_row(run))
            if not number % _SLICE:
                await asyncio.sleep(0)
        for handler, session in handlers:
            add_units(handler.stream.use, handler.half, units, unused, unused)
            if handler.released:
                continue
            row = _row(handler, _peer(service, session))
            states[row.state] += 1
            rows.append(row)
            if not len(rows) % _SLICE:
                await asyncio.sleep(0)
        taken = self._taken
        then = {} if taken is None else {row.id: row.position for row in taken.rows}
        stuck = [
            row
            for row in rows
            if row.waits and then.get(row.id, row.position) == row.position
        ]
        totals = self._totals(units, states, len(stuck), troubles)
        return Sample(totals, rows, stuck, list(service.lately))

    def _totals(
        self,
        units: Counter[Use],
        states: Counter[str],
        stuck: int,
        troubles: list[str],
    ) -> Totals:
        service = self._service
        counters, stats = service.counters, service.stats
        return Totals(
            at=service.now(),
            uptime=time.time() - service.started,
            received=stats.bytes_received,
            sent=stats.bytes_sent,
            units={use.name.lower(): units[use] for use in Use},
            ack_latency={
                use.name.lower(): list(counters.ack_latency[use].counts)
                for use in Use
                if use.client_sends
            },
            connections=len(service.clients),
            sessions=len(service.sessions),
            runs=sum(run.active for run in service.runs.all()),
            streams=dict(states),
            stuck=stuck,
            refusals=sum(stats.errors_sent.values()),
            problems=troubles,
        )


def _peer(service: Service, session: Session) -> str:
    core = session.connection
    client = None if core is None else service.clients.get(core)
    return "" if client is None else client.peer


def _text(row: Row | Ended) -> str:
    peer = row.peer if isinstance(row, Row) else ""
    return f"{row.id} {row.name} {row.resource} {row.identity} {peer}".casefold()


def _row(handler: Handler, peer: str) -> Row:
    stream, session = handler.stream, handler.session
    half = stream.receiver or stream.sender
    connection = stream.connection
    window: int | None = None
    if connection is not None and stream.receiver is not None:
        grant = stream.receiver.grant
        window = grant.limit_bytes - grant.bytes
    elif connection is not None and stream.sender is not None:
        sending = stream.sender.window
        window = sending.limit_bytes - sending.bytes
    return Row(
        id=f"{session.session_id}/{stream.id}",
        use=stream.use.name.lower(),
        name=handler.name,
        resource=stream.resource,
        state=stream.lifecycle.state.value,
        reasons=tuple(each.word for each in stream_reasons(handler)),
        position=0 if half is None else half.stored,
        total=handler.total,
        window=window,
        identity=session.identity,
        peer=peer,
        error=failure(stream.outcome),
    )


def _run_row(run: Run) -> Row:
    return Row(
        id=f"runs/{run.run_id}",
        use=RUN,
        name=f"sources/{run.source.name}",
        resource=f"runs/{run.run_id}",
        state=run.state,
        reasons=tuple(each.word for each in run_reasons(run)),
        position=run.next_id,
        consumers=run.consumers,
        error=failure(run.outcome),
    )
