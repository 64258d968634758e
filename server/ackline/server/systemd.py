"""What systemd is told (sd_notify): ready, stopping, and that we live.

A message is a datagram to the socket that NOTIFY_SOCKET names; where nobody asks for
it, nothing is sent. `Type=notify` and `WatchdogSec=` in the unit ask for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["notify", "watchdog"]

log = logging.getLogger(__name__)

MICROSECONDS = 1e-6


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd, if it wants to know; return whether it was told.

    Args:
        state: lines such as `READY=1`.
        environment: of the process.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address[0] == "@":  # of Linux, without a file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            sending.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd is not told %s: %s", state, error)
        return False
    return True


async def watchdog(environment: Mapping[str, str] = os.environ) -> None:
    """Say that the event loop turns, twice in the time systemd gives us, for ever.

    Returns at once if it does not watch this process.
    """
    wanted = environment.get("WATCHDOG_USEC", "")
    owner = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not wanted.isdecimal() or not int(wanted) or owner != str(os.getpid()):
        return
    while True:
        if not notify("WATCHDOG=1", environment):
            return
        await asyncio.sleep(int(wanted) * MICROSECONDS / 2)
