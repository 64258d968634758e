"""SIGTERM and SIGINT: the first asks to stop, the second insists; SIGHUP."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["StopSignals", "on_hangup", "stop_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """How often this process was asked to stop."""

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    def came(self) -> None:
        """Take note of a signal."""
        (self._second if self._first.is_set() else self._first).set()

    async def first(self) -> None:
        """Wait until asked to stop."""
        await self._first.wait()

    async def second_or(self, task: asyncio.Task[None]) -> None:
        """Wait for a task, or cancel it when asked again."""
        insisting = asyncio.ensure_future(self._second.wait())
        await asyncio.wait([task, insisting], return_when=asyncio.FIRST_COMPLETED)
        for each in (task, insisting):
            each.cancel()
        await asyncio.wait([task, insisting])


@contextmanager
def stop_signals() -> Generator[StopSignals]:
    """Take the signals that stop a process, for the time of a block."""
    loop, signals = asyncio.get_running_loop(), StopSignals()
    for number in _SIGNALS:
        loop.add_signal_handler(number, signals.came)
    try:
        yield signals
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def on_hangup(call: Callable[[], None]) -> Generator[None]:
    """Call a function at each SIGHUP, for the time of a block."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
