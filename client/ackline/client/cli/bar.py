"""The progress bar, with rich: imported only where there is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress

from ackline.client.cli.display import progress_text

if TYPE_CHECKING:
    from ackline.client.progress import Progress

__all__ = ["RichBar"]


class RichBar:
    """A bar, and beside it what the plain line says."""

    def __init__(self, title: str, *, counts: bool) -> None:
        self._counts = counts
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._rich.add_task(title, total=None, line="")
        self._rich.start()

    def show(self, progress: Progress, rate: float) -> None:
        """Draw."""
        self._rich.update(
            self._task,
            completed=progress.done,
            total=progress.total,
            line=progress_text(progress, rate, counts=self._counts),
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._rich.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        self._rich.stop()
