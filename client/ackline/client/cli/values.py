"""Values on the command line."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ackline.client.subscriptions import StartAt
    from ackline.proto.values import Value

__all__ = ["chunk_size", "key_value", "start_at"]

WORDS: dict[str, StartAt] = {"first": "first", "last": "last", "next": "next"}
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
