"""`ackline publish` and `subscribe` between other commands."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ackline.client import connect
from ackline.client.cli.running import Exit
from tests.client.processes import (
    ROOT,
    Done,
    as_shown,
    command,
    finish,
    running_server,
    start_command,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.processes import ServerProcess

BEGIN = (
    "import sys; from ackline.command import main; print(flush=True); sys.exit(main())"
)


async def shell(line: str, server: ServerProcess, folder: Path) -> Done:
    """Run a line of bash; `ackline` in it is the command."""
    ackline = shlex.join([sys.executable, "-m", "ackline.client"])
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f'set -o pipefail; ackline() {{ {ackline} "$@"; }}; {line}',
        cwd=ROOT,
        env={
            **os.environ,
            "ACKLINE_SERVER": server.url,
            "XDG_STATE_HOME": str(folder / "state"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        return await finish(process)


async def logged(server: ServerProcess, name: str) -> list[bytes]:
    """Return what is in a log."""
    async with connect(server.url) as client:
        await client.seal(name)
        async with client.subscribe(f"logs/{name}") as events:
            return [event.data async for event in events]  # type: ignore[union-attr]


async def test_bytes_go_through_as_they_are(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    lines = [b"a\0b", b"", b"\xff\xfe", b"tab\t\r", b"no newline behind this"]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    done = await shell(
        f"cat {tmp_path}/in | ackline publish {name} --quiet"
        f" && ackline seal {name} >{tmp_path}/sealed"
        f" && ackline subscribe logs/{name} >{tmp_path}/out",
        server,
        tmp_path,
    )
    assert (done.code, done.errors) == (0, "")
    assert (tmp_path / "out").read_bytes() == b"\n".join(lines) + b"\n"


async def test_a_line_is_published_before_the_next_one_comes(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    running = await start_command(
        f"--server={server.url}",
        "publish",
        name,
        folder=tmp_path,
        stdin=asyncio.subprocess.PIPE,
    )
    assert running.stdin is not None
    running.stdin.write(b"first\n")
    async with connect(server.url) as client:
        await client.configure(name)
        async with (
            asyncio.timeout(50),
            client.subscribe(f"logs/{name}") as events,
        ):
            async for event in events:
                assert event.data == b"first"  # type: ignore[union-attr]
                break
    done = await finish(running, b"second\nthird")  # and the end of the input
    assert done.code == 0
    assert "published 3 events" in done.out
    assert await logged(server, name) == [b"first", b"second", b"third"]


async def test_what_is_read_stays_blocking_for_the_next_command(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    done = await shell(
        f"(echo one; sleep 0.2; echo two) | (ackline publish {name} >&2;"
        f" {sys.executable} -c 'import os; print(os.get_blocking(0))')",
        server,
        tmp_path,
    )
    assert done.out == "True\n"


async def test_input_that_somebody_made_non_blocking_is_read(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    running = await start_command(
        f"--server={server.url}", "publish", name, folder=tmp_path, stdin=reading
    )
    os.close(reading)
    await asyncio.sleep(0)
    os.write(writing, b"one\n")
    os.close(writing)
    done = await finish(running)
    assert (done.code, done.errors) == (0, "")
    assert await logged(server, name) == [b"one"]


async def test_a_reader_that_has_enough_ends_it_as_it_ends_other_tools(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async with connect(server.url) as client, client.publish(name) as publisher:
        await publisher.send("only")
    # Nothing comes any more, and it finds out all the same.
    done = await shell(
        f"ackline subscribe logs/{name} | head -1; echo ${{PIPESTATUS[0]}}",
        server,
        tmp_path,
    )
    assert (done.out, done.errors) == (f"only\n{Exit.NO_READER}\n", "")


async def test_a_full_disk_behind_the_output_is_told(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    async with connect(server.url) as client, client.publish(name) as publisher:
        await publisher.send("x")
    done = await shell(f"ackline subscribe logs/{name} >/dev/full", server, tmp_path)
    assert done.code == Exit.FAILED
    assert done.errors == "ackline: No space left on device\n"


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
async def test_messages_that_nobody_reads_change_nothing(
    server: ServerProcess, tmp_path: Path, name: str, closed: str
) -> None:
    done = await shell(f"ackline fetch {name} x {closed}", server, tmp_path)
    assert done.code == Exit.REFUSED
    done = await shell(f"echo x | ackline publish {name} {closed}", server, tmp_path)
    assert done.code == 0


async def test_a_loop_of_the_shell_ends_with_ctrl_c(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    ackline = shlex.join([sys.executable, "-m", "ackline.client"])
    loop = f"for n in 1 2; do {ackline} subscribe sources/endless; echo again; done"
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        loop,
        cwd=ROOT,
        env={**os.environ, "ACKLINE_SERVER": server.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    done = await finish(process)
    assert done.code == Exit.INTERRUPTED
    assert "again" not in done.out
    assert done.errors.startswith("interrupted. To continue: ackline")


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03, 0.06, 0.1, 0.2])
async def test_ctrl_c_at_any_moment_is_no_traceback(
    server: ServerProcess, tmp_path: Path, after: float
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BEGIN,
        f"--server={server.url}",
        "subscribe",
        "sources/endless",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()  # begun; what follows imports for 0.1 s
    time.sleep(after)  # noqa: ASYNC251 - no condition is what this is about
    process.send_signal(signal.SIGINT)
    done = await finish(process)
    assert done.code == Exit.INTERRUPTED
    assert "Traceback" not in done.errors
    assert len(done.errors.splitlines()) <= 1


async def test_a_server_whose_disk_is_full_is_named(tmp_path: Path, name: str) -> None:
    async with running_server(
        tmp_path / "data", arguments=("--disk-reserve=1000000GB",)
    ) as server:
        running = await start_command(
            f"--server={server.url}",
            "--quiet",
            "publish",
            name,
            folder=tmp_path,
            stdin=asyncio.subprocess.PIPE,
        )
        assert running.stdin is not None
        assert running.stderr is not None
        running.stdin.write(b"one\n")
        async with asyncio.timeout(50):
            told = (await running.stderr.readline()).decode()
        assert "its disk is full (insufficient_storage); waiting" in told
        running.send_signal(signal.SIGINT)
        await running.wait()
    assert as_shown(running.returncode or 0) == Exit.INTERRUPTED


async def test_a_defect_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (
        "import sys, ackline.client.cli.ping as ping\n"
        "ping.Command.prepare = lambda self: 1 / 0\n"
        "from ackline.command import main; sys.exit(main())"
    )
    for debug in ("", "1"):
        monkeypatch.setenv("ACKLINE_DEBUG", debug)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", broken, "ping", stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert process.returncode == Exit.FAILED
        assert (b"Traceback" in errors) == bool(debug)
        assert b"ZeroDivisionError" in errors


async def test_names_that_are_no_text_are_refused_in_one_line(
    server: ServerProcess, tmp_path: Path
) -> None:
    bad = os.fsdecode(b"\xff")
    (tmp_path / bad).write_bytes(b"x")
    for words in (
        ("upload", str(tmp_path / bad)),
        ("publish", bad),
        ("subscribe", f"logs/{bad}"),
        ("list", f"objects/{bad}"),
        ("status", f"objects/{bad}"),
    ):
        done = await command(f"--server={server.url}", *words, folder=tmp_path)
        assert done.code in (Exit.USAGE, Exit.REFUSED), words
        assert len(done.errors.splitlines()) == 1, done.errors
