"""Folders: many files at once, and again after an interruption."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    ClientOptions,
    Code,
    ConnectionLost,
    FileReport,
    Progress,
    Refused,
    UsageError,
    connect,
    folders,
)
from ackline.client.cli.running import Exit
from ackline.client.transfers import FILES_AT_ONCE
from ackline.proto.messages import Entry, List, Listed
from ackline.proto.notices import RequestReceived
from tests.client.processes import command, finish, interrupt, start_command
from tests.client.scripted import ScriptedServer
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from ackline.client import Client
    from ackline.proto.notices import Notice
    from ackline.proto.server_connection import ServerConnection
    from tests.client.processes import ServerProcess

FAR = LinkOptions(to_server=Way(latency=0.02), to_client=Way(latency=0.02))
SLOW_UP = LinkOptions(to_server=Way(bandwidth=1e6), socket_buffer=16_384)


def fill(folder: Path, count: int, size: int = 1024) -> None:
    """Make files in folders of ten."""
    for number in range(count):
        path = folder / f"{number // 10:03}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


# Up and down


async def test_a_folder_comes_back_as_it_was(
    client: Client, folder: Path, tmp_path: Path, name: str
) -> None:
    fill(folder, 25)
    (folder / "empty").touch()
    (folder / "ünï code").write_bytes(b"x")
    (folder / "large").write_bytes(os.urandom(300_000))
    result = await client.upload_folder(folder, name, chunk_size=65_536)
    assert (result.transferred, result.present, result.skipped) == (28, 0, 0)
    assert (result.bytes, result.failed) == (25 * 1024 + 300_001, ())
    found = [entry.resource async for entry in client.list(f"objects/{name}/")]
    assert f"objects/{name}/000/file 3" in found
    fetched = await client.fetch_folder(f"{name}/", tmp_path / "new" / "copy")
    assert (fetched.transferred, fetched.bytes) == (28, result.bytes)
    assert contents(tmp_path / "new" / "copy") == contents(folder)


async def test_only_what_differs_is_transferred_again(
    client: Client, folder: Path, tmp_path: Path, name: str
) -> None:
    fill(folder, 10)
    await client.upload_folder(folder, name)
    again = await client.upload_folder(folder, name)
    assert (again.transferred, again.bytes, again.present) == (0, 0, 10)
    changed = folder / "000" / "file 3"
    changed.write_bytes(b"x" * 1024)  # the same size
    reports: list[FileReport] = []
    refused = await client.upload_folder(folder, name, on_file=reports.append)
    assert [each.name for each in refused.failed] == [f"{name}/000/file 3"]
    assert "already_exists" in refused.failed[0].text
    assert sum(report.state == "present" for report in reports) == 9
    replaced = await client.upload_folder(folder, name, existing="replace")
    assert (replaced.transferred, replaced.present) == (1, 9)
    # Other metadata make another object.
    known = await client.upload_folder(
        folder, name, existing="replace", metadata={"a": 1}
    )
    assert known.transferred == 10

    copy = tmp_path / "copy"
    await client.fetch_folder(f"{name}/", copy)
    (copy / "000" / "file 5").write_bytes(b"y" * 1024)
    (copy / "000" / "file 6").unlink()
    fetched = await client.fetch_folder(f"{name}/", copy)
    assert (fetched.transferred, fetched.present) == (2, 8)
    assert contents(copy) == contents(folder)


async def test_names_begin_with_that_of_the_folder_or_with_nothing(
    client: Client, folder: Path, name: str
) -> None:
    unique = name.replace("/", "-")
    inner = folder / unique
    inner.mkdir()
    (inner / "file").write_bytes(b"x")
    await client.upload_folder(inner)
    assert (await client.fetch(f"{unique}/file")).data == b"x"
    result = await client.upload_folder(folder, "")
    assert (result.transferred, result.present) == (0, 1)


async def test_small_files_share_round_trips(
    server: ServerProcess, folder: Path, name: str
) -> None:
    fill(folder, 200)
    async with (
        Link(target_port=server.port, options=FAR) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        began = time.perf_counter()
        for number in range(5):
            await client.upload(folder / "000" / f"file {number}", f"{name} {number}")
        alone = (time.perf_counter() - began) / 5
        began = time.perf_counter()
        result = await client.upload_folder(folder, name)
        together = (time.perf_counter() - began) / 200
    assert result.transferred == 200
    assert together < alone / 3


async def test_progress_is_that_of_all_files_and_so_many_are_open_at_once(
    client: Client, folder: Path, name: str
) -> None:
    fill(folder, 150)
    (folder / "large").write_bytes(os.urandom(3 * 65_536))
    seen: list[Progress] = []
    handles = client._supervisor.handles
    most = 0

    def show(progress: Progress) -> None:
        nonlocal most
        most = max(most, len(handles))
        seen.append(progress)

    await client.upload_folder(folder, name, chunk_size=65_536, on_progress=show)
    size = 150 * 1024 + 3 * 65_536
    assert {progress.total for progress in seen} == {size}
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[-1] == size
    assert 2 <= most <= FILES_AT_ONCE


# What cannot be transferred


async def test_what_is_no_file_is_left_out_and_said(
    client: Client, folder: Path, name: str
) -> None:
    (folder / "file").write_bytes(b"x")
    (folder / "link").symlink_to("file")
    (folder / "circle").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    reports: list[FileReport] = []
    result = await client.upload_folder(folder, name, on_file=reports.append)
    assert (result.transferred, result.skipped, result.failed) == (1, 3, ())
    told = {Path(each.path).name: each.text for each in reports if each.text}
    assert told == {
        "link": "is a symbolic link",
        "circle": "is a symbolic link",
        "pipe": "is no regular file",
    }


async def test_what_has_no_name_fails_alone(
    client: Client, folder: Path, name: str
) -> None:
    for bad in (os.fsdecode(b"b\xff"), "two\nlines", " space ", "x" * 250):
        (folder / bad).write_bytes(b"x")
    (folder / "good").write_bytes(b"x")
    result = await client.upload_folder(folder, name)
    assert result.transferred == 1
    assert [each.text.partition(": ")[2] for each in result.failed] == [
        "it begins or ends with a space",
        "it is not Unicode text",
        "it has control characters",
        f"it has {len(name) + 251} bytes of UTF-8; 1 to 255 are allowed",
    ]


async def test_a_file_that_changes_or_goes_away_fails_alone(
    server: ServerProcess, folder: Path, name: str
) -> None:
    (folder / "changes").write_bytes(os.urandom(200_000))
    (folder / "goes").write_bytes(b"x")
    (folder / "stays").write_bytes(b"x")

    def harm(_: object) -> None:
        (folder / "changes").write_bytes(b"other")

    async with (
        Link(target_port=server.port, options=SLOW_UP) as link,
        connect(f"ackline://127.0.0.1:{link.port}") as client,
    ):
        walk = asyncio.create_task(
            client.upload_folder(folder, name, on_progress=harm, chunk_size=65_536)
        )
        while not link.counters.bytes_to_server:
            await asyncio.sleep(0)
        (folder / "goes").unlink(missing_ok=True)
        result = await walk
    failed = {Path(each.path).name: each.text for each in result.failed}
    assert "source_changed" in failed["changes"]
    assert failed.keys() <= {"changes", "goes"}
    assert failed.get("goes", "No such file or directory").startswith("No such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_what_may_not_be_read_fails_alone(
    client: Client, folder: Path, name: str
) -> None:
    (folder / "file").write_bytes(b"x")
    for path in (folder / "file", folder / "closed"):
        path.mkdir(exist_ok=True) if path.name == "closed" else None
        path.chmod(0)
    result = await client.upload_folder(folder, name)
    assert [each.text for each in result.failed] == ["Permission denied"] * 2


async def test_a_folder_that_is_none_is_an_error(
    client: Client, tmp_path: Path, name: str
) -> None:
    with pytest.raises(FileNotFoundError):
        await client.upload_folder(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        await client.upload_folder(tmp_path / "file")
    with pytest.raises(Refused) as raised:
        await client.fetch_folder(f"{name}/", tmp_path / "out")
    assert raised.value.code == Code.NOT_FOUND
    assert not (tmp_path / "out").exists()


async def test_a_lost_server_ends_it_with_its_own_exception(
    server: ServerProcess, folder: Path, name: str
) -> None:
    fill(folder, 50, 10_000)
    async with (
        Link(target_port=server.port, options=SLOW_UP) as link,
        connect(
            f"ackline://127.0.0.1:{link.port}", options=ClientOptions(give_up_after=0)
        ) as client,
    ):
        upload = asyncio.create_task(client.upload_folder(folder, name))
        while link.counters.bytes_to_server < 50_000:
            await asyncio.sleep(0.01)
        link.down()
        await link.cut()
        with pytest.raises(ConnectionLost):
            await upload


# Names are no paths


@pytest.mark.parametrize(
    "bad", ["../evil", "a/../../evil", "/etc/evil", "./a", "a//b", "a/", "..", "."]
)
async def test_no_name_leads_out_of_the_folder(
    client: Client, tmp_path: Path, name: str, bad: str
) -> None:
    await client.upload(b"evil", f"{name}/{bad}")
    await client.upload(b"good", f"{name}/good")
    result = await client.fetch_folder(f"{name}/", tmp_path / "a" / "b")
    assert [each.name for each in result.failed] == [f"{name}/{bad}"]
    assert "no path inside a folder" in result.failed[0].text
    assert contents(tmp_path) == {"a/b/good": b"good"}


async def test_no_link_leads_out_of_the_folder(
    client: Client, tmp_path: Path, name: str
) -> None:
    await client.upload(b"x", f"{name}/link/file")
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    result = await client.fetch_folder(f"{name}/", tmp_path / "in")
    assert "leads out of the folder" in result.failed[0].text
    assert contents(tmp_path) == {}


async def test_names_that_get_in_each_others_way_fail_alone(
    client: Client, tmp_path: Path, name: str
) -> None:
    for each in ("a", "a/b", "c", "c.part"):
        await client.upload(each.encode(), f"{name}/{each}")
    result = await client.fetch_folder(f"{name}/", tmp_path / "in")
    failed = [each.name.removeprefix(f"{name}/") for each in result.failed]
    assert sorted(failed) == ["a/b", "c.part"]
    assert contents(tmp_path / "in") == {"a": b"a", "c": b"c"}


async def test_a_server_that_lists_anything_writes_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, RequestReceived) and isinstance(notice.message, List):
            names = ["other", "/etc/x", "in/\x00", "in/../../x", "in/\n", "in/x\x1b[2J"]
            entries = tuple(
                Entry(f"objects/{each}", "COMPLETED", 1, 1.0, {"crc": 1})
                for each in names
            )
            more = "" if len(notice.message.after) > 20 else notice.message.after + "xx"
            core.reply(notice.request_id, Listed(entries, more))

    async with ScriptedServer(script) as server, connect(server.url) as client:
        result = await client.fetch_folder("in/", tmp_path / "in")
        assert len(result.failed) == 4
        assert (result.transferred, contents(tmp_path)) == (0, {})
        assert not any(ord(char) < 32 for each in result.failed for char in each.text)
        monkeypatch.setattr(folders, "MAX_OBJECTS", 3)
        with pytest.raises(UsageError, match="more than 3 names begin with 'in/'"):
            await client.fetch_folder("in/", tmp_path / "in")


# The command


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_a_folder_that_was_stopped_is_continued_by_running_it_again(
    server: ServerProcess, folder: Path, tmp_path: Path, name: str, how: str
) -> None:
    fill(folder, 60, 4096)
    async with Link(target_port=server.port, options=SLOW_UP) as link:
        words = [
            f"--server=ackline://127.0.0.1:{link.port}",
            "upload",
            "--json",
            str(folder),
            name,
        ]
        running = await start_command(*words, folder=tmp_path)
        assert running.stdout is not None
        for _ in range(15):
            await running.stdout.readline()
        if how == "interrupt":
            interrupt(running)
            stopped = await finish(running)
            assert stopped.code == Exit.INTERRUPTED
            assert "To continue: ackline" in stopped.errors
            assert len(stopped.errors.splitlines()) == 1
        else:
            running.kill()
            await running.wait()
        before = link.counters.bytes_to_server
        done = await command(*words, folder=tmp_path)
        sent = link.counters.bytes_to_server - before
    assert done.code == 0, done.errors
    total = done.lines[-1]
    assert total["present"] >= 15
    assert total["present"] + total["transferred"] == 60
    assert sent < total["transferred"] * 4096 * 1.1 + 20_000
    again = await command(
        f"--server={server.url}",
        "fetch",
        f"objects/{name}/",
        str(tmp_path / "copy"),
        folder=tmp_path,
    )
    assert (again.code, again.errors) == (0, "")
    assert again.out == f"fetched 60 files into {tmp_path / 'copy'}, 240.0 KiB\n"
    assert contents(tmp_path / "copy") == contents(folder)


async def test_the_command_says_what_is_missing_and_fails(
    server: ServerProcess, folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / "good").write_bytes(b"x")
    (folder / "link").symlink_to("good")
    (folder / os.fsdecode(b"b\xff")).write_bytes(b"x")
    words = [f"--server={server.url}", "upload", str(folder), name]
    done = await command(*words, folder=tmp_path)
    assert done.code == Exit.FAILED
    assert done.out == f"uploaded 1 file of {folder}, 1 bytes; 1 left out; 1 failed\n"
    assert "link: skipped: is a symbolic link" in done.errors
    assert "it is not Unicode text" in done.errors
    quiet = await command("--quiet", *words, folder=tmp_path)
    assert len(quiet.errors.splitlines()) == 1  # errors only
    told = await command("--json", *words, folder=tmp_path)
    assert (told.code, told.errors) == (Exit.FAILED, "")
    states = {line["state"] for line in told.lines[:-1]}
    assert states == {"present", "skipped", "failed"}
    assert told.lines[-1] == {
        "transferred": 0,
        "bytes": 0,
        "present": 1,
        "skipped": 1,
        "failed": 1,
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upload", "FOLDER", "--key=x"], "leave it out for a folder"),
        (["fetch", "x/", "--start=1"], "--start is for one object"),
        (["fetch", "x/", "-"], "standard output is no folder"),
        (["fetch", "/"], "gives no folder name"),
    ],
)
async def test_options_for_one_object_are_refused_for_folders(
    server: ServerProcess, folder: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    words = [str(folder) if word == "FOLDER" else word for word in words]
    done = await command(f"--server={server.url}", *words, folder=tmp_path)
    assert done.code == Exit.USAGE
    assert says in done.errors
    assert len(done.errors.splitlines()) == 1
