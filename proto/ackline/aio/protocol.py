"""A pump as asyncio wants it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ackline.aio.pump import Pump

__all__ = ["PumpProtocol"]


class PumpProtocol(asyncio.BufferedProtocol):
    """What is given to the event loop for a pump, which may be compiled.

    A compiled class cannot have asyncio's as its base, and asyncio wants that. The two
    methods that are called for each read are the pump's own: nothing is between.
    """

    __slots__ = ("_pump", "buffer_updated", "get_buffer")

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self.get_buffer = pump.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = pump.buffer_updated  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._pump.connection_made(transport)

    def eof_received(self) -> None:
        """Close: a half-closed connection is of no use."""

    def pause_writing(self) -> None:
        """Pass it on."""
        self._pump.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._pump.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._pump.connection_lost(exc)
