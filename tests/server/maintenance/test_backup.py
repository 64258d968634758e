"""`ackline-server backup`: one moment of a server that goes on meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ackline.proto.frames import FrameType
from ackline.proto.messages import Delete, List, Listed, OutcomeKind
from ackline.server.maintenance.backup import MovingTarget, backup
from ackline.server.maintenance.reading import RECORDS, reading
from ackline.server.stores.files import Files
from tests.server.conftest import options_for
from tests.server.maintenance.conftest import LINES, fill, make_server
from tests.server.maintenance.test_check import checked, segments, told
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from ackline.server import Serving


def nothing(_size: int) -> None:
    pass


def copied(data: Path, target: Path, files: Files | None = None) -> Path:
    target.mkdir()
    backup(data, target, files or Files(), nothing)
    report = checked(target)
    assert (told(report), report.leftovers) == ("", [])
    return target


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Serving]:
    async with make_server().serve(options_for(folder, log_segment_bytes=2**16)) as it:
        yield it


async def test_a_copy_made_while_everything_goes_on_is_one_moment(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server, Peer(server.port) as peer:
        await fill(server.port)
        ended = asyncio.Event()

        async def publish() -> int:
            count = 0
            while not ended.is_set():
                await peer.publish("busy", LINES[:3]).ended()
                count += 3
            return count

        async def upload() -> int:
            """Upload, replace and delete: of each pair one is always there."""
            count = 0
            while not ended.is_set():
                count += 1
                await peer.upload(f"pair/{count}", os.urandom(70_000)).ended()
                before = Delete(f"objects/pair/{count - 1}")
                await peer.request(FrameType.DELETE, before)
                await peer.upload("replaced", os.urandom(999), existing=1).ended()
            return count

        await peer.upload("replaced", b"x").ended()
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publish())
            uploading = tasks.create_task(upload())
            for turn in range(3):
                target = tmp_path / f"copy{turn}"
                await asyncio.to_thread(copied, tmp_path / "data", target)
            ended.set()
        assert publishing.result()
        assert uploading.result()
    shutil.copytree(tmp_path / "copy2", tmp_path / "restored" / "data")
    async with serving(tmp_path / "restored") as server, Peer(server.port) as peer:
        found = await peer.request(FrameType.LIST, List("objects/"))
        assert isinstance(found, Listed)
        names = {entry.resource.removeprefix("objects/") for entry in found.entries}
        assert {"empty", "large", "hashed", "named", "replaced"} <= names
        assert any(name.startswith("pair/") for name in names)
        for name in names:
            down = peer.fetch(name)
            assert (await down.ended()).outcome is OutcomeKind.COMPLETED
        reader = peer.subscribe("logs/log")
        assert [each[2] for each in await reader.events(100)][:100] == LINES
        busy = peer.subscribe("logs/busy")
        assert [each[2] for each in await busy.events(3)][:3] == LINES[:3]
        again = peer.publish("log", [], key="p", end=False)
        assert (await again.opened()).message.standing.position == 100


async def test_an_upload_goes_on_from_a_copy(tmp_path: Path) -> None:
    data = os.urandom(200_000)
    async with serving(tmp_path) as server, Peer(server.port) as peer:
        up = peer.upload("part", data, key="k", end=False)
        await up.stored(2)
        copy = await asyncio.to_thread(copied, tmp_path / "data", tmp_path / "restored")
        # What the first server stores from here on is its own.
        await up.stored(3)
    shutil.copytree(copy, tmp_path / "other" / "data")
    async with serving(tmp_path / "other") as server, Peer(server.port) as peer:
        up = peer.upload("part", data, key="k")
        assert (await up.opened()).message.standing.position >= 2
        assert (await up.ended()).outcome is OutcomeKind.COMPLETED


@pytest.mark.parametrize("same", [True, False])
def test_objects_take_no_room_on_the_same_file_system(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    if not same:

        def link(_source: Path, _target: Path) -> None:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "link", link)
    copy = copied(data, tmp_path / "copy")
    with reading(data) as connection:
        ids = [row[0] for row in connection.execute("SELECT object_id FROM objects")]
        (upload,) = connection.execute(
            "SELECT upload_id FROM uploads WHERE outcome IS NULL"
        ).fetchone()
    for name in ids:
        one, two = (data / "objects" / name), (copy / "objects" / name)
        assert one.samefile(two) is same
    # What still changes is never shared.
    assert not (data / "objects" / upload).samefile(copy / "objects" / upload)
    for segment in data.glob("logs/*/*"):
        assert not segment.samefile(copy / segment.relative_to(data))


def test_a_write_that_is_on_its_way_is_left_out(data: Path, tmp_path: Path) -> None:
    newest = segments(data)[-1]
    size = newest.stat().st_size
    with newest.open("ab") as file:
        file.write(newest.read_bytes()[:100])
    begun = segments(data, "sealed")[0].with_name(f"{1:020}.log")
    begun.write_bytes(b"AcB1")
    copy = copied(data, tmp_path / "copy")
    assert (copy / newest.relative_to(data)).stat().st_size == size
    assert not (copy / begun.relative_to(data)).exists()


def test_what_goes_meanwhile_is_gone_from_the_copy_too(
    data: Path, tmp_path: Path
) -> None:
    """An object is deleted, and retention deletes a segment that was listed."""

    class Moving(Files):
        def __init__(self) -> None:
            self.turns = 0

        def sizes(self, path: Path) -> dict[str, int]:
            found = super().sizes(path)
            if path == oldest.parent:
                self.turns += 1
                (oldest, next_one)[self.turns > 1].unlink(missing_ok=True)
            return found

    oldest, next_one = segments(data)[:2]
    files = Moving()
    copy = copied(data, tmp_path / "copy", files)
    assert files.turns == 1
    kept = sorted(path.name for path in (copy / "logs" / oldest.parent.name).iterdir())
    assert kept == [path.name for path in segments(data)]


def test_something_that_is_missing_for_good_is_told(data: Path, tmp_path: Path) -> None:
    segments(data)[-1].parent.rename(tmp_path / "elsewhere")
    target = tmp_path / "copy"
    target.mkdir()
    with pytest.raises(MovingTarget, match="try again"):
        backup(data, target, Files(), nothing)
    # No server takes it for a data folder.
    assert not (target / "format").exists()


def test_bytes_are_counted(data: Path, tmp_path: Path) -> None:
    counted: list[int] = []
    (tmp_path / "copy").mkdir()
    backup(data, tmp_path / "copy", Files(), counted.append)
    stored = sum(path.stat().st_size for path in (tmp_path / "copy").rglob("*/*"))
    assert 0.9 < sum(counted) / stored <= 1.1
    assert (tmp_path / "copy" / RECORDS).exists()
