"""tus 1.0 with its makers' packages: @tus/server with a file store, tus-js-client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data import crc_of
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.specs import Spec, Upload

if TYPE_CHECKING:
    from asyncio.subprocess import Process

__all__ = ["able", "peer", "serve", "stored", "version_of"]

CHUNK_SIZE = 64 << 20
_FOLDER = Path(__file__).parent / "tus"
_MODULES = _FOLDER / "node_modules"


def version_of(package: str) -> str:
    """Return the version of a npm package that is installed for the peers."""
    with contextlib.suppress(FileNotFoundError):
        return str(
            json.loads((_MODULES / package / "package.json").read_text())["version"]
        )
    return ""


def able(spec: Spec) -> bool:
    """Tell whether a tus server promises what is asked for: it never syncs."""
    return isinstance(spec, Upload) and spec == Upload(
        folder=spec.folder, size=spec.size
    )


peer = Peer(
    title=f"@tus/server {version_of('@tus/server')}, tus-js-client"
    f" {version_of('tus-js-client')}",
    settings=(
        f"Node; the file store; requests of {CHUNK_SIZE >> 20} MiB, the fastest of 4,"
        " 16 and 64, each acknowledged, one after another on one connection; `whole`:"
        " one request for the file, nothing acknowledged before its end, but what is"
        " there can be asked for. No checksum, nothing synced."
    ),
    programs={"node": "nodejs"},
    folders={_MODULES: "npm install --prefix bench/peers/tus"},
    options=("", "whole"),
    able=able,
)


@peer.server(Upload)
async def serve(spec: Upload, job: Job, ready: Ready) -> None:
    """Run the server."""
    async with _node("server.mjs", str(job.folder)) as server:
        assert server.stdout is not None
        port = int(await server.stdout.readline())
        extra = {"folder": str(job.folder)}
        await ready(Address(port=port, pids=[server.pid], extra=extra))
        await server.wait()


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Send the file."""
    url = f"http://127.0.0.1:{job.server.port}/files"
    chunk_size = "Infinity" if job.option == "whole" else str(CHUNK_SIZE)
    async with _node("client.mjs", url, str(job.source), chunk_size) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        await client.stdout.readline()
        with job.clock:
            client.stdin.write(b"\n")
            url = (await client.stdout.readline()).decode().strip()
    check(crc_of(stored(job, url)) == job.crc, "the file that was stored differs")
    return Measured(units=spec.size, checked="CRC-32C of the stored file, afterwards")


def stored(job: Job, url: str) -> Path:
    """Return the file in which the server keeps an upload."""
    return Path(job.server.extra["folder"]) / url.rpartition("/")[2]


@contextlib.asynccontextmanager
async def _node(script: str, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(_FOLDER / script),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
