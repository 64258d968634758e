"""How a client behaves: one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ackline.proto.errors import ProtocolViolation, UsageError
from ackline.proto.limits import (
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_CHUNK_SIZE,
    DEFAULT_MAX_PAYLOAD,
    DEFAULT_WINDOW_BYTES,
    DEFAULT_WINDOW_UNITS,
    validated,
)
from ackline.proto.messages import Limits

__all__ = ["DEFAULT_CHUNK_SIZE", "ClientOptions"]

DEFAULT_CHUNK_SIZE: Final = 4 * 2**20
"""Bytes: what is verified, stored and acknowledged as a whole. Smaller ones cost a
record each, larger ones memory on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Limits, memory and patience of one client. Sizes are bytes, durations seconds.

    Attributes:
        max_payload: largest frame payload accepted; larger frames delay others.
        max_chunk_size: largest chunk accepted in a fetch; four may be in memory.
        window_units, window_bytes: what all streams together may have on the way here:
            at most `window_bytes` arrive in one round trip.
        heartbeat: silence after which the server is asked whether it lives; three times
            that is a lost connection.
        connect_timeout: for connecting and the server's first answer.
        backoff_first, backoff_last: wait before the first reconnect, and the longest;
            it doubles in between, and each is taken times 0.5 to 1 (SPEC.md §17).
        give_up_after: time without a connection after which everything that waits
            raises ConnectionLost; None for never.
        wait_for_server: keep trying if the first connection fails, too.
        load_memory: chunks of all uploads that are read and not yet sent; two an upload
            keep the link busy.
        receive_memory: what may be on the way to, or unread in, all fetches and
            subscriptions together, beside the first 256 KiB of each subscription.
        replay_events, replay_bytes: what a publisher holds that is not acknowledged;
            `send()` waits beyond.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    max_chunk_size: int = DEFAULT_MAX_CHUNK_SIZE
    window_units: int = DEFAULT_WINDOW_UNITS
    window_bytes: int = DEFAULT_WINDOW_BYTES
    heartbeat: float = DEFAULT_HEARTBEAT
    connect_timeout: float = 10.0
    backoff_first: float = 0.1
    backoff_last: float = 10.0
    give_up_after: float | None = None
    wait_for_server: bool = False
    load_memory: int = 32 * 2**20
    receive_memory: int = 64 * 2**20
    replay_events: int = 65_536
    replay_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        """Refuse what the protocol does not allow.

        Raises:
            UsageError: a value is out of range.
        """
        try:
            validated(self.limits(), of_server=False)
        except ProtocolViolation as violation:
            raise UsageError(violation.text) from None
        for name in ("connect_timeout", "backoff_first", "replay_events"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.backoff_last < self.backoff_first:
            raise UsageError("backoff_last is below backoff_first")
        if self.receive_memory < self.max_chunk_size:
            raise UsageError("receive_memory holds no chunk of max_chunk_size")

    def limits(self) -> Limits:
        """Return what HELLO states (SPEC.md §6)."""
        return Limits(
            max_payload=self.max_payload,
            max_chunk_size=self.max_chunk_size,
            max_streams=0,
            window_units=self.window_units,
            window_bytes=self.window_bytes,
            initial_units=0,
            initial_bytes=0,
            heartbeat=self.heartbeat,
        )
