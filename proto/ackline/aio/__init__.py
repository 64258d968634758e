"""The asyncio pump between a socket and a connection core, for server and client."""

from __future__ import annotations

from ackline.aio.certificates import (
    CertificateError,
    harden,
    load_authorities,
    load_identity,
    subject,
)
from ackline.aio.descriptors import hold_standard_files
from ackline.aio.filesystems import in_memory
from ackline.aio.protocol import PumpProtocol
from ackline.aio.pump import Pump, shared_scratch
from ackline.aio.tls import TlsLayer
from ackline.aio.units import parse_duration, parse_size

__all__ = [
    "CertificateError",
    "Pump",
    "PumpProtocol",
    "TlsLayer",
    "harden",
    "hold_standard_files",
    "in_memory",
    "load_authorities",
    "load_identity",
    "parse_duration",
    "parse_size",
    "shared_scratch",
    "subject",
]
