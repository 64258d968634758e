"""Who a client is: the one place where that is decided (SPEC.md §7)."""

from __future__ import annotations

__all__ = ["ANONYMOUS", "CERTIFICATE", "authenticate"]

ANONYMOUS = "anonymous"
"""The identity of a client that presents nothing."""

CERTIFICATE = "certificate"
"""The scheme of a client whose TLS certificate was verified; the credential is the name
in it. A client cannot say it in HELLO."""


def authenticate(scheme: str, credential: bytes, peer: str) -> str | None:
    """Return the name the server knows a client by, or None to refuse it.

    Args:
        scheme: as HELLO says, or `CERTIFICATE`.
        credential: the secret that belongs to the scheme.
        peer: address of the client, for policies that look at it.
    """
    del peer
    if scheme == CERTIFICATE:
        return credential.decode()
    return ANONYMOUS if not scheme and not credential else None
