"""TLS for clients (SPEC.md §2)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ackline.proto.limits import ALPN
from ackline.server.options import OptionError

if TYPE_CHECKING:
    from ackline.server.options import Options

__all__ = ["server_context"]


def server_context(options: Options) -> ssl.SSLContext | None:
    """Return what connections are accepted with; None without a certificate.

    Raises:
        OptionError: certificate or key cannot be used.
    """
    if options.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    for name in ("tls_cert", "tls_key"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise OptionError(name, f"there is no file {path}")
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key, password=_none)
    except ssl.SSLError as error:
        raise OptionError(
            "tls_cert",
            f"{options.tls_cert} and its key cannot be used: {error.reason or error};"
            " both must be PEM, belong together and have no password",
        ) from None
    except OSError as error:
        raise OptionError("tls_cert", f"{error.filename}: {error.strerror}") from None
    return context


def _none() -> str:
    """Answer OpenSSL, which would ask the terminal for a password."""
    return ""
