"""Sizes and durations as people write them, the same in every option of either side."""

from __future__ import annotations

import re

__all__ = ["parse_duration", "parse_size"]

_SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"([0-9]+)\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE)

_DURATION_UNITS = {
    "": 1,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 604_800,
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([smhdw]?)")


def parse_size(text: str) -> int:
    """Return the bytes of `4194304`, `4096K`, `4M`, `4MB` or `4MiB`, all the same.

    Raises:
        ValueError: it is not a size; the text says what one looks like.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 4096, 64K or 4MiB")
    return int(match[1]) * _SIZE_UNITS[match[2].upper()]


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `1.5`, `90s`, `15m`, `12h`, `7d` or `2w`.

    Raises:
        ValueError: it is not a duration; the text says what one looks like.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a number of seconds, or a duration such as 90s, 12h or 7d"
        )
    return float(match[1]) * _DURATION_UNITS[match[2]]
