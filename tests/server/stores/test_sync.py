from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.errors import StoreFailed
from ackline.server.stores.sync import Syncer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.server.stores.support import FaultyFiles


@pytest.fixture
def observed() -> list[tuple[float, int]]:
    return []


@pytest.fixture
async def syncer(
    files: FaultyFiles, observed: list[tuple[float, int]]
) -> AsyncIterator[Syncer]:
    syncer = Syncer(files, threads=2, observe=lambda *call: observed.append(call))
    yield syncer
    syncer.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


async def test_callers_during_a_sync_share_the_next_one(
    syncer: Syncer, files: FaultyFiles, fd: int, observed: list[tuple[float, int]]
) -> None:
    files.gates["fdatasync"] = threading.Event()
    first = syncer.sync(fd)
    await asyncio.sleep(0.01)  # it runs, and does not cover what comes now
    others = [syncer.sync(fd) for _ in range(20)]
    files.gates["fdatasync"].set()
    await asyncio.gather(first, *others)
    assert files.calls["fdatasync"] == 2
    assert (syncer.calls, syncer.waiters) == (2, 21)
    assert [waiters for _, waiters in observed] == [1, 20]
    assert syncer.seconds > 0


async def test_files_do_not_wait_for_each_other(
    syncer: Syncer, files: FaultyFiles, fd: int, tmp_path: Path
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    held = syncer.sync(fd)
    await asyncio.sleep(0.01)
    del files.gates["fdatasync"]
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    await syncer.sync(other)
    os.close(other)
    assert not held.done()
    gate.set()
    await held


async def test_failure_reaches_every_waiter_and_the_file_stays_poisoned(
    syncer: Syncer, files: FaultyFiles, fd: int
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    files.fail["fdatasync"] = errno.EIO
    waiters = [syncer.sync(fd)]
    await asyncio.sleep(0.01)
    waiters += [syncer.sync(fd) for _ in range(3)]
    assert syncer.waiting == 3
    gate.set()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert all(isinstance(result, StoreFailed) for result in results)
    assert (syncer.failures, syncer.waiting) == (1, 0)
    # The kernel would say that all is well now. It is not.
    files.fail.clear()
    with pytest.raises(StoreFailed):
        await syncer.sync(fd)
    assert files.calls["fdatasync"] == 1


async def test_full_disk_in_a_sync_is_a_failure_too(
    syncer: Syncer, files: FaultyFiles, fd: int
) -> None:
    files.fail["fdatasync"] = errno.ENOSPC
    with pytest.raises(StoreFailed):
        await syncer.sync(fd)


async def test_released_descriptor_begins_anew(
    syncer: Syncer, files: FaultyFiles, fd: int
) -> None:
    files.fail["fdatasync"] = errno.EIO
    with pytest.raises(StoreFailed):
        await syncer.sync(fd)
    files.fail.clear()
    await syncer.release(fd)
    await syncer.sync(fd)


async def test_release_waits_for_the_sync_that_runs(
    syncer: Syncer, files: FaultyFiles, fd: int
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    syncs = [syncer.sync(fd)]
    await asyncio.sleep(0.01)
    syncs.append(syncer.sync(fd))
    release = asyncio.ensure_future(syncer.release(fd))
    await asyncio.sleep(0.01)
    assert not release.done()
    gate.set()
    await release
    assert all(sync.done() for sync in syncs)


async def test_directory_may_be_tried_again(
    syncer: Syncer, files: FaultyFiles, tmp_path: Path
) -> None:
    files.fail["sync_directory"] = errno.EIO
    with pytest.raises(StoreFailed):
        await syncer.sync(tmp_path)
    files.fail.clear()
    await syncer.sync(tmp_path)


async def test_cancelled_waiter_leaves_the_others_alone(
    syncer: Syncer, files: FaultyFiles, fd: int
) -> None:
    gate = files.gates["fdatasync"] = threading.Event()
    one, two = syncer.sync(fd), syncer.sync(fd)
    await asyncio.sleep(0.01)
    one.cancel()
    gate.set()
    await two


async def test_write_and_sync_writes_first(
    syncer: Syncer, files: FaultyFiles, fd: int, observed: list[tuple[float, int]]
) -> None:
    await syncer.write_and_sync(
        fd, lambda: files.calls.update(first=files.calls["fdatasync"]), waiters=5
    )
    assert files.calls["first"] == 0
    assert files.calls["fdatasync"] == 1
    assert observed[0][1] == 5
