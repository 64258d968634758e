"""Where a server is: `ackline://HOST:PORT`, `acklines://` with TLS (SPEC.md §2)."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from ackline.proto.errors import UsageError

__all__ = ["DEFAULT_PORT", "DEFAULT_URL", "Address", "parse_url"]

SCHEME: Final = "ackline"
TLS_SCHEME: Final = "acklines"
DEFAULT_PORT: Final = 7171
DEFAULT_URL: Final = f"ackline://127.0.0.1:{DEFAULT_PORT}"


class Address(Struct, frozen=True):
    """A server's host and port, and whether to speak TLS; `str()` gives the URL."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS_SCHEME if self.tls else SCHEME}://{host}:{self.port}"


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
    port = DEFAULT_PORT if port is None else port
    return Address(parts.hostname, port, tls=parts.scheme == TLS_SCHEME)


def _fault(parts: SplitResult) -> str | None:
    if parts.scheme not in (SCHEME, TLS_SCHEME) or not parts.netloc:
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
