"""Files and commands as sources, with the two commands as people run them."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import psutil

from tests.acceptance.processes import ServerProcess, run_client, running, start_client

if TYPE_CHECKING:
    from pathlib import Path

SAY = "say=sh -c 'echo \"$1\" > /dev/stdout; echo oh >&2; exit 3' sh {text}"
WORK = "work=sh -c 'trap \"wait; exit 0\" TERM; sleep 1000 & echo $$ $!; wait'"


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(50):
        return (await process.stdout.readline()).decode()


async def work(server: ServerProcess, state: Path, *more: str) -> tuple[Any, list[int]]:
    """Start a run of `work`; return its viewer and its processes."""
    viewer = await start_client(server.port, state, "subscribe", "sources/work", *more)
    shell, sleep = (await line(viewer)).split('"data":"')[1].split('"')[0].split()
    pids = [int(shell), int(sleep)]
    async with asyncio.timeout(50):
        while psutil.Process(pids[1]).name() != "sleep":
            await asyncio.sleep(0.01)
    return viewer, pids


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(50):
        while any(map(psutil.pid_exists, pids)):
            await asyncio.sleep(0.02)


async def test_a_followed_file_is_printed_as_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("one\ntwo\n")
    async with running(tmp_path / "data", f"--follow=app={log}", app=None) as server:
        command = ("subscribe", "sources/app", "--param=last=1")
        viewer = await start_client(server.port, tmp_path, *command)
        assert '"data":"two"' in await line(viewer)
        with log.open("a") as file:
            file.write("three\n")
        assert '"data":"three"' in await line(viewer)
        viewer.send_signal(signal.SIGINT)
        await viewer.communicate()


async def test_the_outcome_of_a_command_is_that_of_the_viewer(tmp_path: Path) -> None:
    async with running(tmp_path / "data", f"--exec={SAY}", app=None) as server:
        command = ("subscribe", "sources/say", "--param=text=$(date) ; {it}")
        *events, outcome = await run_client(server.port, tmp_path, *command, code=1)
        said = {each["kind"]: each["data"] for each in events}
        assert said == {"": "$(date) ; {it}", "stderr": "oh"}
        assert outcome["code"] == "source_failed"
        assert outcome["text"] == "sh exited with status 3"
        for wrong in ("--key=k", "--param=text=-x", "--param=more=1"):
            command = ("subscribe", "sources/say", wrong)
            await run_client(server.port, tmp_path, *command, code=3)
        listed = await run_client(server.port, tmp_path, "list", "sources/")
        assert [each["resource"] for each in listed] == ["sources/say"]


async def test_a_viewer_that_cancels_on_exit_stops_the_command(tmp_path: Path) -> None:
    async with running(tmp_path / "data", f"--exec={WORK}", app=None) as server:
        viewer, pids = await work(server, tmp_path, "--cancel-on-exit")
        viewer.send_signal(signal.SIGINT)
        await viewer.communicate()
        assert viewer.returncode == -signal.SIGINT
        await gone(pids)


async def test_a_server_that_stops_leaves_no_command(tmp_path: Path) -> None:
    options = (f"--exec={WORK}", "--drain-seconds=0.1")
    async with running(tmp_path / "data", *options, app=None) as server:
        viewer, pids = await work(server, tmp_path)
        assert await server.terminate() == 0
        await gone(pids)
        viewer.kill()
        await viewer.communicate()
