"""The command, as a process: started, asked to stop, killed, started again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.event_sender import EventSender
from ackline.proto.messages import End, Intent, OutcomeKind, Start
from ackline.proto.notices import PeerLeft
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

APP = """
import asyncio, pathlib
from ackline.server import Server

server = Server()

@server.source("ticks")
async def ticks(count=1000000):
    try:
        for number in range(count):
            yield str(number)
            await asyncio.sleep(0.001)
    finally:
        pathlib.Path("cleaned").touch()

@server.sink("*")
def take(thing):
    with open("taken", "a") as file:
        file.write(thing.name + "\\n")
"""

COMMAND = [sys.executable, "-m", "ackline.server"]
DATA = os.urandom(3_000_000)


class Process:
    """A running `ackline-server`."""

    def __init__(self, process: asyncio.subprocess.Process, screen: str) -> None:
        self.process = process
        self.screen = screen

    @property
    def port(self) -> int:
        found = re.search(r"ackline://127\.0\.0\.1:(\d+)", self.screen)
        assert found is not None, self.screen
        return int(found[1])

    async def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """Send signals; return exit code and what was said on standard error."""
        for number in signals:
            self.process.send_signal(number)
            await asyncio.sleep(0.1)
        async with asyncio.timeout(50):
            _, told = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, told.decode()


@asynccontextmanager
async def running(folder: Path, *more: str) -> AsyncGenerator[Process]:
    """Start the command in a folder."""
    (folder / "app.py").write_text(APP)
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("--listen", "127.0.0.1:0", "--metrics", "off", "--data-dir", "data"),
        *("--app", "app:server", *more),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    screen = ""
    try:
        async with asyncio.timeout(50):
            while "sinks" not in screen:
                line = await process.stdout.readline()
                assert line, (await process.communicate())[1].decode()
                screen += line.decode()
        yield Process(process, screen)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command to its end; return exit code and standard error."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        _, told = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def test_the_first_screen_says_what_is_where(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert "ackline-server 0." in server.screen
        assert f"{tmp_path / 'data'}" in server.screen
        assert "sources   ticks" in server.screen
        assert "metrics   off" in server.screen
        assert "known by  anybody (everything)" in server.screen
        code, told = await server.end(signal.SIGTERM)
        assert code == 0, told
        first, *_, last = map(json.loads, told.splitlines())
        assert first["message"].startswith("started: ackline-server/0.")
        assert first["url"] == f"ackline://127.0.0.1:{server.port}"
        assert (first["metrics"], first["data_dir"]) == ("off", str(tmp_path / "data"))
        assert last["message"] == "stopped"


async def test_the_first_screen_shows_sources_without_code(tmp_path: Path) -> None:
    more = ["--follow", "log=a.log", "--exec", "say=echo {it}", "--follow", "b=b.log"]
    async with running(tmp_path, *more) as server:
        shown = (
            "sources   ticks\n",
            "log = a.log\n",
            "b = b.log\n",
            "say = echo {it}\n",
        )
        assert (" " * 12).join(shown) in server.screen


async def test_sigterm_drains_and_the_second_one_insists(tmp_path: Path) -> None:
    async with running(tmp_path, "--drain-seconds", "30") as server:
        peer = await Peer(server.port).connect()
        work = peer.subscribe("sources/ticks")
        await work.events(3)
        server.process.send_signal(signal.SIGTERM)
        assert (await peer.until(PeerLeft)).message.deadline == 30
        await asyncio.sleep(0.2)
        assert server.process.returncode is None
        code, _ = await server.end(signal.SIGINT)
        assert code == 0
        assert (tmp_path / "cleaned").exists()
        await peer.drop()


async def test_everything_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Upload, publish and subscription continue; a run says that it was lost."""
    peer: Peer
    async with running(tmp_path) as server:
        peer = await Peer(server.port).connect()
        up = peer.upload("file", DATA, end=False)
        lines = [f"line {number}".encode() for number in range(1000)]
        published = peer.publish("log", lines, end=False)
        ticks = peer.subscribe("sources/ticks", key="k")
        await published.stored(1000)
        reader = peer.subscribe("logs/log", Start.ID, 38)
        await reader.events(962)
        await ticks.events(5)
        await up.stored(10)
        await server.end(signal.SIGKILL)
        await peer.drop()
    async with running(tmp_path) as server:
        peer.port = server.port
        await peer.connect()
        assert up.stream.sender is not None
        up.stream.sender.finish(
            End(Intent.COMPLETED, 0, "", size=len(DATA), crc=crc32c(DATA))
        )
        outcome = await up.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        sender = published.stream.sender
        assert isinstance(sender, EventSender)
        sender.feed.append(b"last")  # type: ignore[attr-defined]
        sender.finish(End(Intent.COMPLETED, 0, "", size=1001))
        assert (await published.ended()).position == 1001
        await reader.events(963)
        assert [each[0] for each in reader.received] == list(range(38, 1001))
        assert (await ticks.ended()).code == Code.PRODUCER_LOST
        assert not (tmp_path / "cleaned").exists()
        down = peer.fetch("file")
        await down.ended()
        assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == DATA
        await peer.drop()
        await server.end(signal.SIGTERM)
    assert (tmp_path / "taken").read_text() == "file\n"
    assert len(list((tmp_path / "data" / "objects").iterdir())) == 1


async def test_an_upload_survives_being_killed_again_and_again(tmp_path: Path) -> None:
    peer = Peer(0)
    up = None
    for turn in range(6):
        async with running(tmp_path) as server:
            peer.port = server.port
            await peer.connect()
            if up is None:
                up = peer.upload("file", DATA, key="k", chunk_size=16_384)
            if turn == 5:
                assert (await up.ended()).outcome is OutcomeKind.COMPLETED
                down = peer.fetch("file")
                await down.ended()
                assert b"".join(down.chunks[n] for n in sorted(down.chunks)) == DATA
            else:
                await up.opened()
                sender = up.stream.sender
                assert sender is not None
                await up.stored(min(sender.stored + 20, 180))
            await server.end(signal.SIGKILL)
            await peer.drop()


@pytest.mark.parametrize(
    ("arguments", "code", "tells"),
    [
        (["--listen", "nowhere"], 2, "option --listen: 'nowhere' is not HOST:PORT"),
        (["--heartbeat", "0"], 2, "option heartbeat: 0.0 is not between"),
        (["--app", "app"], 2, "is not MODULE:SERVER"),
        (["--app", "missing:server"], 2, "there is no module 'missing'"),
        (["--app", "app:nothing"], 2, "'nothing' in app is no ackline.server.Server"),
        (["--config", "missing.toml"], 2, "No such file"),
        (["--config", "hyphen.toml"], 2, "in hyphen.toml it is written data_dir"),
        (["--unknown"], 2, "unrecognized arguments"),
        (["--follow", "app.py"], 2, "option --follow: 'app.py' is not NAME=VALUE"),
        (["--follow", "a=."], 2, "option follow: a=.: it is not a regular file"),
        (["--exec", "a=nothing x"], 2, "there is no program 'nothing' that can be run"),
        (["--exec", "a=ls", "--follow", "a=b"], 2, "there is a source 'a' already"),
        (["--app", "app:server", "--exec", "ticks=ls"], 2, "a source 'ticks' already"),
        (["--data-dir", "app.py/x"], 1, "app.py/x"),
        (["--data-dir", "newer"], 1, "newer has the format"),
    ],
)
async def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, arguments: list[str], code: int, tells: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "hyphen.toml").write_text('data-dir = "data"\n')
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "format").write_text("ackline-data 99\n")
    more = ["--metrics", "off", "--listen", "127.0.0.1:0", *arguments]
    got, told = await run(tmp_path, *more)
    assert (got, tells in told) == (code, True), told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()[-1]) < 300


async def test_a_folder_or_port_in_use_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        code, told = await run(
            tmp_path,
            "--metrics",
            "off",
            "--listen",
            "127.0.0.1:0",
            ACKLINE_DATA_DIR="data",
        )
        assert (code, "in use by another server" in told) == (1, True), told
        listen = f"127.0.0.1:{server.port}"
        code, told = await run(
            tmp_path, "--metrics", "off", "--data-dir", "b", ACKLINE_LISTEN=listen
        )
        assert code == 1
        assert f"cannot listen on {listen}: Address already in use" in told
        assert "option listen" in told
        code, told = await run(
            tmp_path, "--data-dir", "c", "--listen", "127.0.0.1:0", "--metrics", listen
        )
        assert code == 1
        assert "option metrics" in told
        assert "Traceback" not in told


STARTING = """
from ackline import server_command
print("begins", flush=True)
raise SystemExit(server_command.main())
"""


async def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path) -> None:
    """Whatever it is doing: importing, opening its folder, listening."""

    async def interrupted(number: int) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", STARTING),
            *("--listen=127.0.0.1:0", "--metrics=off", f"--data-dir=data{number}"),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"begins\n"
        await asyncio.sleep(0.08 * number)  # at another moment each
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(50):
            told = (await process.communicate())[1].decode()
        if process.returncode == 1 and "ackline" not in told:
            return ""  # from the interpreter, before it came to this program
        assert process.returncode in (0, -signal.SIGINT), told
        return told

    for told in await asyncio.gather(*map(interrupted, range(8))):
        assert "Traceback" not in told
