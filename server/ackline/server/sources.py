"""Sources: functions of the embedding program that produce events."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from ackline.proto.errors import Code
from ackline.proto.messages import Resumes
from ackline.proto.resource import name_fault
from ackline.server.refusals import Refusal

if TYPE_CHECKING:
    from ackline.proto.messages import Value

__all__ = ["Event", "Item", "Source", "SourceFunction"]


@dataclass(frozen=True, slots=True)
class Event:
    """An event with a kind, for a source to yield.

    Attributes:
        data: the body; str is sent as UTF-8.
        kind: its name; the empty one is that of plain bytes and str.
    """

    data: bytes | str
    kind: str = ""


Item: TypeAlias = bytes | str | Event
"""What a source yields."""

SourceFunction: TypeAlias = Callable[..., AsyncIterator[Any]]
"""An async generator function, whichever of its two types it is annotated with."""

_RESUMES = {"replay": Resumes.REPLAY, "none": Resumes.NONE}


class Source:
    """A registered source.

    Args:
        name: `sources/NAME` for clients.
        function: an async generator function; the client's parameters are its keyword
            arguments.
        resumes: `replay`: what was produced is kept and sent again; `none`: a run ends
            when its consumers disconnect.

    Raises:
        ValueError: the name cannot be one, `function` is no async generator function,
            or `resumes` is not offered.
    """

    def __init__(
        self, name: str, function: SourceFunction, resumes: Literal["replay", "none"]
    ) -> None:
        fault = name_fault(name)
        if fault:
            raise ValueError(f"{name!r} cannot name a source: {fault}")
        if not inspect.isasyncgenfunction(function):
            raise ValueError(
                f"source {name!r} must be an async generator function: `async def`"
                " with `yield`"
            )
        if resumes not in _RESUMES:
            raise ValueError(f"resumes={resumes!r} is not one of {', '.join(_RESUMES)}")
        self.name = name
        self.resumes = _RESUMES[resumes]
        self._function = function
        self._signature = inspect.signature(function)

    def check(self, parameters: dict[str, Value]) -> None:
        """Check that the function can be called so, without calling it.

        Raises:
            Refusal: a parameter is unknown or missing.
        """
        try:
            self._signature.bind(**parameters)
        except TypeError as error:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"source {self.name!r} takes {self._described()}: {error}",
            ) from None

    def start(self, parameters: dict[str, Value]) -> AsyncGenerator[Any, None]:
        """Begin to produce."""
        return cast("AsyncGenerator[Any, None]", self._function(**parameters))

    def _described(self) -> str:
        names = [str(each) for each in self._signature.parameters.values()]
        return f"({', '.join(names)})"
