from __future__ import annotations

import asyncio
import hashlib
import io
import os
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    ChecksumConflict,
    Client,
    ClientOptions,
    Code,
    ConnectionLost,
    Progress,
    Refused,
    StreamFailed,
    UsageError,
    connect,
)
from ackline.proto.checksums import crc32c
from tests.client.processes import running_server
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.client.processes import ServerProcess

MIB = 2**20
SIZES = [0, 1, 1023, 1024, 1025, 65_535, 65_536, 65_537, 262_144, 262_145, 3 * MIB + 7]


def make(path: Path, size: int) -> bytes:
    data = os.urandom(size)
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("size", SIZES)
async def test_files_of_every_edge_size_arrive_whole(
    client: Client, tmp_path: Path, name: str, size: int
) -> None:
    data = make(tmp_path / "file", size)
    result = await client.upload(tmp_path / "file", name, chunk_size=65_536)
    assert (result.size, result.crc) == (size, crc32c(data))
    assert result.digest == f"crc32c:{crc32c(data):08x}"
    assert result.chunks_sent == -(-size // 65_536)
    assert result.chunks_resent == result.chunks_repeated == result.resumes == 0
    fetched = await client.fetch(name)
    assert fetched.data == data
    assert fetched.object_id == result.object_id


async def test_an_upload_of_exactly_whole_chunks(client: Client, name: str) -> None:
    data = os.urandom(4 * 1024)
    result = await client.upload(data, name, chunk_size=1024)
    assert result.chunks_sent == 4
    assert (await client.fetch(name)).data == data


@pytest.mark.parametrize("size", [0, 1, 1024, 5000, 300_000])
async def test_a_stream_of_unknown_size_arrives_whole(
    client: Client, name: str, size: int
) -> None:
    data = os.urandom(size)

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, size, 777):
            yield data[at : at + 777]

    result = await client.upload(parts(), name, chunk_size=1024)
    assert result.size == size
    assert (await client.fetch(name)).data == data


async def test_what_the_callers_stream_raises_is_raised_and_nothing_committed(
    client: Client, name: str
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield bytes(5000)
        message = "the camera is gone"
        raise LookupError(message)

    with pytest.raises(LookupError, match="camera"):
        await client.upload(parts(), name, chunk_size=1024)
    with pytest.raises(Refused):
        await client.fetch(name)


async def test_binary_files_are_uploaded_from_their_position(
    client: Client, tmp_path: Path, name: str
) -> None:
    data = make(tmp_path / "file", 10_000)
    with (tmp_path / "file").open("rb") as file:
        file.seek(1000)
        await client.upload(file, name + "a", chunk_size=1024)
    assert (await client.fetch(name + "a")).data == data[1000:]
    await client.upload(io.BytesIO(data), name + "b", chunk_size=1024)
    assert (await client.fetch(name + "b")).data == data
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        await client.upload(pipe, name + "c")
    assert (await client.fetch(name + "c")).data == b"through a pipe"


@pytest.mark.parametrize("source", ["text", "directory", "missing", "number"])
async def test_what_cannot_be_uploaded_says_why(
    client: Client, tmp_path: Path, name: str, source: str
) -> None:
    if source == "missing":
        with pytest.raises(FileNotFoundError):
            await client.upload(tmp_path / "missing", name)
        return
    given: object = {"text": io.StringIO("x"), "directory": tmp_path, "number": 7}[
        source
    ]
    with pytest.raises(UsageError):
        await client.upload(given, name)  # type: ignore[arg-type]


async def test_sha256_is_verified_and_told(client: Client, name: str) -> None:
    data = os.urandom(100_000)
    result = await client.upload(data, name, algorithm="sha256", chunk_size=4096)
    assert result.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (await client.fetch(name)).data == data


async def test_an_object_of_that_name_is_refused_replaced_or_given_a_version(
    client: Client, name: str
) -> None:
    await client.upload(b"one", name)
    with pytest.raises((Refused, StreamFailed)) as raised:
        await client.upload(b"two", name)
    assert Code.ALREADY_EXISTS.name.lower() in str(raised.value)
    assert (await client.upload(b"three", name, existing="replace")).version > 1
    newest = await client.upload(b"four", name, existing="version")
    assert (await client.fetch(name)).data == b"four"
    older = await client.fetch(name, version=newest.version - 1)
    assert older.data == b"three"


async def test_the_same_key_returns_the_object_again(client: Client, name: str) -> None:
    data = os.urandom(100_000)  # more than is sent without waiting for OPENED
    first = await client.upload(data, name, key=name, chunk_size=1024)
    again = await client.upload(data, name, key=name, chunk_size=1024)
    assert again.object_id == first.object_id
    assert again.chunks_sent == 0
    with pytest.raises(Refused, match="key_conflict"):
        await client.upload(data + b"y", name, key=name, chunk_size=1024)


@pytest.mark.parametrize("cut", [100, 30_000, 70_000, 300_000, 999_999, 1_048_700])
async def test_an_upload_cut_anywhere_sends_no_acknowledged_chunk_again(
    server: ServerProcess, tmp_path: Path, name: str, cut: int
) -> None:
    data = make(tmp_path / "file", MIB)
    seen: list[Progress] = []
    options = LinkOptions(to_server=Way(cut_at=(cut,)))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(
            f"ackline://127.0.0.1:{link.port}",
            options=ClientOptions(wait_for_server=True),
        ) as client,
    ):
        result = await client.upload(
            tmp_path / "file", name, chunk_size=65_536, on_progress=seen.append
        )
        assert link.counters.cuts == 1
        fetched = await client.fetch(name)
    assert fetched.data == data
    assert result.resumes == int(cut > 100)
    assert result.chunks_resent == 0
    assert seen[-1].done == MIB
    assert [each.done for each in seen] == sorted(each.done for each in seen)


@pytest.mark.parametrize("folder", ["disk", "memory"])
async def test_a_chunk_larger_than_what_a_link_carries_at_once_completes(
    tmp_path: Path, memory_path: Path, name: str, folder: str
) -> None:
    data = os.urandom(3 * MIB)
    options = LinkOptions(to_server=Way(cut_every=700_000))
    async with (
        running_server(memory_path if folder == "memory" else tmp_path) as server,
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        result = await client.upload(data, name, chunk_size=MIB)
        assert link.counters.cuts >= 4
        # A reset also loses what the kernels hold.
        lost = link.counters.cuts * 300_000
        assert link.counters.bytes_to_server < 3 * MIB + lost
    assert result.crc == crc32c(data)
    assert result.chunks_resent == 0


async def test_a_stream_of_unknown_size_resumes_from_what_is_kept(
    server: ServerProcess, name: str
) -> None:
    data = os.urandom(MIB)

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 50_000):
            yield data[at : at + 50_000]
            await asyncio.sleep(0.001)

    options = LinkOptions(to_server=Way(cut_every=300_000))
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        result = await client.upload(parts(), name, chunk_size=65_536)
        assert result.crc == crc32c(data)
        assert result.resumes >= 3


async def test_another_client_continues_where_the_first_was_stopped(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    """As after a crash: the second process knows only the state file."""
    data = make(tmp_path / "file", 2 * MIB)
    half = asyncio.Event()

    def halfway(progress: Progress) -> None:
        if progress.done >= MIB // 2:
            half.set()

    way = Way(bandwidth=3e6)
    options = LinkOptions(to_server=way, socket_buffer=65_536)
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as first,
    ):
        uploading = asyncio.create_task(
            first.upload(
                tmp_path / "file", name, chunk_size=65_536, on_progress=halfway
            )
        )
        await half.wait()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        result = await first.upload(tmp_path / "file", name, chunk_size=65_536)
    assert result.crc == crc32c(data)
    assert result.resumes == 1
    assert result.chunks_sent < 28
    assert result.chunks_resent == 0


async def test_an_unchanged_file_that_was_committed_is_found_there(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    """The process that uploaded it may have been killed before it could say so."""
    data = make(tmp_path / "file", 2 * MIB)
    async with connect(server.url) as client:
        first = await client.upload(tmp_path / "file", name)
        again = await client.upload(tmp_path / "file", name)
        assert again.object_id == first.object_id
        assert again.crc == first.crc == crc32c(data)
        assert again.digest == first.digest
        assert again.chunks_sent == 0
        await client.delete(f"objects/{name}")
        anew = await client.upload(tmp_path / "file", name)
        assert anew.object_id != first.object_id
        assert anew.chunks_sent == 1
        before = (tmp_path / "file").stat()
        make(tmp_path / "file", 2 * MIB)  # another one, which looks like the old one
        os.utime(tmp_path / "file", ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(Refused, match="already_exists"):
            await client.upload(tmp_path / "file", name)


@pytest.mark.parametrize("size", [0, 10, 2 * MIB])
async def test_a_file_that_is_there_is_found_without_remembering_it(
    server: ServerProcess, tmp_path: Path, name: str, size: int
) -> None:
    """From another machine, and where it was too small for a state of its own."""
    make(tmp_path / "file", size)
    async with connect(server.url) as client:
        first = await client.upload(tmp_path / "file", name, metadata={"n": 1})
        for state in (None, tmp_path / "empty", False):
            again = await client.upload(
                tmp_path / "file", name, metadata={"n": 1}, state=state
            )
            assert again.object_id == first.object_id
            assert (again.digest, again.chunks_sent) == (first.digest, 0)
        with pytest.raises(Refused, match="already_exists"):  # other metadata
            await client.upload(tmp_path / "file", name, state=False)
        with pytest.raises(Refused, match="already_exists"):  # a key of its own
            await client.upload(tmp_path / "file", name, metadata={"n": 1}, key="mine")
        (tmp_path / "file").write_bytes(b"x" * (size + 1))
        with pytest.raises(Refused, match="already_exists"):
            await client.upload(tmp_path / "file", name, metadata={"n": 1})


@pytest.mark.parametrize("algorithm", ["crc32c", "sha256"])
async def test_a_changed_prefix_is_found_before_anything_is_sent_on(
    server: ServerProcess, name: str, algorithm: str
) -> None:
    data = bytearray(os.urandom(MIB))
    options = LinkOptions(to_server=Way(bandwidth=3e6), socket_buffer=65_536)
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as first,
    ):
        half = asyncio.Event()

        def halfway(progress: Progress) -> None:
            if progress.done >= MIB // 2:
                half.set()

        uploading = asyncio.create_task(
            first.upload(
                bytes(data),
                name,
                key=name,
                chunk_size=65_536,
                algorithm=algorithm,
                on_progress=halfway,
            )
        )
        await half.wait()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        data[70_000] ^= 1
        with pytest.raises(StreamFailed) as raised:
            await first.upload(
                data, name, key=name, chunk_size=65_536, algorithm=algorithm
            )
        assert raised.value.outcome.code == Code.PROOF_MISMATCH
        with pytest.raises(Refused):
            await first.fetch(name)


@pytest.mark.parametrize("chunk_size", [65_536, 4 * MIB])
@pytest.mark.parametrize("change", ["shorter", "longer", "touched"])
async def test_a_file_that_changes_while_it_is_uploaded_is_not_committed(
    server: ServerProcess, tmp_path: Path, name: str, change: str, chunk_size: int
) -> None:
    path = tmp_path / "file"
    make(path, MIB)
    changed = False

    def meddle(progress: Progress) -> None:
        nonlocal changed
        if changed or progress.done < 200_000:
            return
        changed = True
        if change == "shorter":
            os.truncate(path, 300_000)
        elif change == "longer":
            with path.open("ab") as file:
                file.write(b"more")
        else:
            with path.open("r+b") as file:
                file.seek(5)
                file.write(b"other")

    options = LinkOptions(to_server=Way(bandwidth=5e6), socket_buffer=65_536)
    async with (
        Link(target_port=server.port, options=options) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        with pytest.raises(StreamFailed) as raised:
            await client.upload(path, name, chunk_size=65_536, on_progress=meddle)
        assert raised.value.outcome.code == Code.SOURCE_CHANGED
        with pytest.raises(Refused, match="not_found"):
            await client.fetch(name)


async def test_a_server_killed_in_the_middle_is_waited_for(
    tmp_path: Path, name: str
) -> None:
    data = make(tmp_path / "file", 2 * MIB)
    async with running_server(tmp_path / "data") as first:
        options = LinkOptions(to_server=Way(bandwidth=4e6), socket_buffer=65_536)
        async with (
            Link(target_port=first.port, options=options) as link,
            connect(f"ackline://127.0.0.1:{link.port}") as client,
        ):
            half = asyncio.Event()

            def halfway(progress: Progress) -> None:
                if progress.done >= MIB // 2:
                    half.set()

            uploading = asyncio.create_task(
                client.upload(
                    tmp_path / "file", name, chunk_size=65_536, on_progress=halfway
                )
            )
            await half.wait()
            await first.kill()
            async with running_server(tmp_path / "data") as second:
                link.target_port = second.port
                result = await uploading
                fetched = await client.fetch(name)
    assert fetched.data == data
    assert result.chunks_resent == 0
    assert result.resumes >= 1


async def test_many_uploads_share_the_memory_for_chunks(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    paths = [tmp_path / str(number) for number in range(30)]
    files = [make(path, 150_000) for path in paths]
    options = ClientOptions(load_memory=2 * 65_536)
    async with connect(server.url, options=options) as client:
        await asyncio.gather(
            *(
                client.upload(path, f"{name}/{path.name}", chunk_size=65_536)
                for path in paths
            )
        )
        for path, data in zip(paths, files, strict=True):
            assert (await client.fetch(f"{name}/{path.name}")).data == data
        assert client._memory.used == 0
        with pytest.raises(UsageError, match="load_memory"):
            await client.upload(paths[0], name, chunk_size=2**20)


async def test_a_client_that_gives_up_says_so(tmp_path: Path, name: str) -> None:
    make(tmp_path / "file", MIB)
    async with running_server(tmp_path / "data") as first:
        way = Way(bandwidth=1e6)
        options = LinkOptions(to_server=way, socket_buffer=65_536)
        async with (
            Link(target_port=first.port, options=options) as link,
            connect(
                f"ackline://127.0.0.1:{link.port}",
                options=ClientOptions(give_up_after=0.5),
            ) as client,
        ):
            uploading = asyncio.create_task(client.upload(tmp_path / "file", name))
            await asyncio.sleep(0.1)
            link.down()
            await link.cut()
            with pytest.raises(ConnectionLost, match="no connection for"):
                await uploading
            with pytest.raises(ConnectionLost):
                await client.upload(b"x", name)


def test_a_conflict_is_a_refusal() -> None:
    assert issubclass(ChecksumConflict, Refused)
