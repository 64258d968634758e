"""The README's examples run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from ackline.client.cli.running import Exit
from tests.acceptance.processes import ROOT, environment, running


def example(name: str) -> str:
    """Return the Python block that follows a marker in README.md."""
    text = (ROOT / "README.md").read_text()
    block = rf"<!-- example: {name} -->\n```python\n(.*?)```"
    found = re.search(block, text, re.DOTALL)
    assert found is not None, f"README.md has no example {name!r}"
    return found[1]


async def test_the_ten_lines_of_server_and_client_work(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(example("server"))
    (tmp_path / "cat.jpg").write_bytes(os.urandom(100_000))
    ticks = ["0 tick 0", "1 tick 1", "2 tick 2"]
    async with running(tmp_path / "data", app="app:server", cwd=tmp_path) as server:
        printed = await run(example("client"), server.url, tmp_path)
        assert printed[0].startswith("uploaded 100000 bytes as ")
        assert printed[1:] == ticks
        assert await run(example("blocking"), server.url, tmp_path) == ticks


async def run(program: str, url: str, folder: Path) -> list[str]:
    """Run a program of the README beside a server; return the lines it prints."""
    script = folder / "client.py"
    script.write_text(program.replace("ackline://127.0.0.1:7171", url))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        cwd=folder,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    text = (ROOT / "README.md").read_text()
    table = dict(re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE))
    assert {int(code) for code in table} == {int(code) for code in Exit}
