"""How far each publisher of a log got."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ackline.proto.proofs import NOTHING, ProofSum
from ackline.server.stores.entities import PublisherState

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Publishers"]

#: A publisher in a checkpoint: name, epoch, position, sums, log position.
_Row = tuple[str, int, int, int, int, int, int]


class Publishers:
    """The publishers of a log, the one that appended least recently first.

    A bounded number is kept, because everybody who may publish may invent names. One
    that is forgotten and comes back begins again, and its proof shows it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: dict[str, PublisherState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def find(self, name: str) -> PublisherState | None:
        """Return how far a publisher got, or None if it is not known."""
        return self._states.get(name)

    def items(self) -> Iterable[tuple[str, PublisherState]]:
        """Return all of them, by name."""
        return self._states.items()

    def put(self, name: str, state: PublisherState) -> None:
        """Note how far a publisher got; forget another one if there are too many."""
        self._states.pop(name, None)  # to the end of the order
        self._states[name] = state
        while len(self._states) > self._limit:
            del self._states[next(iter(self._states))]

    def raise_epoch(self, name: str) -> int:
        """Fence the older attachments of a publisher and return its new epoch."""
        state = self._states.get(name) or PublisherState(0, 0, NOTHING, 0)
        self.put(name, state._replace(epoch=state.epoch + 1))
        return state.epoch + 1

    def keep_epochs(self, earlier: Publishers) -> None:
        """Take over the epochs given out before, which a log's records do not have."""
        for name, state in earlier._states.items():
            mine = self._states.get(name) or PublisherState(0, 0, NOTHING, 0)
            if mine.epoch < state.epoch:
                self._states[name] = mine._replace(epoch=state.epoch)

    def checkpoint(self) -> bytes:
        """Return all of them as the payload of a checkpoint."""
        rows = [
            (
                name,
                state.epoch,
                state.position,
                state.sums.bytes,
                state.sums.lengths_crc,
                state.sums.bodies_crc,
                state.log_position,
            )
            for name, state in self._states.items()
        ]
        return msgspec.msgpack.encode(rows)

    def restore(self, payload: bytes) -> None:
        """Take over what is in a checkpoint.

        Raises:
            msgspec.MsgspecError: It is not one.
        """
        for row in msgspec.msgpack.decode(payload, type=list[_Row]):
            self.put(
                row[0], PublisherState(row[1], row[2], ProofSum(*row[3:6]), row[6])
            )
