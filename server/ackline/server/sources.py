"""Sources: functions of the embedding program that produce events."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from ackline.proto.errors import Code, UsageError
from ackline.proto.kinds import KindTable
from ackline.proto.messages import Resumes
from ackline.proto.resource import name_fault
from ackline.server.refusals import Refusal

if TYPE_CHECKING:
    from ackline.proto.messages import Value
    from ackline.server.emitter import Emitter
    from ackline.server.options import Options

__all__ = ["DeclaredKinds", "Resumption", "Source", "SourceFunction", "WithoutConsumer"]

Resumption: TypeAlias = Literal["replay", "recompute", "none"]

WithoutConsumer: TypeAlias = Literal["continue", "pause", "cancel"]

SourceFunction: TypeAlias = Callable[..., AsyncIterator[Any]] | Callable[..., None]
"""An async generator function, whichever of its two types it is annotated with, or a
plain function that takes an `Emitter`."""

_RESUMES = {
    "replay": Resumes.REPLAY,
    "recompute": Resumes.RECOMPUTE,
    "none": Resumes.NONE,
}

WITHOUT_CONSUMER = ("continue", "pause", "cancel")


class DeclaredKinds(KindTable):
    """Kinds that are known from the start: what is computed again has the same ones."""

    __slots__ = ()

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__()
        for name in names:
            super().define(name)

    def define(self, name: str) -> int:
        """Return the number of a kind.

        Raises:
            UsageError: it was not declared.
        """
        number = self.number_of(name)
        if number is None:
            raise UsageError(
                f"kind {name!r} is not declared: a source that is computed again needs"
                f" @server.source(…, kinds=[{name!r}, …]), always in the same order"
            )
        return number


class Source:
    """A registered source.

    Args:
        name: `sources/NAME` for clients.
        function: an async generator function, or a plain function whose first argument
            is an `Emitter`; the client's parameters are its keyword arguments.
        resumes, durable, kinds, without_consumer, grace: see `Server.source`.

    Raises:
        ValueError: the name cannot be one, `function` is neither of the two, or the
            rest is not offered or does not go together.

    Attributes:
        name, durable: as given.
        resumes: as OPENED says it.
        pushes: whether the function takes an `Emitter`.
    """

    def __init__(
        self,
        name: str,
        function: SourceFunction,
        resumes: Resumption = "replay",
        *,
        durable: bool = False,
        kinds: Iterable[str] = (),
        without_consumer: WithoutConsumer | None = None,
        grace: float | None = None,
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
        self.durable = durable
        self._function = function
        self._kinds = tuple(kinds)
        DeclaredKinds(self._kinds)
        self._without_consumer = without_consumer
        self._grace = grace
        self._check_declared()

    @property
    def recomputes(self) -> bool:
        """Whether the function is called with the id to start from."""
        return self.resumes is Resumes.RECOMPUTE

    def without_consumer(self, options: Options) -> tuple[bool, float]:
        """Return whether a run pauses without a consumer, and is cancelled after what.

        The second is in seconds, perhaps infinite.
        """
        chosen = self._without_consumer or options.run_without_consumer
        if chosen == "cancel" or self.resumes is Resumes.NONE:
            return False, 0.0
        grace = options.run_grace if self._grace is None else self._grace
        return chosen == "pause", grace

    def kinds(self) -> KindTable | None:
        """Return the kinds that a run begins with; None for none."""
        if self.recomputes and not self.durable:
            return DeclaredKinds(self._kinds)
        return KindTable(self._kinds) if self._kinds else None

    def check(self, parameters: dict[str, Value]) -> None:
        """Check that the function can be called so, without calling it.

        Raises:
            Refusal: a parameter is unknown or missing.
        """
        try:
            if self.recomputes and "start" in parameters:
                raise TypeError("'start' is the server's to give")
            self._signature.bind(
                *([None] if self.pushes else []), **self._arguments(parameters, 0)
            )
        except TypeError as error:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"source {self.name!r} takes {self._described()}: {error}",
            ) from None

    def generate(
        self, parameters: dict[str, Value], start: int
    ) -> AsyncGenerator[Any, None]:
        """Begin to produce from an id on, with a generator."""
        return cast(
            "AsyncGenerator[Any, None]",
            self._function(**self._arguments(parameters, start)),
        )

    def push(self, emitter: Emitter, parameters: dict[str, Value], start: int) -> None:
        """Begin to produce from an id on, into an emitter."""
        self._function(emitter, **self._arguments(parameters, start))

    def _arguments(self, parameters: dict[str, Value], start: int) -> dict[str, Value]:
        return {**parameters, "start": start} if self.recomputes else parameters

    def _check_declared(self) -> None:
        """Check what goes together.

        Raises:
            ValueError: something does not.
        """
        chosen, grace = self._without_consumer, self._grace
        if chosen is not None and chosen not in WITHOUT_CONSUMER:
            raise ValueError(
                f"without_consumer={chosen!r} is not one of"
                f" {', '.join(WITHOUT_CONSUMER)}"
            )
        if grace is not None and (math.isnan(grace) or grace < 0):
            raise ValueError(
                f"grace={grace!r} is no number of seconds; math.inf is never"
            )
        if chosen == "cancel" and grace:
            raise ValueError(
                "without_consumer='cancel' is at once: for cancelling later, choose"
                " 'continue' or 'pause' and a grace"
            )
        if self.resumes is Resumes.NONE and (
            self.durable or grace or chosen not in (None, "cancel")
        ):
            raise ValueError(
                "a run with resumes='none' ends when its consumers go: durable, grace"
                " and without_consumer are for the others"
            )
        takes = self._signature.parameters
        anything = any(each.kind == each.VAR_KEYWORD for each in takes.values())
        if self.recomputes and "start" not in takes and not anything:
            raise ValueError(
                f"source {self.name!r} is to be computed from any id on: its function"
                " needs a parameter start, the id of the first event to produce"
            )

    def _described(self) -> str:
        """Return what the client may give."""
        names = [
            str(each)
            for each in self._signature.parameters.values()
            if not (self.recomputes and each.name == "start")
        ]
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
