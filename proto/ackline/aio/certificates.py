"""Certificates, keys and authorities in PEM files, with errors that name the fault."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackline.proto.limits import ALPN

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CertificateError", "harden", "load_authorities", "load_identity", "subject"]

TLS_12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 what TLS 1.3 has too: forward secrecy and authenticated encryption."""

_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_KEY = "PRIVATE KEY-----"


class CertificateError(ValueError):
    """Report a file that cannot be used, and what to do.

    Attributes:
        of_key: whether it is the key, and not the certificate.
    """

    def __init__(self, text: str, *, of_key: bool = False) -> None:
        super().__init__(text)
        self.of_key = of_key


def harden(context: ssl.SSLContext) -> None:
    """Allow only what is modern, and the protocol's own ALPN (SPEC.md §2)."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_12_CIPHERS)
    # A handshake costs the one who accepts it more than the one who asks for it.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])


def load_identity(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Load a certificate with its chain, and its key.

    Args:
        context: takes them.
        cert: PEM file.
        key: PEM file; None if the key is in `cert` too.

    Raises:
        CertificateError: they cannot be used.
    """
    if _CERTIFICATE not in _read(cert):
        raise CertificateError(
            f"{cert} holds no certificate in PEM: it has no line {_CERTIFICATE}"
        )
    private = _read(key or cert, of_key=True)
    if _KEY not in private:
        where = f"{key} holds no private key in PEM"
        if key is None:
            where = f"{cert} holds a certificate and no key: say in which file that is"
        raise CertificateError(where, of_key=key is not None)
    if "ENCRYPTED" in private:
        raise CertificateError(
            f"the key in {key or cert} has a password: store it without one, readable"
            " only by its user (openssl pkey -in OLD -out NEW)",
            of_key=key is not None,
        )
    try:
        context.load_cert_chain(cert, key, password=str)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"the key in {key or cert} is not that of the certificate in {cert}"
        else:
            text = f"{cert} and its key cannot be used: {error.reason or 'damaged PEM'}"
        raise CertificateError(
            f"{text}; both must belong together", of_key=key is not None
        ) from None


def load_authorities(context: ssl.SSLContext, file: Path) -> None:
    """Trust the authorities in a PEM file, and no others.

    Raises:
        CertificateError: the file cannot be used.
    """
    if _CERTIFICATE not in _read(file):
        raise CertificateError(
            f"{file} holds no certificate in PEM: it has no line {_CERTIFICATE}"
        )
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise CertificateError(
            f"a certificate in {file} is damaged: {error.reason or 'bad PEM'}"
        ) from None


def subject(certificate: Mapping[str, Any]) -> str:
    """Return the common name of a verified certificate, else its first other name.

    Args:
        certificate: as `SSLObject.getpeercert()` returns it.
    """
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    for _kind, value in certificate.get("subjectAltName", ()):
        return str(value)
    return ""


def _read(file: Path, *, of_key: bool = False) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError as error:
        raise CertificateError(f"{file}: {error.strerror}", of_key=of_key) from None
