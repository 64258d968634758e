"""Options from a TOML file, the environment and flags.

Every option of `Options` has the same name in all three: `run_grace` in the file,
`ACKLINE_RUN_GRACE` in the environment, `--run-grace` as a flag. A flag wins over the
environment, that over the file, and that over the default. Those that are pairs are a
table of the file, a line each in the environment, and a flag each; names are a list
there.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ackline.aio import parse_duration, parse_size
from ackline.server.addresses import Address
from ackline.server.options import OptionError, Options, described

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["flag_of", "load_options", "parse_address", "variable_of"]

_OFF = frozenset({"off", "none", ""})


def variable_of(option: str) -> str:
    """Return the environment variable of an option."""
    return f"ACKLINE_{option.upper()}"


def flag_of(option: str) -> str:
    """Return the command-line flag of an option."""
    return f"--{option.replace('_', '-')}"


def load_options(
    *,
    flags: Mapping[str, str | list[str] | None],
    environment: Mapping[str, str],
    file: Path | None,
) -> Options:
    """Return the options as chosen.

    Args:
        flags: by option name; None where a flag was not given.
        environment: of the process; other variables are ignored.
        file: TOML with option names at the top level, or None.

    Raises:
        OptionError: a value is not legal, or the file cannot be read or names an
            option that does not exist.
    """
    chosen: dict[str, object] = {}
    known = [name for name, _ in described()]
    if file is not None:
        chosen.update(_from_file(file, known))
    for name in known:
        text = environment.get(variable_of(name))
        if text is not None:
            chosen[name] = _parsed(variable_of(name), name, text)
        flag = flags.get(name)
        if flag is not None:
            chosen[name] = _parsed(flag_of(name), name, flag)
    return Options(**chosen)  # type: ignore[arg-type]


def parse_address(text: str) -> Address:
    """Return the address in HOST:PORT or [HOST]:PORT.

    Raises:
        ValueError: it is not one.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:7171")
    return Address(host, int(port))


def _from_file(file: Path, known: list[str]) -> dict[str, object]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError("config", f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError("config", f"{file} is not TOML: {error}") from None
    for name in content:
        if name not in known:
            raise OptionError(
                name,
                f"{file} names it, but it does not exist; see --help"
                if name.replace("-", "_") not in known
                else f"in {file} it is written {name.replace('-', '_')}",
            )
    return {
        name: _parsed(f"{name} in {file}", name, value)
        for name, value in content.items()
    }


def _parsed(where: str, name: str, value: object) -> object:
    """Return a value of the option's own type.

    Raises:
        OptionError: it cannot be one.
    """
    default = Options.__dataclass_fields__[name].default
    try:
        if name in ("durable", "allow_anonymous"):
            return _names(value)
        if default == ():
            return _pairs(value, Path if name == "follow" else str)
        return _PARSERS[type(default)](str(value), name)
    except ValueError as error:
        raise OptionError(where, str(error)) from None


def _pairs(
    value: object, kind: Callable[[str], object]
) -> tuple[tuple[str, object], ...]:
    """Return the pairs of a table, of flags, or of lines."""
    if isinstance(value, dict):
        table = cast("dict[str, object]", value)
        pairs = [(name, _text(each)) for name, each in table.items()]
    elif isinstance(value, list):
        pairs = [_pair(str(each)) for each in cast("list[object]", value)]
    else:
        pairs = [_pair(line) for line in str(value).splitlines() if line.strip()]
    return tuple((name, kind(each)) for name, each in pairs)


def _names(value: object) -> tuple[str, ...]:
    """Return the names of a list or of lines."""
    if isinstance(value, list):
        return tuple(_text(each) for each in cast("list[object]", value))
    return tuple(line.strip() for line in _text(value).splitlines() if line.strip())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text in quotes")
    return value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _duration(text: str) -> float:
    return math.inf if text.lower() == "never" else parse_duration(text)


def _address(text: str, name: str) -> Address | None:
    if name == "metrics" and text.lower() in _OFF:
        return None
    return parse_address(text)


_PARSERS: Mapping[type, Callable[[str, str], object]] = {
    Address: _address,
    type(Path()): lambda text, _name: Path(text),
    type(None): lambda text, _name: Path(text) if text else None,
    str: lambda text, _name: text,
    int: lambda text, _name: parse_size(text),
    float: lambda text, _name: _duration(text),
}
