"""Progress and notes on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ackline.client.progress import Progress

__all__ = ["Display", "bytes_text", "duration_text", "progress_text", "say"]

STDERR = 2

LINE_EVERY = 2.0
"""Seconds between two progress lines where there is no terminal."""

HELD = {
    "insufficient_storage": "its disk is full",
    "storage_failed": "its disk fails",
    "overloaded": "it has too much to do",
}

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Bar(Protocol):
    """What is drawn on a terminal."""

    def show(self, progress: Progress, rate: float) -> None:
        """Draw."""

    def note(self, text: str) -> None:
        """Print a line above."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Display:
    """Shows how far a command is.

    Args:
        quiet: show nothing.
        counts: whether progress is in events, not bytes.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.counts = False
        self.title = ""
        self._quiet = quiet
        self._bar: Bar | None = None
        self._began = time.monotonic()
        self._last = 0.0
        self._held_at = -1

    def show(self, progress: Progress) -> None:
        """Show progress; cheap enough to be called for every chunk."""
        if progress.held and self._held_at != progress.done:
            self._held_at = progress.done
            why = HELD.get(progress.held, "it is short of something")
            self.note(
                f"the server stores nothing for now: {why} ({progress.held}); waiting",
                error=True,
            )
        now = time.monotonic()
        if self._quiet:
            return
        rate = (progress.done - progress.began) / max(now - self._began, 1e-3)
        if os.isatty(STDERR):
            if self._bar is None:
                from ackline.client.cli.bar import RichBar  # noqa: PLC0415 - slow

                self._bar = RichBar(self.title, counts=self.counts)
            self._bar.show(progress, rate)
        elif now - self._last >= LINE_EVERY and now - self._began >= LINE_EVERY:
            self._last = now
            say(progress_text(progress, rate, counts=self.counts))

    def note(self, text: str, *, error: bool = False) -> None:
        """Print a line; when quiet, only an error."""
        if self._bar is not None:
            self._bar.note(text)
        elif error or not self._quiet:
            say(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def say(text: str) -> None:
    """Print a line on standard error; if nobody reads that, say nothing.

    Past `sys.stderr`: what that could not write it would try again at exit, and change
    the exit code.
    """
    with contextlib.suppress(OSError):
        os.write(STDERR, text.encode(errors="backslashreplace") + b"\n")


def progress_text(progress: Progress, rate: float, *, counts: bool) -> str:
    """Return one line: `12.0 MiB of 100.0 MiB (12 %), 45.1 MiB/s, 0:02 left`."""

    def amount(value: float) -> str:
        return f"{value:,.0f} events" if counts else bytes_text(value)

    parts = [amount(progress.done)]
    if progress.total is not None:
        percent = 100 * progress.done / max(progress.total, 1)
        parts[0] += f" of {amount(progress.total)} ({percent:.0f} %)"
    parts.append(f"{amount(rate)}/s")
    if progress.total is not None and rate > 0:
        parts.append(f"{duration_text((progress.total - progress.done) / rate)} left")
    if progress.resumes:
        parts.append(f"resumed {progress.resumes}x")
    return ", ".join(parts)


def bytes_text(size: float) -> str:
    """Return a size as people read it."""
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:,.0f} {UNITS[unit]}" if unit == 0 else f"{size:.1f} {UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """Return `0:07` or `1:02:03`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
