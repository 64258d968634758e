"""The screen of `ackline top`, with rich: imported only where there is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ackline.client.cli.view import COLUMNS, HEADING

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

_SPARE = ("window", "whose", "/s", "use", "id")
"""Columns that a narrow terminal does without, the first of them first."""

_ROOM = {"what": 16, "id": 14, "why": 12, "whose": 16, "use": 9, "state": 9}
"""Characters that a column needs to say something; of others `_NUMBER`."""

_NUMBER = 9


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
        heading = [_line(line) for line in self._view.heading()]
        heading[0].stylize("bold")
        for problem in heading[HEADING:]:
            problem.stylize("red")
        # The table's head, this text, and the line that Ctrl-C is shown on.
        room = self._console.height - len(heading) - 3
        table = self._table(self._view, max(1, room))
        self._live.update(Group(*heading, table, _line(foot, style)), refresh=True)

    def _table(self, view: View, room: int) -> Table:
        table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        shown = _columns(self._console.width)
        for name in shown:
            right = name in ("progress", "/s", "window")
            table.add_column(
                name,
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if right else "left",
                ratio=3 if name in ("what", "id", "why") else None,
            )
        for row in view.update.rows[:room]:
            cells = dict(zip(COLUMNS, map(Text, view.cells(row)), strict=True))
            cells["state"].stylize(_STYLES.get(row.state, ""))
            table.add_row(*(cells[name] for name in shown))
        return table


def _line(text: str, style: str = "") -> Text:
    """Return what takes one line, however narrow the terminal is."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _columns(width: int) -> list[str]:
    """Return the columns that a terminal has room for."""
    shown = list(COLUMNS)
    for name in _SPARE:
        if sum(_ROOM.get(each, _NUMBER) + 2 for each in shown) <= width + 2:
            break
        shown.remove(name)
    return shown
