"""Where a server is: `ackline://HOST:PORT` (SPEC.md §2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ackline.proto.errors import UsageError

__all__ = ["DEFAULT_PORT", "DEFAULT_URL", "Address", "parse_url"]

DEFAULT_PORT: Final = 7171
DEFAULT_URL: Final = f"ackline://127.0.0.1:{DEFAULT_PORT}"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's host and port; `str()` gives the URL."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ackline://{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Return the address in a URL; the port may be left out.

    Raises:
        UsageError: it is not the URL of a server; the text says what to write.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not a URL: {error}") from None
    fault = _fault(parts)
    if fault:
        raise UsageError(
            f"{url!r} is not the URL of a server: {fault}; write it like {DEFAULT_URL}"
        )
    assert parts.hostname is not None
    return Address(parts.hostname, DEFAULT_PORT if port is None else port)


def _fault(parts: SplitResult) -> str | None:
    if parts.scheme == "acklines":
        return "this version does not speak TLS"
    if parts.scheme != "ackline" or not parts.netloc:
        return "it does not begin with ackline://"
    if not parts.hostname:
        return "the host is missing"
    if parts.port == 0:
        return "port 0 is none"
    if parts.username is not None or parts.password is not None:
        return "a token is given apart from it"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "nothing may follow the port"
    return None
