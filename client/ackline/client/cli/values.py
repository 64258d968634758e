"""Values on the command line."""

from __future__ import annotations

import argparse
import json
import os
import stat
from typing import IO, TYPE_CHECKING, Any

from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client.subscriptions import StartAt
    from ackline.proto.values import Value

__all__ = ["chunk_size", "count", "key_value", "open_file", "seconds", "start_at"]

WORDS: dict[str, StartAt] = {"first": "first", "last": "last", "next": "next"}
MAX_COUNT = 2**63 - 1
FACTORS = {"K": 2**10, "M": 2**20, "G": 2**30}


def chunk_size(text: str) -> int:
    """Return a size such as `4194304`, `4096K` or `4M`."""
    factor = FACTORS.get(text[-1:].upper(), 1)
    number = text[:-1] if factor > 1 else text
    try:
        return int(number) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 4096, 64K or 4M"
        ) from None


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


def start_at(text: str) -> StartAt:
    """Return the start of a subscription: first, last, next, -N or an event id."""
    if text in WORDS:
        return WORDS[text]
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of first, last, next, -N or an event id"
        ) from None
    return ("last", -number) if number < 0 else number


def count(text: str) -> int:
    """Return a number of bytes or events, or a position: `0` or more."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return number


def seconds(text: str) -> float:
    """Return a number of seconds such as `5` or `0.5`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
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
