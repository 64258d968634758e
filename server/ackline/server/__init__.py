"""The Ackline server: asyncio TCP, stores, sources, sinks and metrics.

`Server` is what a program uses; `Options` is everything that can be chosen.
"""

from __future__ import annotations

from ackline.server.addresses import Address, ListenError
from ackline.server.authentication import Login
from ackline.server.emitter import BufferFull, Emitter
from ackline.server.events import Event
from ackline.server.identities import Identity, Quotas, parse_permissions
from ackline.server.options import OptionError, Options
from ackline.server.server import Server, Serving
from ackline.server.sinks import CommittedObject

__all__ = [
    "Address",
    "BufferFull",
    "CommittedObject",
    "Emitter",
    "Event",
    "Identity",
    "ListenError",
    "Login",
    "OptionError",
    "Options",
    "Quotas",
    "Server",
    "Serving",
    "parse_permissions",
]
