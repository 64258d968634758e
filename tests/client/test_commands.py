"""The command `ackline`, as people and programs run it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from argparse import Namespace
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from ackline.client import connect
from ackline.client.cli import EPILOG
from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.progress import Progress
from ackline.proto.checksums import crc32c
from tests.client.processes import (
    ROOT,
    as_shown,
    command,
    finish,
    interrupt,
    start_command,
)
from tests.link import Link, LinkOptions, Way

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client import Client
    from tests.client.processes import ServerProcess

MIB = 2**20
SLOW_UP = LinkOptions(to_server=Way(bandwidth=4e6), socket_buffer=65_536)
SLOW_DOWN = LinkOptions(
    to_client=Way(bandwidth=4e6), socket_buffer=65_536, in_flight=65_536
)


def make(path: Path, size: int) -> bytes:
    data = os.urandom(size)
    path.write_bytes(data)
    return data


async def until_moved(link: Link, size: int, *, down: bool = False) -> None:
    """Wait until a link has carried so many bytes."""
    async with asyncio.timeout(50):
        while True:
            counters = link.counters
            if (counters.bytes_to_client if down else counters.bytes_to_server) > size:
                return
            await asyncio.sleep(0.005)


async def test_an_upload_ends_with_a_line_for_programs(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    data = make(tmp_path / "file", 100_000)
    done = await command(
        "upload",
        "--json",
        f"--server={server.url}",
        str(tmp_path / "file"),
        name,
        folder=tmp_path,
    )
    assert done.code == 0
    assert not done.errors
    last = done.lines[-1]
    assert last["size"] == 100_000
    assert last["digest"] == f"crc32c:{crc32c(data):08x}"
    assert last["chunks_sent"] == 1
    assert last["chunks_resent"] == last["resumes"] == 0
    assert last["object_id"]
    assert last["upload_id"]
    fetched = tmp_path / "copy"
    done = await command(
        f"--server={server.url}", "fetch", name, str(fetched), folder=tmp_path
    )
    assert (done.code, fetched.read_bytes()) == (0, data)
    assert f"crc32c:{crc32c(data):08x}" in done.out
    done = await command(
        f"--server={server.url}",
        "fetch",
        name,
        "-",
        "--start=5",
        "--length=0",
        folder=tmp_path,
    )
    assert (done.code, done.out) == (0, "")


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_an_upload_that_was_stopped_is_continued_by_running_it_again(
    server: ServerProcess, tmp_path: Path, name: str, how: str
) -> None:
    data = make(tmp_path / "file", 4 * MIB)
    async with Link(target_port=server.port, options=SLOW_UP) as link:
        words = [
            f"--server=ackline://127.0.0.1:{link.port}",
            "--json",
            "upload",
            "--chunk-size=64K",
            str(tmp_path / "file"),
            name,
        ]
        running = await start_command(*words, folder=tmp_path)
        await until_moved(link, 2 * MIB)
        if how == "interrupt":
            interrupt(running)
            stopped = await finish(running)
            assert stopped.code == 130
            assert f"To continue: {shlex.join(['ackline', *words])}" in stopped.errors
            assert "Traceback" not in stopped.errors
        else:
            running.kill()
            await running.wait()
        before = link.counters.bytes_to_server
        done = await command(*words, folder=tmp_path)
        assert link.counters.bytes_to_server - before < 3 * MIB
    assert done.code == 0, done.errors
    last = done.lines[-1]
    assert last["digest"] == f"crc32c:{crc32c(data):08x}"
    assert last["resumes"] == 1
    assert last["chunks_resent"] == 0
    assert last["chunks_sent"] < 64
    async with connect(server.url) as client:
        assert (await client.fetch(name)).data == data


async def test_a_fetch_that_was_killed_is_continued(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    data = os.urandom(4 * MIB)
    async with connect(server.url) as client:
        await client.upload(data, name)
    async with Link(target_port=server.port, options=SLOW_DOWN) as link:
        words = [
            f"--server=ackline://127.0.0.1:{link.port}",
            "fetch",
            name,
            str(tmp_path / "copy"),
        ]
        running = await start_command(*words, folder=tmp_path)
        await until_moved(link, 2 * MIB, down=True)
        interrupt(running)
        stopped = await finish(running)
        assert stopped.code == 130
        assert "To continue: ackline" in stopped.errors
        kept = (tmp_path / "copy.part").stat().st_size
        before = link.counters.bytes_to_client
        done = await command(*words, folder=tmp_path)
        assert link.counters.bytes_to_client - before < 4 * MIB - kept + 300_000
    assert done.code == 0, done.errors
    assert (tmp_path / "copy").read_bytes() == data


async def test_lines_of_standard_input_become_events(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    done = await command(
        f"--server={server.url}",
        "publish",
        name,
        "--kind=line",
        folder=tmp_path,
        data="one\n\nthrée\nfour".encode(),
    )
    assert done.code == 0, done.errors
    assert "published 4 events" in done.out
    async with connect(server.url) as client:
        await client.seal(name)
    done = await command(
        f"--server={server.url}", "subscribe", f"logs/{name}", "--json", folder=tmp_path
    )
    assert done.code == 0
    *events, outcome = done.lines
    assert events == [
        {"id": n, "kind": "line", "data": text}
        for n, text in enumerate(["one", "", "thrée", "four"])
    ]
    assert (outcome["outcome"], outcome["code"]) == ("completed", "ok")
    done = await command(
        f"--server={server.url}",
        "subscribe",
        f"logs/{name}",
        "--from=-2",
        folder=tmp_path,
    )
    assert done.out == "thrée\nfour\n"


async def test_a_file_published_by_commands_that_are_killed_is_there_once(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    lines = [f"line number {n}" for n in range(60_000)]
    (tmp_path / "file").write_text("\n".join(lines))
    async with Link(target_port=server.port, options=SLOW_UP) as link:
        words = [
            f"--server=ackline://127.0.0.1:{link.port}",
            "--json",
            "publish",
            name,
            str(tmp_path / "file"),
        ]
        for share in (1, 2, 3):
            running = await start_command(*words, folder=tmp_path)
            await until_moved(link, share * 350_000)
            running.kill()
            await running.wait()
        done = await command(*words, folder=tmp_path)
        assert done.code == 0, done.errors
        last = done.lines[-1]
        assert last["first_unit"] > 0
        assert last["first_unit"] + last["events"] == len(lines)
        again = await command(*words, folder=tmp_path)
        assert again.lines[-1]["events"] == 0
    async with connect(server.url) as client:
        await client.seal(name)
        async with client.subscribe(f"logs/{name}") as events:
            found = [event.text async for event in events]  # type: ignore[union-attr]
    assert found == lines


@pytest.mark.parametrize("harm", ["edited", "shortened"])
async def test_a_published_file_that_was_changed_is_refused(
    server: ServerProcess, tmp_path: Path, name: str, harm: str
) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\nthree\n")
    words = [f"--server={server.url}", "publish", name, str(path)]
    assert (await command(*words, folder=tmp_path)).code == 0
    with path.open("w") as file:  # the same inode
        file.write("one\nTWO\nthree\nfour\n" if harm == "edited" else "one\n")
    done = await command(*words, folder=tmp_path)
    assert done.code == (1 if harm == "edited" else 2)
    assert "Traceback" not in done.errors
    assert len(done.errors.splitlines()) == 1


async def test_output_has_each_event_once_whatever_is_killed(
    server: ServerProcess, tmp_path: Path
) -> None:
    output = tmp_path / "events.jsonl"
    words = [
        f"--server={server.url}",
        "subscribe",
        "sources/count",
        "--param=events=400",
        "--param=delay=0.004",
        f"--output={output}",
    ]
    for count in (50, 150, 250):
        running = await start_command(*words, folder=tmp_path)
        async with asyncio.timeout(50):
            while not output.exists() or output.read_bytes().count(b"\n") < count:
                await asyncio.sleep(0.005)
        running.kill()
        await running.wait()
        with output.open("ab") as file:  # as if it had been killed while it wrote
            file.write(b'{"id":99999,"ki')
    done = await command(*words, folder=tmp_path)
    assert done.code == 0, done.errors
    events = [json.loads(line) for line in output.read_text().splitlines()]
    assert [event["id"] for event in events] == list(range(400))
    assert [event["data"] for event in events] == [f"event {n}" for n in range(400)]
    other = [*words[:2], "sources/endless", f"--output={output}"]
    refused = await command(*other, folder=tmp_path)
    assert refused.code == 2
    assert "holds events of sources/count" in refused.errors
    placed = await command(*words, "--from=3", folder=tmp_path)
    assert placed.code == 2


async def test_an_interrupted_subscription_says_how_to_continue(
    server: ServerProcess, tmp_path: Path
) -> None:
    running = await start_command(
        f"--server={server.url}", "subscribe", "sources/endless", folder=tmp_path
    )
    assert running.stdout is not None
    assert await running.stdout.readline() == b"0\n"
    interrupt(running)
    stopped = await finish(running)
    assert stopped.code == 130
    found = re.search(r"To continue: (ackline .*)", stopped.errors)
    assert found is not None
    words = shlex.split(found.group(1))[1:]
    position = int(words[-1])
    again = await start_command(*words, "--json", folder=tmp_path)
    assert again.stdout is not None
    assert json.loads(await again.stdout.readline())["id"] == position
    run = words[-3]
    runs = await command(f"--server={server.url}", "list", "runs/", folder=tmp_path)
    (listed,) = [line for line in runs.out.splitlines() if run in line]
    assert listed.endswith("of endless")
    cancelled = await command(f"--server={server.url}", "cancel", run, folder=tmp_path)
    assert cancelled.code == 0, cancelled.errors
    ended = await finish(again)
    assert ended.code == Exit.CANCELLED
    assert json.loads(ended.out.splitlines()[-1])["outcome"] == "cancelled"
    late = await command(
        f"--server={server.url}", "cancel", run, "--json", folder=tmp_path
    )
    assert late.lines[-1]["outcome"] == "cancelled"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("count", r"started runs/\w+\r?\n"),
        ("kept", r"started runs/\w+, on the server's disk\r?\n"),
    ],
)
async def test_a_person_is_told_the_run(
    server: ServerProcess, tmp_path: Path, source: str, told: str
) -> None:
    terminal, end = pty.openpty()
    try:
        running = await start_command(
            f"--server={server.url}",
            "subscribe",
            f"sources/{source}",
            folder=tmp_path,
            stderr=end,
        )
        assert (await finish(running)).code == 0
        assert re.fullmatch(told, os.read(terminal, 1000).decode())
    finally:
        os.close(terminal)
        os.close(end)


async def test_what_ends_with_its_connection_is_not_said_to_continue(
    server: ServerProcess, tmp_path: Path
) -> None:
    running = await start_command(
        f"--server={server.url}", "subscribe", "sources/volatile", folder=tmp_path
    )
    assert running.stdout is not None
    assert await running.stdout.readline() == b"now\n"
    interrupt(running)
    stopped = await finish(running)
    assert "cannot be continued" in stopped.errors
    assert "To continue" not in stopped.errors


async def test_a_source_that_cannot_be_resumed_is_refused_on_request(
    server: ServerProcess, tmp_path: Path
) -> None:
    done = await command(
        f"--server={server.url}",
        "subscribe",
        "sources/volatile",
        "--resumable",
        folder=tmp_path,
    )
    assert done.code == Exit.REFUSED
    assert "ends when the connection is lost" in done.errors


async def test_a_command_whose_output_nobody_reads_can_be_interrupted(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async with connect(server.url) as client, client.publish(name) as publisher:
        await publisher.send_many(bytes(1000) for _ in range(2000))
    running = await start_command(
        f"--server={server.url}", "subscribe", f"logs/{name}", folder=tmp_path
    )
    assert running.stdout is not None
    await running.stdout.read(1)
    pipe = running._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
    pipe.pause_reading()
    await asyncio.sleep(0.3)
    running.send_signal(signal.SIGHUP)
    # asyncio tells that a process has ended only once its pipes are read to the end.
    async with asyncio.timeout(50):
        while running.returncode is None:
            await asyncio.sleep(0.01)
    assert as_shown(running.returncode) == Exit.INTERRUPTED
    pipe.resume_reading()
    await finish(running)


async def test_a_failed_stream_is_exit_code_1_after_its_events(
    server: ServerProcess, tmp_path: Path
) -> None:
    done = await command(
        f"--server={server.url}", "subscribe", "sources/broken", folder=tmp_path
    )
    assert (done.code, done.out) == (1, "0\n1\n2\n")
    assert "source_failed" in done.errors


async def test_bytes_that_are_no_text_are_base64(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async with connect(server.url) as client:
        async with client.publish(name) as publisher:
            await publisher.send(b"\xff\x00")
        await client.seal(name)
    done = await command(
        f"--server={server.url}", "--json", "subscribe", f"logs/{name}", folder=tmp_path
    )
    assert done.lines[0]["data"] == {"base64": "/wA="}


async def test_a_reader_that_goes_away_ends_the_command_quietly(
    server: ServerProcess, tmp_path: Path
) -> None:
    running = await start_command(
        f"--server={server.url}", "subscribe", "sources/endless", folder=tmp_path
    )
    assert running.stdout is not None
    assert running.stderr is not None
    await running.stdout.readline()
    transport = running._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
    transport.close()
    assert await asyncio.wait_for(running.wait(), 5) == -signal.SIGPIPE
    assert await running.stderr.read() == b""


async def test_what_the_server_has_is_listed_and_described(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async with connect(server.url) as client:
        await client.upload(b"x" * 10, name)
    at = f"--server={server.url}"
    done = await command(at, "list", f"objects/{name}", folder=tmp_path)
    assert done.code == 0
    assert f"objects/{name}" in done.out
    assert "10 bytes" in done.out
    done = await command(at, "list", "--json", folder=tmp_path)
    resources = [line["resource"] for line in done.lines]
    assert f"objects/{name}" in resources
    assert "sources/count" in resources
    done = await command(at, "status", f"objects/{name}", folder=tmp_path)
    assert done.code == 0
    assert done.out.startswith(f"objects/{name}: ")
    done = await command(at, "status", f"objects/{name}", "--json", folder=tmp_path)
    assert done.lines[0]["target"] == f"objects/{name}"
    done = await command(at, "ping", folder=tmp_path)
    assert re.search(r"answered in \d+\.\d ms", done.out)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["upload", "/nowhere/file"], Exit.USAGE, "No such file"),
        (["publish", "app", "/"], Exit.USAGE, "is a directory"),
        (["publish", "app", "/nowhere/file"], Exit.USAGE, "No such file"),
        (["fetch", "nothing/", "/tmp/nothing"], Exit.REFUSED, "begins with 'nothing/'"),
        (["fetch", "x", "/"], Exit.USAGE, "is a directory"),
        (["fetch", "nothing", "/tmp/nothing"], Exit.REFUSED, "not_found"),
        (["subscribe", "objects/x"], Exit.USAGE, "has no events"),
        (["subscribe", "logs/nothing"], Exit.REFUSED, "not_found"),
        (["status", "x"], Exit.USAGE, "is not a resource"),
        (["cancel", "runs/nothing"], Exit.REFUSED, "not_found"),
        (["--server=http://x", "ping"], Exit.USAGE, "is not the URL of a server"),
        (["--server=ackline://127.0.0.1:1", "ping"], Exit.NO_CONNECTION, "refused"),
        (
            ["--server=ackline://127.0.0.1:1", "ping", "--give-up-after=0.3"],
            Exit.NO_CONNECTION,
            "no connection for 0.3 s",
        ),
    ],
)
async def test_what_goes_wrong_is_one_line_and_an_exit_code(
    server: ServerProcess, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    done = await command(f"--server={server.url}", "--quiet", *words, folder=tmp_path)
    assert done.code == code
    assert says in done.errors
    assert len(done.errors.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["upload"],
        ["upload", "x", "--chunk-size=many"],
        ["subscribe", "logs/x", "--from=middle"],
        ["subscribe", "logs/x", "--param=nothing"],
        ["ping", "--give-up-after=-1"],
        ["ping", "--give-up-after=soon"],
        ["publish", "log", "--linger=nan"],
        ["fetch", "x", "--start=-1"],
        ["fetch", "x", "--length=-1"],
        ["fetch", "x", "--version=-1"],
    ],
)
async def test_wrong_usage_is_exit_code_2(tmp_path: Path, words: list[str]) -> None:
    done = await command(*words, folder=tmp_path)
    assert done.code == Exit.USAGE
    assert "usage: ackline" in done.errors
    assert "invalid _" not in done.errors


@pytest.mark.parametrize("words", [["upload"], ["publish", "log"]])
async def test_a_pipe_in_place_of_a_file_is_refused_at_once(
    server: ServerProcess, tmp_path: Path, words: list[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = [f"--server={server.url}", *words, str(tmp_path / "pipe")]
    async with asyncio.timeout(50):
        done = await command(*words, folder=tmp_path)
    assert done.code == Exit.USAGE
    assert "is not a regular file" in done.errors


async def test_nothing_is_published_from_dev_null(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    done = await command(f"--server={server.url}", "publish", name, folder=tmp_path)
    assert (done.code, done.errors) == (0, "")
    assert "published 0 events" in done.out


async def test_a_closed_standard_input_is_wrong_usage(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    words = [sys.executable, "-m", "ackline.client", f"--server={server.url}"]
    closed = shlex.join([*words, "publish", name]) + " <&-"
    process = await asyncio.create_subprocess_shell(
        closed, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    done = await process.communicate()
    assert process.returncode == Exit.USAGE
    assert done[1].decode().strip() == (
        "ackline: standard input is closed; name a FILE"
    )


def test_no_bar_is_left_beside_the_result(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Shown(BaseCommand):
        async def run(self, client: Client) -> int:
            return 0 if client.connected else 1

    monkeypatch.setattr("os.isatty", lambda _: True)
    shown = Shown(Namespace(quiet=False, json=False))
    shown.display.show(Progress(done=1, total=2, began=0, resumes=0))
    shown.result("done")
    assert shown.display._bar is None
    assert capfdbinary.readouterr().out == b"done\n"


async def test_an_unreadable_state_folder_says_which(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    make(tmp_path / "file", 100_000)
    (tmp_path / "blocked").write_text("a file, not a folder")
    done = await command(
        f"--server={server.url}",
        f"--state-dir={tmp_path / 'blocked'}",
        "upload",
        str(tmp_path / "file"),
        name,
        folder=tmp_path,
    )
    assert done.code == Exit.USAGE
    assert str(tmp_path / "blocked") in done.errors


def test_help_lists_the_exit_codes() -> None:
    for code in Exit:
        assert re.search(rf"^ +{code.value}  ", EPILOG, re.MULTILINE)


def test_the_library_loads_neither_rich_nor_uvloop_nor_the_command() -> None:
    heavy = "{'rich', 'uvloop', 'ackline.client.cli'} & set(sys.modules)"
    code = f"import sys, ackline.client; print({heavy})"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert found.stdout == b"set()\n"


async def test_a_closed_output_does_not_get_a_sockets_number(
    server: ServerProcess, tmp_path: Path
) -> None:
    script = f'exec "{sys.executable}" -m ackline.client --server={server.url} ping >&-'
    process = await asyncio.create_subprocess_shell(script, cwd=tmp_path)
    async with asyncio.timeout(50):
        assert await process.wait() == Exit.DONE


async def test_a_name_may_be_given_as_list_prints_it(
    server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for arguments in (
        ("upload", str(tmp_path / "a.txt"), "listed.txt"),
        ("fetch", "objects/listed.txt", str(tmp_path / "b.txt")),
        ("publish", "logs/listed", str(tmp_path / "a.txt")),
        ("status", "logs/listed"),
    ):
        done = await command(f"--server={server.url}", *arguments, folder=tmp_path)
        assert done.code == Exit.DONE, done.errors
    assert (tmp_path / "b.txt").read_text() == "hello"


async def test_a_log_is_created_sealed_and_deleted(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async def ask(*words: str) -> tuple[int, str]:
        done = await command(f"--server={server.url}", *words, folder=tmp_path)
        return done.code, done.out + done.errors

    log = f"logs/{name}"
    code, told = await ask("create", log, "--max-age=7d", "--max-size=1GB")
    assert (code, "created" in told) == (0, True), told
    _code, why = await ask("status", log)
    assert "\n  Nobody publishes more at the moment.\n" in why
    assert "for 604800 s and up to 1073741824 bytes" in told
    code, told = await ask("create", log, "--max-age=off")
    assert (code, "configured" in told) == (0, True), told
    assert "604800" not in told
    assert "1073741824" in told
    code, told = await ask("seal", log, "--outcome=failed", "--text=enough")
    assert (code, "is sealed" in told) == (0, True), told
    code, told = await ask("subscribe", log)
    assert (code, "failed: ok: enough" in told) == (1, True), told
    code, told = await ask("publish", name)
    assert (code, "takes no more" in told) == (3, True), told
    code, told = await ask("--json", "delete", log)
    assert (code, json.loads(told)["target"]) == (0, log), told
    code, told = await ask("delete", log)
    assert (code, "there is no log" in told) == (3, True), told
    code, told = await ask("delete", name)
    assert (code, "objects/" in told) == (2, True), told


async def test_a_log_is_read_from_a_time_on(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async with connect(server.url) as client:
        async with client.publish(name) as publisher:
            await publisher.send("early")
            await publisher.flush()
            await asyncio.sleep(0.05)  # what is compared is times
            between = datetime.now().astimezone()
            await asyncio.sleep(0.05)
            await publisher.send("late")
        await client.seal(name)

    async def lines(start: str) -> list[str]:
        done = await command(
            *(f"--server={server.url}", "subscribe", f"logs/{name}"),
            f"--from={start}",
            folder=tmp_path,
        )
        assert done.code == 0, done.errors
        return done.out.splitlines()

    assert await lines(between.isoformat()) == ["late"]
    assert await lines("1h") == ["early", "late"]
    assert await lines("2999-01-01") == []
