from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ackline.client.cli.running import Exit
from tests.client.processes import command

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client import Client
    from tests.client.processes import ServerProcess


async def test_trace_tells_the_story_of_a_session_and_of_one_stream(
    server: ServerProcess, client: Client, name: str, tmp_path: Path
) -> None:
    at = ("--server", server.url)
    await client.upload(b"x", name)
    await client.fetch(name, tmp_path / "x")
    session = client._supervisor.session.session
    assert session is not None
    done = await command(
        *at, "trace", f"sessions/{session.session_id}", folder=tmp_path
    )
    assert done.code == Exit.DONE
    assert done.out.startswith(f"sessions/{session.session_id}: STREAMING\n")
    assert "begun by" in done.out
    of_stream = await command(
        *at, "--json", "trace", f"{session.session_id}/1", folder=tmp_path
    )
    (opened, ended) = json.loads(of_stream.out)["history"]
    assert " stream 1 uploads/" in opened
    assert "opened by" in opened
    assert ended.endswith("completed at 1")


async def test_trace_of_what_is_not_there_says_so(
    server: ServerProcess, tmp_path: Path
) -> None:
    at = ("--server", server.url)
    done = await command(*at, "trace", "uploads/none", folder=tmp_path)
    assert (done.code, "uploads/none" in done.errors) == (Exit.REFUSED, True)
    done = await command(*at, "trace", "none", folder=tmp_path)
    assert (done.code, "is not a resource" in done.errors) == (Exit.USAGE, True)
