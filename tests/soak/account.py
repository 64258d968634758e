"""The account: from the journals of all workers to a page of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.soak.journal import entries

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Account"]

IN_MEMORY = ("memory", "steps")
"""Sources whose events are gone with the server."""


@dataclass
class Account:
    """What has to come out even.

    Attributes:
        lines: what is told.
        faults: what is wrong.
    """

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def tell(self, text: str) -> None:
        self.lines.append(text)

    def check(self, right: bool, fault: str) -> None:
        if not right:
            self.faults.append(fault)

    def add_uploads(self, journals: list[Path]) -> None:
        """Sent = stored + refused; all that was stored was fetched as it was sent."""
        count: Counter[str] = Counter()
        for path in journals:
            for what in ("sent", "stored", "refused", "verified", "deleted"):
                count[what] += len({e["number"] for e in entries(path, what)})
            count["again"] += sum(e["again"] for e in entries(path, "stored"))
        self.tell(
            "uploads: {sent:,} sent = {stored:,} stored + {refused:,} refused; fetched"
            " and verified {verified:,}, chunks sent again although acknowledged"
            " {again}".format_map(count)
        )
        self.check(count["sent"] > 0, "nothing was uploaded")
        self.check(
            count["sent"] == count["stored"] + count["refused"],
            "uploads: sent is not stored + refused",
        )
        self.check(count["stored"] == count["verified"], "not all was verified")
        self.check(not count["again"], "what was acknowledged was sent again")

    def add_log(self, log: str, published: int, received: int, trimmed: int) -> None:
        """What was published, each unit once: received + trimmed."""
        self.tell(
            f"log {log}: {published:,} published = {received:,} received"
            f" + {trimmed:,} trimmed"
        )
        self.check(published > 0, f"nothing was published to {log}")
        self.check(published == received + trimmed, f"log {log}: the sums differ")

    def add_runs(self, journals: list[Path]) -> None:
        """Produced = received + merged + dropped, for every run."""
        runs = [each for path in journals for each in entries(path, "run")]
        for run in runs:
            # A server that is killed has no account to give of what it had in memory.
            if run["lost"] and run["source"] in IN_MEMORY:
                run.update(produced=0, received=0, left=[0, 0, 0])
            self.check(
                run["produced"] == run["received"] + sum(run["left"]),
                f"the sums of a run differ: {run}",
            )
            self.check(
                run["lost"] or run["produced"] == run["wanted"],
                f"a run completed early: {run}",
            )
            self.check(
                not run["lost"]
                or run["source"] in IN_MEMORY
                or (run["source"], run["lost"]) == ("kept", "producer_lost"),
                f"a run was lost that can be read or computed again: {run}",
            )
        merged, dropped, trimmed = (sum(r["left"][n] for r in runs) for n in range(3))
        self.tell(
            f"{len(runs):,} runs: {sum(r['produced'] for r in runs):,} events produced"
            f" = {sum(r['received'] for r in runs):,} received + {merged:,} merged"
            f" + {dropped:,} dropped + {trimmed:,} trimmed;"
            f" {sum(bool(r['lost']) for r in runs)} ended with their server (those in"
            " its memory are not in the sums)"
        )
        self.check(bool(runs), "no run was watched to its end")

    def add_faults(self, journals: list[Path]) -> None:
        """Nothing else was raised."""
        held: Counter[str] = Counter()
        for path in journals:
            self.faults += [f"{path.stem}: {e['text']}" for e in entries(path, "fault")]
            held.update(str(e["code"]) for e in entries(path, "held"))
            self.check(bool(entries(path, "stopped")), f"{path.stem} did not stop")
        if held:
            self.tell(f"refused for want of space, beside uploads: {held.total()}")
