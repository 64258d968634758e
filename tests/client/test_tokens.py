"""Bearer tokens: where clients have them from."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from ackline.client import connect
from ackline.proto.errors import ConnectionLost, Refused, UsageError
from tests.client.processes import ROOT, command, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.client.processes import ServerProcess

import pytest_asyncio


async def make_token(path: Path, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ackline.server", "token", f"--tokens={path}", "add",
        *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def known(server: ServerProcess, token: str) -> None:
    """Wait until a server has seen a token, for which it looks once a second."""
    while True:
        with contextlib.suppress(ConnectionLost, Refused):
            async with connect(server.url, token=token):
                return
        await asyncio.sleep(0.1)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest_asyncio.fixture
async def asking(tmp_path: Path, tokens: Path) -> AsyncIterator[ServerProcess]:
    """A server that wants to know who clients are."""
    await make_token(tokens, "nobody", "--allow", "list:logs/none")
    arguments = (f"--tokens={tokens}",)
    async with running_server(tmp_path / "data", arguments=arguments) as server:
        yield server


async def test_a_token_is_given_or_asked_for(
    asking: ServerProcess, tokens: Path
) -> None:
    token = await make_token(tokens, "ann", "--allow", "publish")
    await known(asking, token)
    asked: list[str] = []

    def sync() -> str:
        asked.append("sync")
        return token

    async def soon() -> str:
        asked.append("async")
        return token

    for each in (token, sync, soon):
        async with (
            connect(asking.url, token=each) as client,
            client.publish("log") as publisher,
        ):
            await publisher.send(b"x")
    assert asked == ["sync", "async"]


async def test_without_a_token_and_with_a_wrong_one(asking: ServerProcess) -> None:
    def fails() -> str:
        raise RuntimeError("the vault is closed")

    with pytest.raises((ConnectionLost, Refused), match="give a token"):
        async with connect(asking.url):
            pass
    with pytest.raises((ConnectionLost, Refused), match="not known here"):
        async with connect(asking.url, token="wrong"):
            pass
    with pytest.raises(ConnectionLost, match="the vault is closed"):
        async with connect(asking.url, token=fails):
            pass
    with pytest.raises(UsageError, match="0 bytes"):
        async with connect(asking.url, token=""):
            pass


async def test_the_command_reads_a_file_or_the_environment(
    asking: ServerProcess, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await make_token(tokens, "ann", "--allow", "list:sources/*")
    await known(asking, token)
    file = tmp_path / "token"
    file.write_text(f"{token}\nmore\n")
    words = ("list", "sources/", f"--server={asking.url}")
    done = await command(*words, f"--token-file={file}", folder=tmp_path)
    assert (done.code, done.errors) == (0, "")
    assert "sources/count" in done.out
    monkeypatch.setenv("ACKLINE_TOKEN", token)
    assert (await command(*words, folder=tmp_path)).code == 0
    monkeypatch.delenv("ACKLINE_TOKEN")
    done = await command(*words, folder=tmp_path)
    assert done.code in (3, 4)
    assert "ACKLINE_TOKEN" in done.errors
    for content, says in ((None, "cannot be read"), ("\n", "has no token")):
        file.unlink() if content is None else file.write_text(content)
        done = await command(*words, f"--token-file={file}", folder=tmp_path)
        assert done.code == 2
        assert says in done.errors
    done = await command(
        "upload", str(ROOT / "LICENSE"), f"--server={asking.url}", folder=tmp_path
    )
    assert token not in done.errors
    assert os.environ.get("ACKLINE_TOKEN") is None
