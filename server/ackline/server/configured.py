"""Sources without code: files to follow and commands to run, from the options."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.server.children import Children
from ackline.server.commands import Command
from ackline.server.follow import FollowedPath
from ackline.server.options import OptionError
from ackline.server.refusals import Refusal
from ackline.server.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ackline.proto.messages import Value
    from ackline.server.options import Options
    from ackline.server.sources import SourceFunction

__all__ = ["configured_sources"]


class _Configured(Source):
    """A source whose parameters are checked before a run is begun."""

    def __init__(
        self,
        name: str,
        function: SourceFunction,
        check: Callable[[dict[str, Value]], object],
        *,
        durable: bool,
    ) -> None:
        super().__init__(name, function, "replay", durable=durable)
        self._check = check

    def check(self, parameters: dict[str, Value]) -> None:
        """Check the parameters.

        Raises:
            Refusal: one is unknown, missing, or cannot be used.
        """
        super().check(parameters)
        try:
            self._check(parameters)
        except ValueError as error:
            raise Refusal(
                Code.INVALID_ARGUMENT, f"source {self.name!r}: {error}"
            ) from None


def configured_sources(
    options: Options, registered: Mapping[str, Source]
) -> dict[str, Source]:
    """Return the sources that are registered, and those of `follow` and `exec`.

    Raises:
        OptionError: a name is none or taken, a file is none, a command cannot be run,
            or one that is to be durable is neither.
    """
    children = Children(limit=options.max_commands, grace=options.command_grace)
    found = dict(registered)
    for name, path in options.follow:
        with _told_as_option("follow", name, path):
            followed = FollowedPath(path)
            source = _Configured(
                name, followed.lines, followed.check, durable=name in options.durable
            )
            _add(found, source)
    for name, text in options.exec:
        with _told_as_option("exec", name, text):
            command = Command(text)
            function = partial(children.output, command)
            source = _Configured(
                name, function, command.arguments, durable=name in options.durable
            )
            _add(found, source)
    configured = {name for name, _ in (*options.follow, *options.exec)}
    for name in options.durable:
        if name not in configured:
            raise OptionError(
                "durable",
                f"there is no {name!r} in follow or exec; for a source in code say"
                " durable=True there",
            )
    return found


@contextmanager
def _told_as_option(option: str, name: str, value: object) -> Generator[None]:
    try:
        yield
    except ValueError as error:
        raise OptionError(option, f"{name}={value}: {error}") from None


def _add(found: dict[str, Source], source: Source) -> None:
    if source.name in found:
        raise ValueError(f"there is a source {source.name!r} already")
    found[source.name] = source
