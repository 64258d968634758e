"""The run as a command; exits with 1 if the account does not come out even."""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client import connect
from tests.acceptance.processes import ROOT, ServerProcess, environment
from tests.soak.account import Account
from tests.soak.faults import Disk, LinkFaults, links_to
from tests.soak.health import Samples
from tests.soak.journal import entries
from tests.soak.worker import OPTIONS, STOP, read_log

if TYPE_CHECKING:
    from tests.link import Link

NAMES = ("a", "b", "c")
DISK = 512 * 2**20
LONG_LIFE = 150.0
WINDING_UP = 120.0
"""Seconds that the workers get to finish what they have begun."""

SERVER_OPTIONS = (
    "--heartbeat=1",
    "--drain-seconds=5",
    "--session-ttl=60",
    "--upload-ttl=300",
    "--outcome-ttl=60",
    "--run-grace=10",
    "--run-retention=10",
    "--cleanup-interval=2",
    "--disk-reserve=16777216",
    "--log-segment-bytes=2097152",
    "--cache-budget=8388608",
    "--run-retention-bytes=16777216",
)


class Soak:
    """One run."""

    def __init__(
        self, seconds: float, seed: int, folder: Path, *, one_life: bool = False
    ) -> None:
        self.seconds = seconds
        self.seed = seed
        self.one_life = one_life
        self.folder = folder
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.account = Account()
        self.samples = Samples()
        self.disk = Disk(folder / "disk", DISK)
        self.server = ServerProcess(
            self.disk.folder / "data", *SERVER_OPTIONS, app="tests.soak.app:server"
        )
        self.server.log = folder / "server.log"
        self.workers: dict[str, asyncio.subprocess.Process] = {}
        self.links: list[Link] = []

    async def run(self) -> Account:
        """Load, let things happen, and settle the account."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.disk)
            await self.start_server()
            stack.push_async_callback(self.kill_server)
            for link in links_to(self.server.port, self.seed):
                self.links.append(await stack.enter_async_context(link))
            keeping = [
                asyncio.create_task(each)
                for each in (
                    self.samples.take(),
                    *(self.keep_worker(name) for name in NAMES),
                )
            ]
            stack.callback(lambda: [each.cancel() for each in keeping])
            stack.callback(self.kill_workers)
            await self.let_things_happen()
            await self.wind_up(keeping[1:])
            await self.settle()
        return self.account

    # Server and workers

    async def start_server(self) -> None:
        await self.server.start()
        self.samples.began(self.server.pid)

    async def kill_server(self) -> None:
        self.samples.ended()
        await self.server.kill()

    async def stop_server(self) -> None:
        self.samples.ended()
        code = await self.server.terminate()
        self.account.check(code == 0, f"SIGTERM: the server's exit code is {code}")

    async def keep_worker(self, name: str) -> None:
        """Start a worker again whenever it is killed."""
        number = NAMES.index(name)
        while True:
            link = self.links[number % len(self.links)]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.soak.worker",
                f"--name={name}",
                f"--reads={NAMES[number - 1]}",
                f"--url=ackline://127.0.0.1:{link.port}",
                f"--folder={self.folder}",
                cwd=ROOT,
                env=environment(),
            )
            self.workers[name] = process
            code = await process.wait()
            if code != -signal.SIGKILL:
                self.account.check(code == 0, f"worker {name} ended with {code}")
                return

    # Faults

    async def let_things_happen(self) -> None:
        began = time.monotonic()
        links = LinkFaults(self.links, self.chance, self.happened)
        life = self.lifetime(0)
        lives, born = 0, began
        while (now := time.monotonic()) - began < self.seconds:
            await asyncio.sleep(self.chance.uniform(1, 6))
            if now - born > life:
                await self.end_of_life()
                lives, born = lives + 1, time.monotonic()
                life = self.lifetime(lives)
                continue
            match self.chance.choices(("link", "client", "disk"), (8, 2, 1))[0]:
                case "link":
                    await links.one()
                case "client":
                    self.happened["client: SIGKILL"] += 1
                    with suppress(ProcessLookupError):
                        self.workers[self.chance.choice(NAMES)].kill()
                case _ if self.disk.mounted:
                    self.happened["disk: full"] += 1
                    await self.disk.fill(self.chance.uniform(0.2, 4))

    def lifetime(self, number: int) -> float:
        """Every fourth life is long enough to see whether anything grows."""
        if self.one_life:
            return math.inf
        if number % 4 == 2:
            return max(LONG_LIFE, self.seconds / 8)
        return self.chance.uniform(5, 40)

    async def end_of_life(self) -> None:
        how = self.chance.choice(("SIGKILL", "SIGTERM"))
        self.happened[f"server: {how}"] += 1
        await (self.kill_server() if how == "SIGKILL" else self.stop_server())
        await asyncio.sleep(self.chance.uniform(0, 1.5))
        await self.start_server()

    # The end

    async def wind_up(self, workers: list[asyncio.Task[None]]) -> None:
        """Have the workers finish, without any further fault."""
        (self.folder / STOP).touch()
        _done, late = await asyncio.wait(workers, timeout=WINDING_UP)
        if late:
            self.account.faults.append(
                f"{len(late)} workers do not come to an end: {await self.states()}"
            )
            for task in late:
                task.cancel()
            self.kill_workers()

    def kill_workers(self) -> None:
        for process in self.workers.values():
            with suppress(ProcessLookupError):
                process.kill()

    async def states(self) -> list[str]:
        """Return what is not moving, and why."""
        async with connect(self.server.url, options=OPTIONS) as client:
            found: list[str] = []
            for prefix in ("uploads/", "runs/", "sessions/"):
                async for entry in client.list(prefix):
                    report = await client.status(entry.resource)
                    found.append(f"{entry.resource} {report.state} {report.reasons}")
            return found

    async def settle(self) -> None:
        account = self.account
        journals = [self.folder / f"{name}.journal" for name in NAMES]
        account.add_uploads(journals)
        for name in NAMES:
            await self.settle_log(name)
        account.add_runs(journals)
        account.add_faults(journals)
        for life in self.samples.lives:
            if life.long:
                for what, name, unit, scale in (
                    (1, "memory", "MiB", 2**20),
                    (2, "open files", "", 1),
                ):
                    first, last, slope = life.change(what)
                    account.tell(
                        f"{name} over {life.points[-1][0]:.0f} s: first third"
                        f" {first / scale:.1f} {unit}, last third {last / scale:.1f}"
                        f" {unit}, slope {slope / scale:+.2f} a minute"
                    )
                course = " ".join(f"{each / 2**20:.0f}" for each in life.course(1))
                account.tell(f"memory in ten steps: {course} MiB")
                account.faults += life.faults()
        await self.stop_server()
        await self.verify_folder()
        self.read_server_log()
        happened = ", ".join(f"{k} {n}" for k, n in sorted(self.happened.items()))
        flips = sum(link.counters.flips for link in self.links)
        cuts = sum(link.counters.cuts for link in self.links)
        account.tell(f"happened: {happened}; {flips} bits flipped, {cuts} cuts")
        if not self.disk.mounted:
            account.tell("the disk was never full: no file system can be mounted here")

    async def settle_log(self, name: str) -> None:
        """Read what the worker that reads this log has not read yet."""
        reader = NAMES[(NAMES.index(name) + 1) % len(NAMES)]
        read = entries(self.folder / f"{reader}.journal", "read")
        last = entries(self.folder / f"{name}.journal", "published")
        published = last[-1]["units"] if last else 0
        received = sum(each["counts"][0] for each in read)
        trimmed = sum(each["counts"][1] for each in read)
        at = read[-1]["position"] if read else 0
        done = asyncio.Event()

        def note(position: int, more: int, gone: int) -> None:
            nonlocal received, trimmed, at
            received, trimmed, at = received + more, trimmed + gone, position
            if at >= published:
                done.set()

        async with connect(self.server.url, options=OPTIONS) as client:
            if at < published:
                reading = asyncio.create_task(read_log(client, name, at, note))
                waiting = asyncio.create_task(done.wait())
                await asyncio.wait(
                    [reading, waiting],
                    timeout=30,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in (reading, waiting):
                    task.cancel()
                [failed, _] = await asyncio.gather(
                    reading, waiting, return_exceptions=True
                )
                if isinstance(failed, Exception):
                    self.account.faults.append(f"log {name}: {failed}")
            facts = (await client.status(f"logs/{name}")).facts
        self.account.add_log(name, published, received, trimmed)
        self.account.check(
            facts.get("position", at) == published, f"log {name} has more: {facts}"
        )

    async def verify_folder(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ackline.server",
            "check",
            f"--data-dir={self.server.data_dir}",
            cwd=ROOT,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        said = out.decode().strip()
        self.account.tell(f"ackline-server check: {said.splitlines()[-1:]}")
        self.account.check(process.returncode == 0, f"check found: {said}")

    def read_server_log(self) -> None:
        text = self.server.log.read_text(errors="replace")
        for word in ("Traceback", "never awaited"):
            at = text.find(word)
            if at >= 0:
                excerpt = text[max(0, at - 500) : at + 3000]
                self.account.faults.append(f"the server's log: {excerpt}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep logs and journals")
    parser.add_argument(
        "--one-life", action="store_true", help="never end the server: does it grow?"
    )
    chosen = parser.parse_args()
    seed = random.randrange(10**6) if chosen.seed is None else chosen.seed
    folder = Path(tempfile.mkdtemp(prefix="ackline-soak-"))
    print(f"soaking for {chosen.seconds:g} s, seed {seed}, in {folder}", flush=True)
    soak = Soak(chosen.seconds, seed, folder, one_life=chosen.one_life)
    account = asyncio.run(soak.run())
    print(*account.lines, sep="\n")
    for fault in account.faults:
        print(f"FAULT: {fault}")
    if account.faults or chosen.keep:
        print(f"logs and journals are in {folder}")
    else:
        shutil.rmtree(folder)
    print(
        "the account does not come out" if account.faults else "the account comes out"
    )
    return 1 if account.faults else 0


if __name__ == "__main__":
    sys.exit(main())
