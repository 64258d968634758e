"""Commands that clients may run: fixed but for the places of their parameters."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.messages import Value

__all__ = ["Command"]

_PLACE = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}", re.ASCII)
"""`{{name}}`, which stands for `{name}` itself, or a place."""

_SHELLS = frozenset({"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"})

_SCRIPT_FOLLOWS = re.compile(r"-[A-Za-z]*c")


class Command:
    """A program and its arguments, with places for what the client gives.

    It is split as a shell splits words, once, and no shell ever sees it: `{name}` in an
    argument is a place for the client's parameter `name`, and whatever the client
    sends, it stays within that one argument. `{{name}}` is no place but `{name}`.

    Args:
        text: such as `make {target}`.

    Raises:
        ValueError: it is no command, or the program is not there.

    Attributes:
        text: as given.
        parameters: the names of the places, in their order.
    """

    def __init__(self, text: str) -> None:
        try:
            self._words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text!r} cannot be split into words: {error}") from None
        if not self._words:
            raise ValueError("there is no command")
        program = self._words[0]
        if _PLACE.search(program):
            raise ValueError(f"{text!r}: the client cannot choose the program")
        if shutil.which(program) is None:
            raise ValueError(f"there is no program {program!r} that can be run here")
        self._refuse_scripts()
        self.text = text
        self.parameters = list(
            dict.fromkeys(
                match[2]
                for word in self._words
                for match in _PLACE.finditer(word)
                if match[2]
            )
        )

    def arguments(self, values: Mapping[str, Value]) -> list[str]:
        """Return the program and its arguments, with the client's values in place.

        Raises:
            ValueError: a value is missing, unknown, or cannot be passed safely.
        """
        for name in values:
            if name not in self.parameters:
                raise ValueError(f"there is no parameter {name!r}; {self._takes()}")
        for name in self.parameters:
            if name not in values:
                raise ValueError(f"the parameter {name!r} is missing; {self._takes()}")
        texts = {name: _text(name, value) for name, value in values.items()}
        filled = [
            _PLACE.sub(
                lambda place: texts[place[2]] if place[2] else f"{{{place[1]}}}", word
            )
            for word in self._words
        ]
        for index, (word, argument) in enumerate(zip(self._words, filled, strict=True)):
            # What a client sends must not become an option that nobody offered it.
            place = _PLACE.match(word)
            chosen = place is not None and place[2]
            protected = "--" in self._words[:index]
            if chosen and argument.startswith("-") and not protected:
                raise ValueError(f"the parameter {chosen!r} must not begin with '-'")
        return filled

    def _refuse_scripts(self) -> None:
        """Refuse what would hand a shell the client's text as a part of its script."""
        for index, (option, word) in enumerate(pairwise(self._words)):
            if (
                _SCRIPT_FOLLOWS.fullmatch(option)
                and any(Path(each).name in _SHELLS for each in self._words[:index])
                and any(place[2] for place in _PLACE.finditer(word))
            ):
                raise ValueError(
                    f"in {word!r} a shell would run what the client sends: write"
                    " sh -c '… \"$1\" …' sh {name}"
                )

    def _takes(self) -> str:
        return f"it takes {', '.join(self.parameters) or 'none'}"


def _text(name: str, value: Value) -> str:
    """Return a parameter as one argument.

    Raises:
        ValueError: it cannot be one, or not without a guess.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        # 1.10 on a command line would have come as 1.1.
        raise ValueError(
            f"the parameter {name!r} came as {value!r}: send it as text"
            f" (--param '{name}=\"…\"')"
        )
    if "\0" in value:
        raise ValueError(f"the parameter {name!r} must not contain a NUL")
    return value
