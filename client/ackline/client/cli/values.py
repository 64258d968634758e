"""Values on the command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
from datetime import datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

from ackline.aio import parse_duration, parse_size
from ackline.proto.errors import UsageError
from ackline.proto.resource import ResourceKind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ackline.client.subscriptions import StartAt
    from ackline.proto.values import Value

__all__ = [
    "age",
    "count",
    "key_value",
    "log_name",
    "metadata_texts",
    "open_file",
    "policy",
    "printable",
    "seconds",
    "size",
    "size_limit",
    "start_at",
]

WORDS: dict[str, StartAt] = {"first": "first", "last": "last", "next": "next"}
MAX_COUNT = 2**63 - 1
MAX_SECONDS = 1e9
OFF = "off"
KINDS = frozenset(kind.value for kind in ResourceKind)
AGO = re.compile(r"[0-9.]+[smhdw]")


def size(text: str) -> int:
    """Return the bytes of `4194304`, `4096K` or `4MiB`."""
    try:
        number = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if number > MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is more than any file has")
    return number


def key_value(text: str) -> tuple[str, Value]:
    """Return name and value of `NAME=VALUE`.

    A value that is a JSON number, true, false, null or a string in quotes is that;
    anything else is text.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        parsed: Any = json.loads(value)
    except ValueError:
        return name, value
    if parsed is None or isinstance(parsed, (bool, int, float, str)):
        return name, parsed
    return name, value


def metadata_texts(metadata: Mapping[str, Value]) -> list[str]:
    """Return `NAME=VALUE` of each, so that `key_value` reads the same again.

    Only bytes, which it cannot give, are shown as text in hexadecimal.
    """
    texts: list[str] = []
    for name, value in metadata.items():
        shown = value.hex() if isinstance(value, bytes) else value
        if not isinstance(shown, str) or key_value(f"x={shown}")[1] != shown:
            shown = json.dumps(shown, ensure_ascii=False)
        texts.append(printable(f"{name}={shown}"))
    return texts


def printable(text: str) -> str:
    """Return a text of somebody else as one line that does nothing to a terminal."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def start_at(text: str) -> StartAt:
    """Return the start of a subscription.

    That is first, last, next, -N, an event id, a time, or how long ago.
    """
    if text in WORDS:
        return WORDS[text]
    if AGO.fullmatch(text):
        return datetime.now().astimezone() - timedelta(seconds=seconds(text))
    try:
        number = int(text)
    except ValueError:
        pass
    else:
        return ("last", -number) if number < 0 else number
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of first, last, next, -N, an event id, a time such as"
            " 2026-01-31T14:30, or how long ago, such as 10m"
        ) from None


def age(text: str) -> float | None:
    """Return the seconds of `7d`, `12h`, `30m` or `45s`, or None for `off`."""
    if text == OFF:
        return None
    return seconds(text)


def size_limit(text: str) -> int | None:
    """Return the bytes of a size such as `1GB` or `500M`, or None for `off`."""
    if text == OFF:
        return None
    return size(text)


def log_name(text: str) -> str:
    """Return the name of a log, given with or without `logs/`."""
    kind = text.partition("/")[0]
    if kind != "logs" and kind in KINDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no log; write logs/{text} if that is its name"
        )
    return text.removeprefix("logs/")


def policy(text: str) -> tuple[str, Value]:
    """Return name and value of `latest`, `drop-oldest:100`, `sample:0.5`, `merge:KIND`.

    What else it may be, and whether the value will do, is known to the client.
    """
    name, colon, value = text.partition(":")
    if not colon:
        return name, None
    match name:
        case "drop-oldest":
            return name, count(value)
        case "sample":
            return name, seconds(value)
        case _:
            return name, value


def count(text: str) -> int:
    """Return a number of events, or a version: `0` or more."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return number


def seconds(text: str) -> float:
    """Return the seconds of `5`, `0.5`, `90s`, `15m`, `12h`, `7d` or `2w`."""
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value >= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than any wait")
    return value


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file; a pipe would have us wait for somebody to write to it.

    Raises:
        UsageError: it is something else.
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is not a regular file")
    return os.fdopen(fd, "rb")
