"""Servers whose file system becomes read-only while they work on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.feed import EventBuffer
from ackline.proto.messages import OutcomeKind, Start
from ackline.server import commits, publishes, uploads
from tests.server.peer import Peer
from tests.server.test_failing_disks import told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.conftest import Start as Starter

CHUNK = 64 * 2**10


def run(*command: str) -> bool:
    try:
        done = subprocess.run(command, check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (uploads, publishes, commits):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)


async def test_what_needs_a_new_file_is_refused_until_there_can_be_one(
    start: Starter, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The folder of objects is a mount of its own: the kernel makes none read-only that
    has files open for writing."""
    data, lines = os.urandom(3 * CHUNK), [os.urandom(1000) for _ in range(300)]
    objects = tmp_path / "data" / "objects"
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("here", data).ended()
    if not run("mount", "--bind", str(objects), str(objects)):
        pytest.skip("this user may not mount a file system")
    request.addfinalizer(lambda: run("umount", "--lazy", str(objects)))
    async with start() as serving, Peer(serving.port) as peer:
        assert run("mount", "-o", "remount,ro,bind", str(objects))
        with pytest.raises(OSError, match="Read-only"):
            (objects / "x").touch()
        refused = (await peer.upload("new", data).refused()).message
        assert (refused.code, refused.retry) == (Code.STORAGE_FAILED, True)
        # Nothing that needs no new file there is held up.
        down = peer.fetch("here")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == data
        outcome = await peer.publish("log", lines).ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert run("mount", "-o", "remount,rw,bind", str(objects))
        upload = peer.upload("new", data, chunk_size=CHUNK)
        assert (await upload.ended()).outcome is OutcomeKind.COMPLETED


class Disk:
    """An ext4 file system in a file, that an error makes read-only."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image, self.folder = image, folder

    def make(self) -> bool:
        self.folder.mkdir()
        with self.image.open("wb") as image:
            image.truncate(64 * 2**20)
        return run("mkfs.ext4", "-q", str(self.image)) and self.mount()

    def mount(self) -> bool:
        options = "loop,errors=remount-ro"
        return run("mount", "-o", options, str(self.image), str(self.folder))

    def fail(self) -> bool:
        """Have the kernel find an error in it."""
        device = Path(self._device()).name
        try:
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
        except OSError:
            return False
        return True

    def _device(self) -> str:
        for line in Path("/proc/mounts").read_text().splitlines():
            device, folder, *_rest = line.split()
            if folder == str(self.folder):
                return device
        raise AssertionError("it is not mounted")

    def unmount(self) -> bool:
        return run("umount", str(self.folder))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "image", tmp_path / "data")
    if not made.make():
        pytest.skip("this user may not mount an ext4 file system")
    yield made
    run("umount", "--lazy", str(made.folder))


async def test_what_was_acknowledged_outlives_a_disk_that_gave_up(
    start: Starter, disk: Disk
) -> None:
    data, lines = os.urandom(4 * CHUNK), [os.urandom(1000) for _ in range(2000)]
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("here", data).ended()
        half = peer.upload(
            "half", data[: 2 * CHUNK], chunk_size=CHUNK, key="h", size=None, end=False
        )
        await half.stored(2)
        publisher = peer.publish("log", lines[:50], key="p", end=False)
        await publisher.stored(50)
        if not disk.fail():
            pytest.skip("this kernel cannot be asked for an error")
        assert isinstance(publisher.stream.sender, EventSender)
        feed = publisher.stream.sender.feed
        assert isinstance(feed, EventBuffer)
        for line in lines[50:]:
            feed.append(line)
        await told(publisher)
        acknowledged = publisher.stream.sender.stored
    assert disk.unmount()
    run("e2fsck", "-fy", str(disk.image))
    assert disk.mount()
    async with start() as serving, Peer(serving.port) as peer:
        down = peer.fetch("here")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == data
        reader = peer.subscribe("logs/log", Start.ID, 0)
        assert [e[2] for e in await reader.events(acknowledged)] == lines[:acknowledged]
