"""The programs in examples/, as somebody runs them who has just read them."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING

from tests.acceptance.processes import ROOT, environment, run_client, running

if TYPE_CHECKING:
    from pathlib import Path


async def test_viewers_of_the_token_service_see_one_run(tmp_path: Path) -> None:
    app = "examples.token_service:server"
    async with running(tmp_path / "data", app=app) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.token_viewers", server.url),
            cwd=ROOT,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        printed = out.decode().splitlines()
        seen = dict(re.findall(r"^(\w+) saw: (.*)$", out.decode(), re.MULTILINE))
        assert len(seen["Ann"].split()) == 8
        assert len(seen["Ben"].split()) == 16
        assert seen["Ben"].startswith(seen["Ann"])
        assert printed[0].startswith("started runs/")
        assert "told: cancelled_by_client at position" in printed[-1]
        stopped = re.findall(
            r"the model stopped after (\d+) tokens", server.log.read_text()
        )
        assert len(stopped) == 1
        assert int(stopped[0]) < 10_000


async def test_the_token_service_completes_from_the_command_line(
    tmp_path: Path,
) -> None:
    app = "examples.token_service:server"
    async with running(tmp_path / "data", app=app) as server:
        told = await run_client(
            server.port,
            tmp_path,
            *("subscribe", "sources/tokens", "--key=mine"),
            *("--param=prompt=The model", "--param=most=5", "--param=pause=0"),
        )
        *tokens, usage, outcome = told
        assert [each["kind"] for each in tokens] == ["token"] * 5
        assert usage["data"] == "5 tokens"
        assert outcome["outcome"] == "completed"
