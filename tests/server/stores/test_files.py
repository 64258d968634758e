from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.server.stores.files import Files, read_into, write_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typing_extensions import Buffer


class ShortFiles(Files):
    """Files in memory whose calls do less than they were asked to."""

    def __init__(self, steps: list[int]) -> None:
        self.content = bytearray()
        self.steps = steps

    def _step(self, most: int) -> int:
        return min(most, self.steps.pop() if self.steps else most)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)
        count = self._step(len(data))
        self.content[offset : offset + count] = data[:count]
        return count

    def preadv(self, fd: int, buffer: Buffer, offset: int) -> int:
        view = memoryview(buffer)
        data = self.content[offset : offset + self._step(len(view))]
        view[: len(data)] = data
        return len(data)


@given(st.lists(st.binary(max_size=9), max_size=9), st.lists(st.integers(1, 7)))
def test_short_writes_are_continued(buffers: list[bytes], steps: list[int]) -> None:
    files = ShortFiles(steps)
    write_all(files, 0, buffers, 0)
    assert files.content == b"".join(buffers)


@given(st.binary(max_size=30), st.integers(0, 40), st.lists(st.integers(1, 7)))
def test_short_reads_are_continued(data: bytes, wanted: int, steps: list[int]) -> None:
    files = ShortFiles(steps)
    files.content[:] = data
    buffer = bytearray(wanted)
    count = read_into(files, 0, buffer, 0)
    assert count == min(wanted, len(data))
    assert buffer[:count] == data[:count]


def test_more_buffers_than_one_call_takes(tmp_path: Path) -> None:
    files = Files()
    fd = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    buffers = [bytes([n % 256]) for n in range(3000)]
    write_all(files, fd, buffers, 5)
    assert files.size(fd) == 3005
    buffer = bytearray(3000)
    assert read_into(files, fd, buffer, 5) == 3000
    assert buffer == b"".join(buffers)
    files.drop_cache(fd)
    files.truncate(fd, 7)
    assert files.size(fd) == 7
    files.close(fd)


def test_unsupported_allocation_is_said_and_a_full_disk_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files()
    fd = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert files.allocate(fd, 10)
    assert files.size(fd) == 10

    def answer(error: int) -> None:
        def refuse(*_: int) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "posix_fallocate", refuse)

    answer(errno.EOPNOTSUPP)
    assert not files.allocate(fd, 10)
    answer(errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        files.allocate(fd, 10)
    files.close(fd)


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    files = Files()
    files.unlink(tmp_path / "file")
    files.remove_directory(tmp_path / "folder")
    files.make_directory(tmp_path / "folder")
    files.make_directory(tmp_path / "folder")
    files.sync_directory(tmp_path)
    assert files.sizes(tmp_path).keys() == {"folder"}
    files.remove_directory(tmp_path / "folder")
    assert not files.sizes(tmp_path)
    assert files.free(tmp_path) > 0
