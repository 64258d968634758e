"""The screen of `ackline top`, with rich: imported only where there is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ackline.client.cli.view import COLUMNS

if TYPE_CHECKING:
    from ackline.client.cli.view import View

__all__ = ["Screen"]

_STYLES = {
    "STREAMING": "green",
    "COMPLETED": "green",
    "CREATED": "blue",
    "PAUSED": "yellow",
    "FAILED": "red",
    "CANCELLED": "magenta",
}

HEADING = 6
"""Lines of the screen that are no streams."""


class Screen:
    """Draws views on the whole terminal, whatever its size is by then.

    Attributes:
        shown: whether there was one.
    """

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self.shown = False
        self._view: View | None = None

    def show(self, view: View) -> None:
        """Draw a view."""
        if not self.shown:
            self.shown = True
            self._live.start()
        self._view = view
        self._draw(f"{view.update.matching} match; Ctrl-C ends")

    def note(self, text: str) -> None:
        """Keep what is shown, and say why it is old."""
        self._draw(text, "red")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.shown:
            self._live.stop()

    def _draw(self, foot: str, style: str = "dim") -> None:
        if self._view is None:
            return
        heading = [Text(line) for line in self._view.heading()]
        heading[0].stylize("bold")
        body = Group(*heading, self._table(self._view), Text(foot, style))
        self._live.update(body, refresh=True)

    def _table(self, view: View) -> Table:
        table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        for name in COLUMNS:
            right = name in ("progress", "/s", "window")
            table.add_column(
                name,
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if right else "left",
                ratio=3 if name in ("what", "id", "error") else None,
            )
        room = max(1, self._console.height - HEADING)
        for row in view.update.rows[:room]:
            cells = [Text(cell) for cell in view.cells(row)]
            cells[3].stylize(_STYLES.get(row.state, ""))
            table.add_row(*cells)
        return table
