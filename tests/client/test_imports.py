"""What importing the client brings in: each start of the command pays for it."""

from __future__ import annotations

import subprocess
import sys

UNWANTED = {
    "ackline.proto.server_connection",
    "ackline.proto.server_session",
    "ackline.server",
    "argparse",  # the command's own, not the library's
    "blake3",
    "crcmod",
    "importlib.metadata",
    "prometheus_client",
    "sqlite3",
    "uvloop",
}


def test_client_imports_nothing_it_does_not_need() -> None:
    listing = "import ackline.client, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", listing], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "ackline.client" in modules
    assert UNWANTED.isdisjoint(modules)
