"""Runs both main jobs through a link that breaks, and checks every claim.

A 1 GiB file goes up as 4 MiB chunks; the link is cut at 740 MB; it continues from what
the disk holds and commits one verified object. Then an event stream is cut after event
37 and continues at 38. Last, a file and tokens share one connection. Exits with 1 if
anything promised is not true.

    python -m demo [--size BYTES] [--cut-at BYTES] [--keep DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.link import CutMode, Link, LinkOptions, Way

import ackline.client
from ackline.proto.checksums import crc32c

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GIB = 2**30
MIB = 2**20
CUT_AFTER_EVENT = 37
EVENTS = 100
ROOT = Path(__file__).resolve().parent.parent


class Broken(Exception):  # noqa: N818 - it is what the demo says, not an error of ours
    """Something promised is not true."""


class Report:
    """What was claimed, and whether it held."""

    def __init__(self) -> None:
        self.failed = 0

    def claim(self, text: str, *, holds: bool, seen: object) -> None:
        """Print one line and remember whether it held."""
        print(f"  {'ok  ' if holds else 'FAIL'} {text}: {seen}")
        self.failed += not holds


def make_file(path: Path, size: int) -> int:
    """Write `size` bytes that differ everywhere, and return their CRC-32C."""
    block = bytearray(os.urandom(MIB))
    crc = 0
    with path.open("wb") as file:
        for number in range(-(-size // MIB)):
            block[:8] = number.to_bytes(8, "big")
            part = block[: min(MIB, size - number * MIB)]
            crc = crc32c(part, crc)
            file.write(part)
    return crc


def crc_of(path: Path) -> int:
    """Return the CRC-32C of a file."""
    crc = 0
    with path.open("rb") as file:
        while part := file.read(MIB):
            crc = crc32c(part, crc)
    return crc


@contextlib.asynccontextmanager
async def running_server(folder: Path) -> AsyncIterator[int]:
    """Run `ackline-server` on a free port until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ackline.server",
        "--listen=127.0.0.1:0",
        "--metrics=off",
        f"--data-dir={folder / 'data'}",
        "--app=demo.app:server",
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield await _port(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _port(process: asyncio.subprocess.Process) -> int:
    """Read the port from the server's first screen."""
    assert process.stdout is not None
    assert process.stderr is not None
    seen: list[str] = []
    async with asyncio.timeout(20):
        while line := (await process.stdout.readline()).decode():
            seen.append(line)
            if "ackline://" in line:
                port = line.split("ackline://", 1)[1].split()[0].rsplit(":", 1)[1]
                return int(port)
    errors = (await process.stderr.read()).decode()
    message = f"the server did not start:\n{''.join(seen)}{errors}"
    raise Broken(message)


async def run_client(*arguments: str) -> list[dict[str, Any]]:
    """Run the `ackline` command and return its JSON lines."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ackline.client",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, errors = await process.communicate()
    if process.returncode:
        message = f"ackline {arguments[0]} ended with {process.returncode}: "
        raise Broken(message + errors.decode())
    return [json.loads(line) for line in out.decode().splitlines()]


async def upload(port: int, folder: Path, size: int, cut_at: int, rep: Report) -> None:
    """Send the file through a link that dies once, and fetch it back."""
    print(f"\n1. An upload of {size / MIB:,.0f} MiB; the link dies at {cut_at:,} bytes")
    file = folder / "big.bin"
    crc = make_file(file, size)
    options = LinkOptions(to_server=Way(cut_at=(cut_at,)), cut_mode=CutMode.RESET)
    async with Link(target_port=port, options=options) as link:
        began = time.monotonic()
        lines = await run_client(
            f"--server=ackline://127.0.0.1:{link.port}",
            f"--state-dir={folder / 'state'}",
            "--json",
            "upload",
            str(file),
            "demo/big.bin",
        )
        seconds = time.monotonic() - began
        cuts, sent = link.counters.cuts, link.counters.bytes_to_server
    result = lines[-1]
    chunks = -(-size // (4 * MIB))
    print(f"     {size / seconds / 1e6:,.0f} MB/s, the break included")
    rep.claim("the link was cut", holds=cuts == 1, seen=f"{cuts} time")
    rep.claim(
        "the client resumed", holds=result["resumes"] == 1, seen=result["resumes"]
    )
    rep.claim(
        "acknowledged chunks sent again",
        holds=result["chunks_resent"] == 0,
        seen=result["chunks_resent"],
    )
    rep.claim(
        "bytes on the wire beyond the file",
        holds=sent - size < 4 * 4 * MIB + size // 500,
        seen=f"{sent - size:,} ({(sent - size) / size:.2%}), headers included",
    )
    rep.claim("chunks stored", holds=result["chunks_sent"] >= chunks, seen=chunks)
    await fetch_back(port, folder, crc, result, rep)


async def fetch_back(
    port: int, folder: Path, crc: int, result: dict[str, Any], rep: Report
) -> None:
    """Compare what was committed with what was sent."""
    copy = folder / "copy.bin"
    await run_client(
        f"--server=ackline://127.0.0.1:{port}",
        f"--state-dir={folder / 'state'}",
        "--json",
        "fetch",
        "demo/big.bin",
        str(copy),
    )
    digest = f"crc32c:{crc:08x}"
    rep.claim("digest committed", holds=result["digest"] == digest, seen=digest)
    rep.claim(
        "digest of the object fetched back",
        holds=crc_of(copy) == crc,
        seen=f"crc32c:{crc_of(copy):08x}",
    )


async def subscribe(port: int, folder: Path, rep: Report) -> None:
    """Follow a source through a link that dies after event 37."""
    print(f"\n2. A stream of {EVENTS} tokens; the link dies after {CUT_AFTER_EVENT}")
    async with Link(target_port=port) as link:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ackline.client",
            f"--server=ackline://127.0.0.1:{link.port}",
            f"--state-dir={folder / 'state'}",
            "--json",
            "subscribe",
            "sources/tokens",
            "--param",
            f"count={EVENTS}",
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        ids: list[int] = []
        outcome: dict[str, Any] = {}
        async for line in process.stdout:
            message = json.loads(line)
            if "id" not in message:
                outcome = message
                continue
            ids.append(message["id"])
            if message["id"] == CUT_AFTER_EVENT:
                await link.cut()
        await process.wait()
        connections = link.counters.connections
    lost = len(set(range(EVENTS)) - set(ids))
    rep.claim("connections it took", holds=connections == 2, seen=connections)
    after = ids[ids.index(CUT_AFTER_EVENT) + 1] if CUT_AFTER_EVENT in ids else None
    rep.claim(
        f"the event after {CUT_AFTER_EVENT}",
        holds=after == CUT_AFTER_EVENT + 1,
        seen=after,
    )
    rep.claim("events lost", holds=lost == 0, seen=lost)
    repeated = len(ids) - len(set(ids))
    rep.claim("events repeated", holds=repeated == 0, seen=repeated)
    rep.claim("in order", holds=ids == sorted(ids), seen=ids == sorted(ids))
    ended = outcome.get("outcome")
    rep.claim("how it ended", holds=ended == "completed", seen=ended)


async def share(port: int, folder: Path, size: int, rep: Report) -> None:
    """Send the file and follow a source on the same connection."""
    print(f"\n3. {size / MIB:,.0f} MiB and 100 tokens a second share one connection")
    late: list[float] = []
    async with ackline.client.connect(f"ackline://127.0.0.1:{port}") as client:
        async with client.subscribe("sources/ticks", on_exit="cancel") as ticks:
            upload = asyncio.ensure_future(
                client.upload(folder / "big.bin", "demo/again.bin")
            )
            began = time.monotonic()
            async for event in ticks:
                assert isinstance(event, ackline.client.Event)
                late.append(time.monotonic() - float(event.text))
                if upload.done():
                    break
            seconds = time.monotonic() - began
        result = await upload
    late.sort()
    print(
        f"     {size / seconds / 1e6:,.0f} MB/s; tokens late by"
        f" p50 {late[len(late) // 2] * 1e3:.1f} ms,"
        f" p99 {late[int(len(late) * 0.99)] * 1e3:.1f} ms, max {late[-1] * 1e3:.1f} ms"
        " (measured, not judged: it depends on the machine)"
    )
    rep.claim("uploaded beside the tokens", holds=result.size == size, seen=result.size)


async def run(folder: Path, size: int, cut_at: int) -> int:
    """Run both jobs; return how many claims failed."""
    report = Report()
    async with running_server(folder) as port:
        await upload(port, folder, size, cut_at, report)
        await subscribe(port, folder, report)
        await share(port, folder, size, report)
    return report.failed


def main() -> int:
    """Run the demo; 0 if everything promised is true."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--size", type=int, default=GIB, help="bytes of the file")
    parser.add_argument(
        "--cut-at", type=int, default=740_000_000, help="bytes after which to cut"
    )
    parser.add_argument("--keep", help="work in this folder and leave it there")
    options = parser.parse_args()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="ackline-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Working in {folder}")
    try:
        failed = asyncio.run(run(folder, options.size, options.cut_at))
    except Broken as broken:
        print(f"\nFAIL {broken}")
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{'Everything holds.' if not failed else f'{failed} claims FAILED.'}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
