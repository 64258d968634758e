"""TLS to a server (SPEC.md §2): its certificate is verified unless a caller decides."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ackline.proto.errors import UsageError
from ackline.proto.limits import ALPN

if TYPE_CHECKING:
    import os

__all__ = ["client_context", "tls_fault"]


def client_context(ca: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """Return what a client uses by default: TLS 1.2 or later, verified.

    Args:
        ca: PEM file of the authorities to trust; None for those of the system.

    Raises:
        UsageError: the file cannot be read or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UsageError(f"{ca} holds no certificate in PEM: {error.reason}") from None
    except OSError as error:
        raise UsageError(f"{ca}: {error.strerror}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    return context


def tls_fault(error: OSError) -> str | None:
    """Return why TLS failed, and what to do; None if something else failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {error.verify_message}; an authority of"
            " your own is named with --ca FILE, or `tls=client_context(FILE)`"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}; does the server speak TLS?"
    return None
