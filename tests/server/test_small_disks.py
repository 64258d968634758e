"""Servers on a disk of their own that is really full."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import Delete, OutcomeKind, Start
from ackline.server import commits, publishes, uploads
from tests.server.peer import Peer
from tests.server.test_failing_disks import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.conftest import Start as Starter

SIZE = 4 * 2**20
RESERVE = 2**20


def mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a data folder on a file system of a few MiB."""
    folder = tmp_path / "data"
    folder.mkdir()
    if not mount(folder, f"size={SIZE}"):
        pytest.skip("this user may not mount a file system")
    for module in (uploads, publishes, commits):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_holds_up_what_needs_room_until_there_is_some(
    start: Starter, disk: Path
) -> None:
    data, lines = os.urandom(2_500_000), [os.urandom(1000) for _ in range(2000)]
    async with start(disk_reserve=RESERVE) as serving, Peer(serving.port) as peer:
        await peer.upload("large", data).ended()
        await peer.publish("log", [b"first"]).ended()
        refused = (await peer.upload("other", data).refused()).message
        assert refused.code == Code.INSUFFICIENT_STORAGE
        unknown = peer.upload("unknown", data, size=None)
        publisher = peer.publish("log", lines, key="p")
        for work in (unknown, publisher):
            await told(work)
        # Nothing that needs no room is held up.
        down = peer.fetch("large")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == data
        # There will not be enough for both.
        unknown.cancel()
        assert (await unknown.ended()).outcome is OutcomeKind.CANCELLED
        await peer.request(FrameType.DELETE, Delete("objects/large"))
        assert (await publisher.ended()).outcome is OutcomeKind.COMPLETED
        reader = peer.subscribe("logs/log", Start.ID, 1)
        assert [each[2] for each in await reader.events(len(lines))] == lines
