"""Servers killed between a commit and its sink, and while the sink runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client import connect
from tests.acceptance.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.acceptance.processes import ServerProcess

APP = """
import asyncio
import os
from pathlib import Path

from ackline.server import Server

server = Server()
NOTES, GATE = Path(os.environ["NOTES"]), Path(os.environ["GATE"])


async def note(what, thing):
    number = len(list(NOTES.iterdir()))
    (NOTES / f"{number:04} {what} {thing.name} {thing.attempt}").touch()
    while what == "begun" and not GATE.exists():
        await asyncio.sleep(0.01)


@server.sink("*", concurrency=1)
async def take(thing):
    await note("begun", thing)
    assert await thing.read() == thing.name.encode() * 1000
    assert thing.metadata == {"n": int(thing.name)}
    await note("ended", thing)
"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.sleep(0.01)


class Sinks:
    """What the program of this test has noted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.notes, self.gate = folder / "notes", folder / "gate"
        self.notes.mkdir()
        (folder / "app.py").write_text(APP)
        monkeypatch.setenv("NOTES", str(self.notes))
        monkeypatch.setenv("GATE", str(self.gate))

    def of(self, what: str) -> list[str]:
        """Return name and attempt of each time, in order."""
        found = sorted(path.name.split(" ", 2)[1:] for path in self.notes.iterdir())
        return [rest for kind, rest in found if kind == what]

    async def upload(self, server: ServerProcess, number: int) -> None:
        file = self.folder / str(number)
        file.write_bytes(str(number).encode() * 1000)
        async with connect(server.url) as client:
            await client.upload(file, str(number), metadata={"n": number}, state=False)


async def test_every_object_is_taken_whenever_the_server_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = Sinks(tmp_path, monkeypatch)
    async with running(tmp_path / "data", app="app:server", cwd=tmp_path) as server:
        for number in range(3):
            await sinks.upload(server, number)
        # The first call runs; the other objects are committed, their calls not begun.
        await until(lambda: sinks.of("begun") == ["0 1"])
        await server.kill()
        await server.start()
        await until(lambda: len(sinks.of("begun")) == 2)
        await server.kill()
        sinks.gate.touch()
        await server.start()
        await until(lambda: len(sinks.of("ended")) >= 3)
        async with connect(server.url) as client, asyncio.timeout(50):
            for name in "012":
                while (await client.status(f"objects/{name}")).reasons:
                    await asyncio.sleep(0.01)
        await server.kill()
        await server.start()
        metrics = await server.metrics()
        assert metrics['ackline_sink_objects{sink="take",state="waiting"}'] == 0
    ended = sinks.of("ended")
    assert sorted(each[0] for each in ended) == ["0", "1", "2"]
    # A call that took the process along is counted, so that the sink can tell.
    assert ended[[each[0] for each in ended].index("0")] in ("0 2", "0 3")


async def test_a_server_that_is_told_to_stop_waits_for_its_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = Sinks(tmp_path, monkeypatch)
    async with running(
        tmp_path / "data", "--drain-seconds=0.2", app="app:server", cwd=tmp_path
    ) as server:
        await sinks.upload(server, 0)
        await until(lambda: sinks.of("begun") == ["0 1"])
        stopping = asyncio.create_task(server.terminate())
        await until(lambda: "stopping" in server.log.read_text())
        sinks.gate.touch()
        assert await stopping == os.EX_OK
        assert sinks.of("ended") == ["0 1"]
