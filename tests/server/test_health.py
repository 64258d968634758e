"""What probes are told, and systemd."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
from typing import TYPE_CHECKING

from ackline.server import Address
from ackline.server.stores.records import Records
from ackline.server.systemd import notify, watchdog
from tests.server.test_metrics import get

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.server.conftest import Start

ANYWHERE = Address("127.0.0.1", 0)


async def test_a_server_that_drains_lives_and_is_not_ready(start: Start) -> None:
    async with start(metrics=ANYWHERE) as serving:
        assert await get(serving, "/healthz") == (200, "ok\n")
        assert await get(serving, "/readyz") == (200, "ready\n")
        await serving.drain(0.1)
        assert await get(serving, "/healthz") == (200, "ok\n")
        status, text = await get(serving, "/readyz")
    assert (status, text) == (503, "draining: the server is about to stop\n")


async def test_a_full_disk_is_a_reason_not_to_be_ready(start: Start) -> None:
    async with start(metrics=ANYWHERE, disk_reserve=2**49) as serving:
        status, text = await get(serving, "/readyz")
    assert status == 503
    assert text.startswith("disk: ")
    assert "disk_reserve" in text


async def test_a_database_that_fails_is_a_reason_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Records, *, synced: bool) -> sqlite3.Connection:
        raise sqlite3.OperationalError("disk I/O error")

    async with start(metrics=ANYWHERE) as serving:
        with monkeypatch.context() as patched:
            patched.setattr(Records, "_connected", broken)
            status, text = await get(serving, "/readyz")
        assert status == 503
        assert text.startswith("store: ")
        assert (await get(serving, "/readyz"))[0] == 200


async def test_systemd_is_told_that_we_are_ready_and_live(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.setblocking(False)
        systemd.bind(str(tmp_path / "notify"))
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000"}
        assert notify("READY=1", told)
        assert systemd.recv(100) == b"READY=1"
        living = asyncio.create_task(watchdog(told))
        loop = asyncio.get_running_loop()
        for _ in range(3):
            assert await loop.sock_recv(systemd, 100) == b"WATCHDOG=1"
        living.cancel()


async def test_a_socket_without_a_file_is_told_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0ackline-test-{os.getpid()}")
        assert notify("READY=1", {"NOTIFY_SOCKET": f"@ackline-test-{os.getpid()}"})
        assert systemd.recv(100) == b"READY=1"


async def test_nobody_is_told_who_does_not_ask(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "vsock:2:1234"})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    await watchdog({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    await watchdog({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
