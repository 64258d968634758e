"""Each alert fires when its fault is there and resolves; no panel is empty."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.errors import Code
from ackline.server import Address, Server, commits, publishes, uploads
from ackline.server.stores import storage
from tests.monitoring.prometheus import MONITORING, Prometheus, hurried, prometheus
from tests.ports import free_port
from tests.server.conftest import options_for
from tests.server.identities import make_token, peer_with
from tests.server.peer import Peer
from tests.server.stores.support import FaultyFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from ackline.server import Serving

for program in ("prometheus", "promtool"):
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}", allow_module_level=True)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> FaultyFiles:
    """Return the file system of all servers of a test."""
    files = FaultyFiles()
    monkeypatch.setattr(storage, "Files", lambda: files)
    for module in (uploads, publishes, commits):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    return files


class Watched:
    """One server after the other at the address that Prometheus looks at."""

    def __init__(self, folder: Path, metrics: Address, watcher: Prometheus) -> None:
        self.watcher = watcher
        self.tokens = folder / "tokens.json"
        self.token = make_token(self.tokens, "ann")
        self._folder, self._metrics = folder, metrics

    @asynccontextmanager
    async def serving(self, **chosen: Any) -> AsyncGenerator[Serving]:
        server = Server()

        @server.source("flood")
        async def flood() -> AsyncGenerator[bytes]:
            while True:
                yield b"x" * 1000

        options = options_for(
            self._folder, metrics=self._metrics, tokens=self.tokens, **chosen
        )
        async with server.serve(options) as it:
            yield it

    async def connected(self, serving: Serving) -> Peer:
        return await peer_with(serving, self.token)

    async def fires(self, alert: str) -> None:
        await self.watcher.until(lambda firing: alert in firing)

    async def seen(self, expression: str) -> None:
        """Wait until Prometheus has a series: only then it sees an increase."""
        async with asyncio.timeout(50):
            while not await self.watcher.query(expression):
                await asyncio.sleep(0.1)

    async def resolved(self, alert: str) -> None:
        await self.watcher.until(lambda firing: alert not in firing)


@asynccontextmanager
async def watched(folder: Path) -> AsyncGenerator[Watched]:
    metrics = Address("127.0.0.1", free_port())
    async with prometheus(folder / "prometheus", str(metrics)) as watcher:
        yield Watched(folder, metrics, watcher)


@asynccontextmanager
async def again(work: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Repeat some work for the time of a block."""

    async def forever() -> None:
        while True:
            await work()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_promtool_finds_nothing_wrong() -> None:
    for what, name in (("rules", "ackline.rules.yml"), ("config", "prometheus.yml")):
        command = ["promtool", "check", what, str(MONITORING / name)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr


async def test_down_and_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    async with watched(tmp_path) as here:
        await here.fires("AcklineDown")
        disk = shutil.disk_usage(tmp_path)
        spare = disk.total // 20 + 2**28
        async with here.serving(disk_reserve=max(0, disk.free - spare)):
            await here.resolved("AcklineDown")
            await here.resolved("AcklineDiskNearlyFull")
            large = tmp_path / "large"
            with large.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 2**29)
            await here.fires("AcklineDiskNearlyFull")
            large.unlink()
            await here.resolved("AcklineDiskNearlyFull")


async def test_consumers_that_do_not_read(tmp_path: Path) -> None:
    async with watched(tmp_path) as here, here.serving() as serving:
        peer = await here.connected(serving)
        work = peer.subscribe("sources/flood")
        work.take = False
        await here.fires("AcklineConsumersStalled")
        work.cancel(work=True)
        await here.resolved("AcklineConsumersStalled")
        await peer.drop()


async def test_a_disk_that_is_slow_and_then_fails(
    tmp_path: Path, files: FaultyFiles
) -> None:
    async with watched(tmp_path) as here, here.serving() as serving:
        peer = await here.connected(serving)
        await here.seen("ackline_ack_latency_seconds_count")
        gate = files.gates["fdatasync"] = threading.Event()
        slow = peer.upload("slow", b"x" * 100_000)
        await asyncio.sleep(1.5)  # longer than the alert allows
        gate.set()
        del files.gates["fdatasync"]
        await slow.ended()
        await here.fires("AcklineAckLatencyHigh")
        await here.resolved("AcklineAckLatencyHigh")
        files.fail["fdatasync"] = errno.EIO
        failing = peer.upload("failing", b"x" * 100_000)
        await here.fires("AcklineFsyncErrors")
        files.fail.clear()
        await failing.ended()
        await here.resolved("AcklineFsyncErrors")
        await peer.drop()


async def test_a_disk_that_lost_what_was_acknowledged(tmp_path: Path) -> None:
    async with watched(tmp_path) as here:
        async with here.serving() as serving:
            peer = await here.connected(serving)
            up = peer.upload("a", b"x" * 100_000, end=False)
            await up.stored(1)
            await here.seen("ackline_position_lost_total == 0")
            await peer.drop()
        (data,) = (tmp_path / "data" / "objects").iterdir()
        data.write_bytes(bytes(data.stat().st_size))
        async with here.serving() as serving:
            peer.port = serving.port
            await peer.connect(scheme="bearer", credential=here.token.encode())
            assert (await up.broken()).code == Code.POSITION_LOST
            await here.fires("AcklinePositionLost")
            await here.resolved("AcklinePositionLost")
            await peer.drop()


async def test_logins_and_resumes_that_are_refused(tmp_path: Path) -> None:
    async with watched(tmp_path) as here, here.serving() as serving:

        async def guess() -> None:
            peer = await peer_with(serving, "ackline_" + "x" * 43, wait=False)
            assert (await peer.failed()).code == Code.UNAUTHENTICATED
            await peer.drop()

        async with again(guess):
            await here.fires("AcklineLoginsRefused")
        await here.resolved("AcklineLoginsRefused")
        peer = await here.connected(serving)
        first = peer.session.session
        await peer.drop()

        async def come_back_with_an_old_token() -> None:
            peer.session.session = first
            await peer.connect(scheme="bearer", credential=here.token.encode())
            await peer.drop()

        async with again(come_back_with_an_old_token):
            await here.fires("AcklineResumesFail")
        await here.resolved("AcklineResumesFail")


async def test_a_server_that_drains(tmp_path: Path) -> None:
    async with watched(tmp_path) as here:
        async with here.serving() as serving:
            peer = await here.connected(serving)
            draining = asyncio.create_task(serving.drain(60))
            await here.fires("AcklineDraining")
            await peer.drop()
            await draining
        await here.resolved("AcklineDraining")


def queries() -> list[str]:
    board = json.loads((MONITORING / "grafana" / "ackline.json").read_text())
    return [
        target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


async def test_no_panel_is_empty_under_load(tmp_path: Path) -> None:
    async with watched(tmp_path) as here, here.serving() as serving:
        peer = await here.connected(serving)

        async def load() -> None:
            await peer.upload("a", os.urandom(100_000)).ended()
            await peer.publish("log", [b"x"] * 10).ended()

        async with again(load):
            empty = [hurried(each.replace("$instance", ".+")) for each in queries()]
            assert len(empty) > 20
            async with asyncio.timeout(50):
                while empty:
                    found = [await here.watcher.query(each) for each in empty]
                    empty = [q for q, f in zip(empty, found, strict=True) if not f]
                    await asyncio.sleep(0.2)
        await peer.drop()
