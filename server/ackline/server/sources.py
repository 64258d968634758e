"""Sources: functions of the embedding program that produce events."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from ackline.proto.errors import Code
from ackline.proto.messages import Resumes
from ackline.proto.resource import name_fault
from ackline.server.refusals import Refusal

if TYPE_CHECKING:
    from ackline.proto.messages import Value
    from ackline.server.emitter import Emitter

__all__ = ["Source", "SourceFunction"]


SourceFunction: TypeAlias = Callable[..., AsyncIterator[Any]] | Callable[..., None]
"""An async generator function, whichever of its two types it is annotated with, or a
plain function that takes an `Emitter`."""

_RESUMES = {"replay": Resumes.REPLAY, "none": Resumes.NONE}


class Source:
    """A registered source.

    Args:
        name: `sources/NAME` for clients.
        function: an async generator function, or a plain function whose first argument
            is an `Emitter`; the client's parameters are its keyword arguments.
        resumes: `replay`: what was produced is kept and sent again; `none`: a run ends
            when its consumers disconnect.

    Raises:
        ValueError: the name cannot be one, `function` is neither of the two, or
            `resumes` is not offered.

    Attributes:
        pushes: whether the function takes an `Emitter`.
    """

    def __init__(
        self, name: str, function: SourceFunction, resumes: Literal["replay", "none"]
    ) -> None:
        fault = name_fault(name)
        if fault:
            raise ValueError(f"{name!r} cannot name a source: {fault}")
        self._signature = inspect.signature(function)
        self.pushes = not inspect.isasyncgenfunction(function)
        if self.pushes and not self._takes_emitter(function):
            raise ValueError(
                f"source {name!r} must be an async generator function (`async def` with"
                " `yield`), or a plain function whose first argument is an Emitter"
            )
        if resumes not in _RESUMES:
            raise ValueError(f"resumes={resumes!r} is not one of {', '.join(_RESUMES)}")
        self.name = name
        self.resumes = _RESUMES[resumes]
        self._function = function

    def check(self, parameters: dict[str, Value]) -> None:
        """Check that the function can be called so, without calling it.

        Raises:
            Refusal: a parameter is unknown or missing.
        """
        try:
            self._signature.bind(*([None] if self.pushes else []), **parameters)
        except TypeError as error:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"source {self.name!r} takes {self._described()}: {error}",
            ) from None

    def generate(self, parameters: dict[str, Value]) -> AsyncGenerator[Any, None]:
        """Begin to produce, with a generator."""
        return cast("AsyncGenerator[Any, None]", self._function(**parameters))

    def push(self, emitter: Emitter, parameters: dict[str, Value]) -> None:
        """Begin to produce, into an emitter."""
        self._function(emitter, **parameters)

    def _described(self) -> str:
        names = [str(each) for each in self._signature.parameters.values()]
        if self.pushes:
            del names[0]
        return f"({', '.join(names)})"

    def _takes_emitter(self, function: SourceFunction) -> bool:
        first = next(iter(self._signature.parameters.values()), None)
        return (
            first is not None
            and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
            and not inspect.iscoroutinefunction(function)
            and not inspect.isgeneratorfunction(function)
        )
