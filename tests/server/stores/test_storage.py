from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.errors import (
    FormatMismatch,
    Locked,
    StorageFull,
    StoreFailed,
)
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import parameters, put

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.stores.support import FaultyFiles


async def test_new_folder_has_a_format_and_belongs_to_its_owner(
    tmp_path: Path,
) -> None:
    data = tmp_path / "some" / "where"
    async with Storage.open(data):
        assert (data / "format").read_text() == "ackline-data 1\n"
        assert {path.name for path in data.iterdir()} >= {
            "format", "lock", "records.sqlite3", "objects", "logs"
        }  # fmt: skip
        for path in (data, data / "objects"):
            assert path.stat().st_mode & 0o077 == 0


async def test_second_server_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    async with Storage.open(tmp_path):
        with pytest.raises(Locked, match=str(os.getpid())) as locked:
            async with Storage.open(tmp_path):
                pass
        assert locked.value.folder == tmp_path
    async with Storage.open(tmp_path):
        pass


async def test_failed_start_lets_the_folder_go(tmp_path: Path) -> None:
    async with Storage.open(tmp_path):
        pass
    (tmp_path / "records.sqlite3").write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(StoreFailed, match="not a database"):
            async with Storage.open(tmp_path):
                pass


@pytest.mark.parametrize("content", ["ackline-data 2\n", "", "ackline-data 1"])
async def test_other_format_is_refused_with_both_versions(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "format").write_text(content)
    with pytest.raises(FormatMismatch) as mismatch:
        async with Storage.open(tmp_path):
            pass
    assert mismatch.value.found == content.strip()
    assert mismatch.value.supported == "ackline-data 1"
    assert str(tmp_path) in str(mismatch.value)


async def test_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(FormatMismatch, match=r"no data folder .*letters"):
        async with Storage.open(tmp_path):
            pass
    assert os.listdir(tmp_path) == ["letters"]  # noqa: PTH208 - brief


async def test_crash_while_the_folder_is_made_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "format.draft").write_text("ackl")
    async with Storage.open(tmp_path):
        assert (tmp_path / "format").read_text() == "ackline-data 1\n"


async def test_other_schema_is_refused(tmp_path: Path) -> None:
    async with Storage.open(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "records.sqlite3") as connection:
        connection.execute("UPDATE schema SET version = 99")
    connection.close()
    with pytest.raises(FormatMismatch, match="records 99"):
        async with Storage.open(tmp_path):
            pass


async def test_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, files: FaultyFiles
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed):
        async with Storage.open(tmp_path / "file" / "data"):
            pass
    files.fail["open"] = errno.ENOSPC
    with pytest.raises(StorageFull):
        async with Storage.open(tmp_path / "data", files=files):
            pass
    files.fail.clear()
    async with Storage.open(tmp_path / "data", files=files):
        pass


async def test_counters_and_observer(tmp_path: Path) -> None:
    observed: list[tuple[float, int]] = []
    async with Storage.open(
        tmp_path,
        StorageOptions(reserve=0),
        observe_sync=lambda seconds, waiters: observed.append((seconds, waiters)),
    ) as storage:
        upload = await storage.chunks.create(parameters())
        await put(upload, 0, b"x" * 10)
        await storage.checkpoint()
        stats = storage.stats
        assert stats.syncs == len(observed) == 2  # the file and its name
        assert stats.sync_waiters == 2
        assert stats.sync_seconds == pytest.approx(sum(s for s, _ in observed))
        assert stats.transactions > 0
        assert stats.operations >= stats.transactions
        assert stats.commit_seconds > 0
        assert (tmp_path / "records.sqlite3-wal").stat().st_size == 0


async def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    async with Storage.open(tmp_path) as storage:
        await storage.close()
