"""One screen of `ackline top`: rates from two updates, and a line for each stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.cli.display import bytes_text, duration_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ackline.client.cli.watching import Hello, Row, Totals, Update

__all__ = ["COLUMNS", "HEADING", "View"]

COLUMNS: tuple[str, ...] = (
    "use",
    "what",
    "id",
    "state",
    "why",
    "progress",
    "/s",
    "window",
    "whose",
)

HEADING = 3
"""Lines of a heading that are always there; why the server is not ready follows."""


class View:
    """An update, and what it differs in from the one before it.

    Attributes:
        hello, update: as they came.
        received, sent: bytes a second.
        units: a second, by use.
        latency: of ACKs in seconds: below it are 99 % of those since the last update;
            None if there were none.
    """

    def __init__(self, hello: Hello, before: Update, update: Update) -> None:
        now, then = update.totals, before.totals
        self.hello = hello
        self.update = update
        elapsed = max(now.at - then.at, 1e-3)
        self.received = (now.received - then.received) / elapsed
        self.sent = (now.sent - then.sent) / elapsed
        self.units = {
            use: (count - then.units.get(use, 0)) / elapsed
            for use, count in now.units.items()
        }
        self.latency = _quantile(hello.bounds, _new_acks(then, now), 0.99)
        self._positions = {row.id: row.position for row in before.rows}
        self._elapsed = elapsed

    def speed(self, row: Row) -> float | None:
        """Return units a second of one stream; None where it is new."""
        then = self._positions.get(row.id)
        return None if then is None else (row.position - then) / self._elapsed

    def heading(self) -> list[str]:
        """Return the lines above the streams."""
        totals = self.update.totals
        streams = [
            f"{count} {state.lower()}" for state, count in totals.streams.items()
        ]
        units = [f"{use} {rate:,.0f}/s" for use, rate in self.units.items() if rate]
        server = f"{self.hello.version}  up {duration_text(totals.uptime)}"
        flow = [
            f"in {bytes_text(self.received)}/s",
            f"out {bytes_text(self.sent)}/s",
            f"ACK p99 {_latency_text(self.latency)}",
            *units,
        ]
        counts = [
            f"{totals.stuck} not moving",
            f"{totals.connections} connections",
            f"{totals.sessions} sessions",
            f"{totals.runs} runs",
            f"streams: {', '.join(streams) or 'none'}",
        ]
        return [
            server,
            "  ".join(flow),
            "  ".join(counts),
            *(f"not ready: {each}" for each in totals.problems),
        ]

    def cells(self, row: Row) -> tuple[str, ...]:
        """Return a stream's line, column by column (`COLUMNS`)."""
        if row.total:
            progress = f"{min(100, 100 * row.position // row.total)} %"
        else:
            progress = f"{row.position:,}"
        speed = self.speed(row)
        return (
            row.use,
            row.name,
            row.id if row.resource == row.name else row.resource,
            row.state,
            row.error or ", ".join(row.reasons).replace("_", " "),
            progress,
            "" if speed is None else f"{speed:,.0f}",
            "" if row.window is None else bytes_text(row.window),
            " ".join(filter(None, [row.identity, row.peer])),
        )


def _latency_text(seconds: float | None) -> str:
    """Return a latency as people read it."""
    return "-" if seconds is None else f"{1000 * seconds:g} ms"


def _new_acks(then: Totals, now: Totals) -> list[int]:
    new: list[int] = []
    for use, counts in now.ack_latency.items():
        old = then.ack_latency.get(use, [0] * len(counts))
        differences = [a - b for a, b in zip(counts, old, strict=True)]
        new = [
            a + b for a, b in zip(differences, new or [0] * len(counts), strict=True)
        ]
    return new


def _quantile(
    bounds: Sequence[float], counts: Sequence[int], part: float
) -> float | None:
    """Return the bound below which a part of all is; the last one for what is above."""
    wanted, seen = part * sum(counts), 0
    if not wanted:
        return None
    for bound, count in zip(bounds, counts, strict=False):
        seen += count
        if seen >= wanted:
            return bound
    return bounds[-1]
