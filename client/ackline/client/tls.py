"""TLS to a server (SPEC.md §2): its certificate is verified unless a caller decides."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.aio import CertificateError, harden, load_authorities, load_identity
from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    import os

__all__ = ["client_context", "plain_fault", "tls_fault"]

UNTRUSTED = {
    9: "it is not valid yet: compare the clocks of both machines",
    10: "it has expired: whoever runs the server has to renew it",
    62: "it is for another host: use a name that is in it",
    64: "it is for another address: use a name or address that is in it",
}
"""What to do about the faults of a certificate (OpenSSL's verify codes) that another
authority would not mend."""

NOT_TLS = (
    "the server does not speak TLS on this port: use ackline://, which is not"
    " encrypted, or start the server with --tls-cert"
)

SAID = {
    "CERTIFICATE_REQUIRED": "the server wants a certificate of the client:"
    " --cert FILE --cert-key FILE, or `tls=client_context(cert=FILE, key=FILE)`",
    "UNKNOWN_CA": "the server does not trust this client's certificate: it is not from"
    " an authority in the server's --tls-client-ca",
    "CERTIFICATE_EXPIRED": "this client's certificate has expired: renew it",
    "CERTIFICATE_REVOKED": "this client's certificate was revoked",
    "BAD_CERTIFICATE": "the server cannot use this client's certificate",
    "UNSUPPORTED_CERTIFICATE": "this client's certificate is not for clients (extended"
    " key usage)",
    "PROTOCOL_VERSION": "the server speaks no TLS 1.2 or later",
    "UNSUPPORTED_PROTOCOL": "the server speaks no TLS 1.2 or later",
    "HANDSHAKE_FAILURE": "the server does not accept this handshake: it may want a"
    " certificate of the client (--cert)",
    "WRONG_VERSION_NUMBER": NOT_TLS,
    "RECORD_LAYER_FAILURE": NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": NOT_TLS,
}
"""What to do, by the end of OpenSSL's reason; `_ALERT_` before it is the server's."""


def client_context(
    ca: str | os.PathLike[str] | None = None,
    *,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
) -> ssl.SSLContext:
    """Return what a client uses by default: TLS 1.2 or later, verified.

    Args:
        ca: PEM file of the authorities to trust; None for those of the system.
        cert: PEM file of the client's own certificate and chain, for a server that
            wants one.
        key: PEM file of its key; None if `cert` holds that too.

    Raises:
        UsageError: a file cannot be used; the text says why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    harden(context)
    try:
        if ca is None:
            context.load_default_certs()
        else:
            load_authorities(context, Path(ca))
        if cert is not None:
            load_identity(context, Path(cert), None if key is None else Path(key))
        elif key is not None:
            raise UsageError(f"{key}: a key is of no use without its certificate")
    except CertificateError as fault:
        raise UsageError(str(fault)) from None
    return context


def tls_fault(error: BaseException | None) -> str | None:
    """Return why TLS failed, and what to do; None if something else failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = UNTRUSTED.get(error.verify_code)
        advice = known or (
            "an authority of your own is named with --ca FILE, or"
            " `tls=client_context(FILE)`"
        )
        return f"its certificate is not trusted: {error.verify_message}; {advice}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        for end, advice in SAID.items():
            if reason.endswith(end):
                return advice
        return f"TLS failed: {reason}"
    return None


def plain_fault(head: bytes) -> str | None:
    """Return what to do if the first bytes of an answer are an alert of TLS."""
    if head.startswith(b"\x15\x03"):
        return "the server speaks TLS on this port: use acklines://"
    return None
