"""TLS for clients (SPEC.md §2)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ackline.aio import CertificateError, harden, load_authorities, load_identity
from ackline.server.options import OptionError

if TYPE_CHECKING:
    from ackline.server.options import Options

__all__ = ["handshake_fault", "server_context"]


def server_context(options: Options) -> ssl.SSLContext | None:
    """Return what connections are accepted with; None without a certificate.

    Raises:
        OptionError: a file cannot be used.
    """
    if options.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context)
    # No session is resumed: it would outlive the certificate that it began with.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        load_identity(context, options.tls_cert, options.tls_key)
    except CertificateError as fault:
        option = "tls_key" if fault.of_key else "tls_cert"
        raise OptionError(option, str(fault)) from None
    if options.tls_client_ca is not None:
        try:
            load_authorities(context, options.tls_client_ca)
        except CertificateError as fault:
            raise OptionError("tls_client_ca", str(fault)) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


SEEN = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate: it needs"
    " one from an authority in tls_client_ca",
    "UNKNOWN_CA": "the client does not trust this server's certificate: it needs the"
    " authority (--ca)",
    "CERTIFICATE_EXPIRED": "the client says that this server's certificate has expired:"
    " renew it, then send SIGHUP",
    "BAD_CERTIFICATE": "the client does not accept this server's certificate: it may be"
    " for another host",
    "UNSUPPORTED_PROTOCOL": "the client speaks no TLS 1.2 or later",
    "NO_SHARED_CIPHER": "the client has no cipher in common: it needs TLS 1.3, or 1.2"
    " with ECDHE and AES-GCM or ChaCha20",
}
"""What failed and what to do, by the end of OpenSSL's reason."""


def handshake_fault(error: OSError) -> str:
    """Return why a handshake failed as this side sees it, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the client's certificate is not accepted: {error.verify_message};"
            " tls_client_ca says whose are"
        )
    reason = getattr(error, "reason", None) or str(error)
    for end, advice in SEEN.items():
        if reason.endswith(end):
            return advice
    return reason
