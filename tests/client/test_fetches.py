from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ackline.client import Client, ClientOptions, Progress, Refused, UsageError, connect
from ackline.client.fetches import FetchParameters
from ackline.proto.resource import Resource, ResourceKind
from tests.link import Direction, Link, LinkOptions, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.client.processes import ServerProcess

MIB = 2**20
SLOW = LinkOptions(to_client=Way(bandwidth=4e6), socket_buffer=65_536)


async def started(
    client: Client, name: str, target: Path, *, at: int = MIB
) -> asyncio.Task[object]:
    """Begin a fetch and wait until some bytes are written."""
    there = asyncio.Event()

    def look(progress: Progress) -> None:
        if progress.done >= at:
            there.set()

    task: asyncio.Task[object] = asyncio.create_task(
        client.fetch(name, target, chunk_size=65_536, on_progress=look)
    )
    await there.wait()
    return task


async def stop(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (0, 0), (1, 1), (4095, 2), (5000, None), (0, 9999)]
)
async def test_ranges_are_what_was_asked_for(
    client: Client, name: str, start: int, length: int | None
) -> None:
    data = os.urandom(10_000)
    await client.upload(data, name)
    result = await client.fetch(name, start=start, length=length, chunk_size=4096)
    end = len(data) if length is None else start + length
    assert result.data == data[start:end]
    assert result.size == len(data[start:end])


async def test_a_file_appears_whole_or_not_at_all(
    client: Client, tmp_path: Path, name: str
) -> None:
    data = os.urandom(300_000)
    await client.upload(data, name)
    target = tmp_path / "copy"
    seen: list[Progress] = []
    await client.fetch(name, target, chunk_size=65_536, on_progress=seen.append)
    assert target.read_bytes() == data
    assert seen[-1].done == seen[-1].total == 300_000
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


async def test_a_refused_fetch_leaves_no_file(
    client: Client, tmp_path: Path, name: str
) -> None:
    with pytest.raises(Refused, match="not_found"):
        await client.fetch(name, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", [False, True])
async def test_a_pipe_or_device_is_not_replaced_by_a_file(
    client: Client, tmp_path: Path, name: str, *, link: bool
) -> None:
    await client.upload(b"bytes", name)
    pipe, target = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    target.symlink_to(pipe)
    with pytest.raises(UsageError, match="not a regular file"):
        await client.fetch(name, target if link else pipe)
    assert pipe.is_fifo()
    assert target.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}


async def test_a_writer_gets_the_bytes_in_order(client: Client, name: str) -> None:
    data = os.urandom(200_000)
    await client.upload(data, name)
    file = io.BytesIO()
    result = await client.fetch(name, file, chunk_size=4096)
    assert file.getvalue() == data
    assert result.data is None


@pytest.mark.parametrize("cut", [1000, 65_000, 70_000, 400_000, 999_000])
async def test_a_fetch_cut_anywhere_arrives_whole(
    server: ServerProcess, client: Client, tmp_path: Path, name: str, cut: int
) -> None:
    data = os.urandom(MIB)
    await client.upload(data, name, algorithm="sha256")
    options = LinkOptions(to_client=Way(cut_at=(cut,)))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as through,
    ):
        result = await through.fetch(name, tmp_path / "copy", chunk_size=65_536)
        assert link.counters.cuts == 1
    assert (tmp_path / "copy").read_bytes() == data
    assert result.resumes == 1


async def test_a_full_folder_in_memory_is_told_and_what_came_is_kept(
    client: Client, memory_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * MIB)
    await client.upload(data, name)
    pwrite, writers = os.pwrite, set[threading.Thread]()

    def full(fd: int, data: memoryview, offset: int) -> int:
        writers.add(threading.current_thread())
        if offset >= 2 * MIB:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        await client.fetch(name, memory_path / "copy", chunk_size=MIB)
    assert writers == {threading.main_thread()}
    kept = (memory_path / "copy.part").read_bytes()
    assert kept == data[: len(kept)]
    assert len(kept) >= MIB
    monkeypatch.undo()
    await client.fetch(name, memory_path / "copy", chunk_size=MIB)
    assert (memory_path / "copy").read_bytes() == data


@pytest.mark.parametrize("folder", ["disk", "memory"])
async def test_a_chunk_is_continued_where_the_link_died(
    server: ServerProcess,
    client: Client,
    tmp_path: Path,
    memory_path: Path,
    name: str,
    folder: str,
) -> None:
    tmp_path = memory_path if folder == "memory" else tmp_path
    data = os.urandom(3 * MIB)
    await client.upload(data, name)
    options = LinkOptions(to_client=Way(cut_every=700_000))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as through,
    ):
        result = await through.fetch(name, tmp_path / "copy", chunk_size=MIB)
        assert link.counters.cuts >= 4
    assert (tmp_path / "copy").read_bytes() == data
    assert result.resumes >= 4


async def test_a_later_fetch_continues_from_the_part_file(
    server: ServerProcess, client: Client, tmp_path: Path, name: str
) -> None:
    data = os.urandom(3 * MIB)
    await client.upload(data, name, algorithm="sha256")
    target = tmp_path / "copy"
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as through,
    ):
        await stop(await started(through, name, target))
        kept = (tmp_path / "copy.part").stat().st_size
        assert not target.exists()
        assert kept >= MIB
        before = link.counters.bytes_to_client
        result = await through.fetch(name, target, chunk_size=65_536)
        assert link.counters.bytes_to_client - before < 3 * MIB - kept + 600_000
    assert result.resumes == 1
    assert target.read_bytes() == data
    assert not (tmp_path / "copy.part").exists()


@pytest.mark.parametrize("harm", ["flipped", "replaced", "unknown"])
async def test_a_part_that_is_not_of_the_object_is_fetched_again(
    server: ServerProcess, client: Client, tmp_path: Path, name: str, harm: str
) -> None:
    data = os.urandom(3 * MIB)
    await client.upload(data, name)
    target, part = tmp_path / "copy", tmp_path / "copy.part"
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as through,
    ):
        await stop(await started(through, name, target))
    if harm == "flipped":
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([data[1000] ^ 1]))
    elif harm == "replaced":
        await client.delete(f"objects/{name}")
        data = os.urandom(2 * MIB)
        await client.upload(data, name)
    else:
        part.write_bytes(b"something else")
    state = tmp_path / "nothing" if harm == "unknown" else None
    await client.fetch(name, target, chunk_size=65_536, state=state)
    assert target.read_bytes() == data


async def test_two_cannot_write_one_file(
    server: ServerProcess, client: Client, tmp_path: Path, name: str
) -> None:
    await client.upload(os.urandom(3 * MIB), name)
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as through,
    ):
        task = await started(through, name, tmp_path / "copy")
        with pytest.raises(UsageError, match="another process"):
            await client.fetch(name, tmp_path / "copy")
        with pytest.raises(UsageError, match="directory"):
            await client.fetch(name, tmp_path)
        await stop(task)


async def test_a_stalled_link_is_given_up_and_the_fetch_resumed(
    server: ServerProcess, client: Client, tmp_path: Path, name: str
) -> None:
    data = os.urandom(3 * MIB)
    await client.upload(data, name)
    async with (
        Link(target_port=server.port, options=SLOW) as link,
        connect(
            f"ackline://127.0.0.1:{link.port}", options=ClientOptions(heartbeat=0.1)
        ) as through,
    ):
        task = await started(through, name, tmp_path / "copy")
        link.blackhole(Direction.TO_CLIENT)
        await asyncio.sleep(0.5)
        link.heal()
        await task
    assert (tmp_path / "copy").read_bytes() == data


async def test_an_empty_object_makes_an_empty_file(
    client: Client, tmp_path: Path, name: str
) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for part in list[bytes]():
            yield part

    await client.upload(nothing(), name)
    await client.fetch(name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


@pytest.mark.parametrize(("start", "length"), [(0, None), (1000, None), (70, 5000)])
@pytest.mark.parametrize("same", [True, False])
async def test_a_part_file_that_is_complete_is_only_confirmed(
    client: Client,
    tmp_path: Path,
    name: str,
    start: int,
    length: int | None,
    same: bool,
) -> None:
    """Of a range too, whose last chunk is short and has no CRC of its own yet."""
    data = os.urandom(10_000)
    end = len(data) if length is None else start + length
    made = await client.upload(data, name)
    target = tmp_path / "copy"
    parameters = FetchParameters(
        resource=Resource.of(ResourceKind.OBJECTS, name),
        object_id="",
        version=0,
        start=start,
        length=length,
        chunk_size=MIB,
        deadline=0.0,
    )
    state = client._fetch_state(None, target, parameters)
    assert state is not None
    state.put(object_id=made.object_id, chunk_size=MIB)
    there = data[start:end] if same else bytes(end - start)
    (tmp_path / "copy.part").write_bytes(there)
    result = await client.fetch(
        name, target, start=start, length=length, chunk_size=MIB
    )
    assert target.read_bytes() == data[start:end]
    assert result.resumes == int(same)
