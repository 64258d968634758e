"""What a caller may watch of the connection."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

__all__ = ["ConnectionPhase", "ConnectionState"]


class ConnectionPhase(Enum):
    """Where the connection is."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    """With a new session."""
    RESUMED = "resumed"
    """With the session of the connection before."""
    DISCONNECTED = "disconnected"
    """It will be made again after `retry_in` seconds."""
    CLOSED = "closed"
    """It will not be made again."""


class ConnectionState(Struct, frozen=True, kw_only=True):
    """A change of the connection, for `on_state`.

    Attributes:
        phase: where it is now.
        reason: why; empty where nothing went wrong.
        attempt: attempts since the last connection that was of use, from 1.
        retry_in: seconds until the next attempt (disconnected).
    """

    phase: ConnectionPhase
    reason: str = ""
    attempt: int = 0
    retry_in: float = 0.0
