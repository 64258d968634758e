"""What a check finds, and what may be done about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Finding", "Report"]

#: Findings kept; of more only the number. A disk that is broken has millions.
_MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        where: File or record.
        problem: What is wrong with it.
        remedy: What a person can do.
        repair: Puts it right where nothing that was acknowledged can be lost by it;
            None where that is not certain.
    """

    where: str
    problem: str
    remedy: str
    repair: Callable[[], None] | None = None


class Report:
    """The findings of one check, and what was looked at.

    Attributes:
        damage: What may be lost. Never repaired.
        leftovers: What a crash left; no harm, and safe to repair.
        unlisted: How many more there were of both.
        counts: What was looked at, by kind.
    """

    def __init__(self, progress: Callable[[int], None]) -> None:
        self.damage: list[Finding] = []
        self.leftovers: list[Finding] = []
        self.unlisted = 0
        self.counts = Counter[str]()
        self._progress = progress

    def read(self, size: int) -> None:
        """Take note of bytes that were read and compared."""
        self.counts["bytes"] += size
        self._progress(size)

    def damaged(self, where: str, problem: str, remedy: str) -> None:
        """Add something that was stored and is not there, or not as it was."""
        self._add(self.damage, Finding(where=where, problem=problem, remedy=remedy))

    def left(self, where: str, problem: str, repair: Callable[[], None]) -> None:
        """Add what a crash left, and how it is put right."""
        remedy = "--repair puts it right, and so does the next start of the server"
        finding = Finding(where=where, problem=problem, remedy=remedy, repair=repair)
        self._add(self.leftovers, finding)

    def repair(self) -> list[Finding]:
        """Put right what is safe; return what was.

        Nothing, if there is damage: then the records, too, may not say what is left
        over and what was acknowledged.

        Raises:
            OSError: The file system failed.
        """
        if self.damage:
            return []
        repaired: list[Finding] = []
        while self.leftovers:
            finding = self.leftovers.pop(0)
            if finding.repair is not None:
                finding.repair()
            repaired.append(finding)
        return repaired

    def _add(self, to: list[Finding], finding: Finding) -> None:
        if len(to) < _MOST:
            to.append(finding)
        else:
            self.unlisted += 1
