"""The brokers do their work wherever they are installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from bench.specs import Many, Publish, Spec, Subscribe, Upload

from tests.bench.runs import run_once

MIB = 1 << 20
SMALL: tuple[Spec, ...] = (
    Upload(size=5 * MIB),
    Upload(size=5 * MIB, durability="synced", folder="disk"),
    Subscribe(events=5_050),
    Publish(events=20_000),
    Many(streams=6, seconds=0.3),
    Many(streams=6, connections=6, seconds=0.3, producers="each"),
)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize("name", ["redis", "nats", "rabbitmq", "mosquitto"])
def test_a_run_measures_both_sides(tmp_path: Path, name: str, spec: Spec) -> None:
    run_once(tmp_path, name, spec)


def test_a_program_ends_with_a_role_that_is_killed(tmp_path: Path) -> None:
    role = textwrap.dedent("""
        import asyncio, pathlib, sys
        from bench.programs import free_port, running

        async def main():
            port = free_port()
            command = (sys.executable, "-m", "http.server", str(port))
            async with running(
                *command, port=port, folder=pathlib.Path(sys.argv[1])
            ) as program:
                print(program.pid, flush=True)
                await program.wait()

        asyncio.run(main())
    """)
    with subprocess.Popen(
        [sys.executable, "-c", role, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        program = psutil.Process(int(process.stdout.readline()))
        process.kill()
    until = time.monotonic() + 10
    while program.is_running() and program.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the program still runs"
        time.sleep(0.01)
