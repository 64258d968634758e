from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ackline.aio import filesystems, in_memory
from ackline.client import sources
from ackline.client.digests import OrderedDigest
from ackline.client.memory import LoadMemory
from ackline.client.sources import FileSource, make_source
from ackline.client.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DATA = os.urandom(5000)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


def always(_file: int) -> bool:
    return True


def never(_file: int) -> bool:
    return False


def source_of(path: Path, threads: Threads) -> FileSource:
    path.write_bytes(DATA)
    source = make_source(path, memory=LoadMemory(2**20), threads=threads)
    assert isinstance(source, FileSource)
    source.chunk_size = 2000
    return source


async def test_a_file_in_memory_is_read_in_parts_without_a_thread(
    tmp_path: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "in_memory", always)
    source = source_of(tmp_path / "file", threads)
    before = threading.active_count()
    read = [source.read_part(index, at, 500) for index in (0, 1) for at in (0, 1500)]
    expected = [DATA[at : at + 500] for at in (0, 1500, 2000, 3500)]
    assert [bytes(part) for part in read if part is not None] == expected
    assert threading.active_count() == before
    for part in read:
        assert part is not None
        source.release_part(part)
    assert source._memory.used == 0
    os.truncate(tmp_path / "file", 3900)
    assert source.read_part(1, 1500, 500) is None  # and `load()` says why
    assert source._memory.used == 0
    source.digest = OrderedDigest(hashlib.sha256())
    assert source.read_part(0, 0, 500) is None
    source.close()


@pytest.mark.parametrize("supported", [True, False])
async def test_what_would_wait_for_a_disk_is_read_in_a_thread(
    tmp_path: Path,
    threads: Threads,
    monkeypatch: pytest.MonkeyPatch,
    supported: bool,
) -> None:
    readers: list[threading.Thread] = []
    preadv = os.preadv

    def waiting(
        fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0
    ) -> int:
        if flags:
            raise BlockingIOError
        readers.append(threading.current_thread())
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", waiting)
    monkeypatch.setattr(sources, "in_memory", never)
    if not supported:
        monkeypatch.setattr(sources, "UNLESS_IT_WAITS", None)
    source = source_of(tmp_path / "file", threads)
    assert source.read_part(2, 0, len(DATA) - 4000) is None
    view = await source.load(2)
    assert view is not None
    assert bytes(view) == DATA[4000:]
    assert [reader is threading.main_thread() for reader in readers] == [False]
    source.close()


def test_file_systems_in_memory_are_known_by_their_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /x rw shared:1 - "
    monkeypatch.setattr(filesystems, "_MOUNTS", mounts)
    found: list[bool] = []
    for text in (line + "ext4 /dev/vda rw\n", line + "tmpfs tmpfs rw\n"):
        mounts.write_text(text)
        filesystems.memory_devices.cache_clear()
        found.append(in_memory(tmp_path))
    mounts.unlink()
    filesystems.memory_devices.cache_clear()
    found.append(in_memory(tmp_path))
    filesystems.memory_devices.cache_clear()
    assert found == [False, True, False]
