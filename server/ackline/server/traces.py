"""The caller's trace in OPEN (SPEC.md §9): W3C Trace Context, `traceparent`."""

from __future__ import annotations

import re

__all__ = ["trace_id_of"]

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def trace_id_of(traceparent: str) -> str:
    """Return the trace id, 32 hexadecimal digits, or nothing if there is none.

    As the standard asks, what is malformed is as if it were not there.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found[1] if found else ""
