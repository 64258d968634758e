"""The certificates of the runs over TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.peer import Job

__all__ = ["client_context", "make_certificate", "server_context"]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write `server.pem`, certificate and key, and `ca.pem`, its authority's."""
    import trustme  # noqa: PLC0415 - of the extra bench

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    server, ca = folder / "server.pem", folder / "ca.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(server))
    authority.cert_pem.write_to_path(str(ca))
    return server, ca


def server_context(pem: Path) -> ssl.SSLContext:
    """Return what a raw server speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def client_context(job: Job) -> ssl.SSLContext | None:
    """Return what a client speaks TLS with, if the server said so."""
    ca = job.server.extra.get("ca")
    return None if ca is None else ssl.create_default_context(cafile=ca)
