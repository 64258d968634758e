"""Bearer tokens: given, asked for at each connection, or read from a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from pathlib import Path
from typing import TypeAlias

from ackline.proto.errors import UsageError

__all__ = ["Token", "current", "token_file"]

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A token, or what returns the one to use now: it is called for each connection."""

MAX_TOKEN = 4096
"""Bytes; longer ones do not fit a HELLO."""


async def current(token: Token | None) -> bytes:
    """Return the token to present; empty for none.

    Raises:
        UsageError: it is empty, too long, or no text.
        ConnectionError: the function that returns it failed.
    """
    if token is None:
        return b""
    try:
        text = token if isinstance(token, str) else token()
        data = (await text if isawaitable(text) else text).encode()
    except UsageError:
        raise
    except Exception as error:  # of the caller's own function
        raise ConnectionError(f"there is no token: {error!r}") from error
    if not 0 < len(data) <= MAX_TOKEN:
        raise UsageError(f"the token has {len(data)} bytes; it has 1 to {MAX_TOKEN}")
    return data


def token_file(path: str) -> Callable[[], str]:
    """Return what reads a token from the first line of a file, each time anew.

    Raises:
        UsageError: when called: the file cannot be read, or has none.
    """

    def read() -> str:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no text"
            raise UsageError(f"the token cannot be read: {path}: {why}") from None
        if not lines or not lines[0].strip():
            raise UsageError(f"{path} has no token in its first line")
        return lines[0].strip()

    return read
