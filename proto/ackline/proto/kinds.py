"""The names of a stream's kinds of events (`SPEC.md §11`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.limits import MAX_KINDS
from ackline.proto.resource import name_fault

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["KindTable"]


class KindTable:
    """Names and numbers of kinds. It only grows: a number never changes its name.

    Attributes:
        names: The name of every number, to be indexed and not changed; kind 0, the
            default, is named by the empty string.
    """

    __slots__ = ("_numbers", "names")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        for name in names:
            self.define(name)

    @classmethod
    def received(cls, names: Iterable[str]) -> KindTable:
        """Return the table that a peer gave in OPEN or a Standing.

        Raises:
            ProtocolViolation: `bad_frame`: a name cannot be one or is there twice.
        """
        table = cls()
        for number, name in enumerate(names, 1):
            table.learn(number, name)
        return table

    def __len__(self) -> int:
        """Return how many kinds have names, the default not counted."""
        return len(self.names) - 1

    def listed(self) -> tuple[str, ...]:
        """Return the names as OPEN and Standing give them: of kinds 1, 2, …."""
        return tuple(self.names[1:])

    def number_of(self, name: str) -> int | None:
        """Return the number of a kind, None if it has none yet."""
        return self._numbers.get(name)

    def define(self, name: str) -> int:
        """Return the number of a kind of our own, giving it the next if it has none.

        Raises:
            UsageError: The name cannot be one, or all 239 numbers are taken.
        """
        number = self._numbers.get(name)
        if number is not None:
            return number
        fault = name_fault(name)
        if fault:
            raise UsageError(f"{name!r} cannot be a kind: {fault}")
        if len(self) == MAX_KINDS:
            raise UsageError(
                f"a stream has at most {MAX_KINDS} kinds; put {name!r} into the event"
            )
        return self._add(name)

    def learn(self, number: int, name: str) -> None:
        """Take over a definition by the peer; a repeated one changes nothing.

        Raises:
            ProtocolViolation: `bad_frame`: it contradicts an earlier one, or is not the
                next number, or the name cannot be one.
        """
        known = self.names[number] if 1 <= number <= len(self) else None
        if known == name:
            return
        fault = name_fault(name)
        if known is not None:
            fault = f"it is named {known!r}"
        elif name in self._numbers:
            fault = f"the name is that of kind {self._numbers[name]}"
        elif number != len(self.names) or number > MAX_KINDS:
            fault = f"the next number is {len(self.names)} and the last {MAX_KINDS}"
        if fault:
            raise ProtocolViolation(
                Code.BAD_FRAME, f"kind {number} cannot be named {name!r}: {fault}"
            )
        self._add(name)

    def _add(self, name: str) -> int:
        number = len(self.names)
        self.names.append(name)
        self._numbers[name] = number
        return number
