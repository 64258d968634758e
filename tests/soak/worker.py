"""One client under load: `python -m tests.soak.worker`; a file `stop` ends it in peace.

It may be killed at any moment and is started again with the same folder. What it
uploads, publishes and reads is a function of its name and a number, so that whoever
sees it can check it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import traceback
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client import (
    Client,
    ClientOptions,
    Code,
    ConnectionLost,
    Event,
    Gap,
    Refused,
    StreamEnded,
    connect,
)
from ackline.proto.errors import code_name
from tests.soak.journal import Journal, entries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["STOP", "Worker", "content", "event_body", "log_fault", "read_log"]

OPTIONS = ClientOptions(
    heartbeat=1.0, connect_timeout=3.0, backoff_last=1.0, wait_for_server=True
)
STOP = "stop"
CHUNK = 2**17
LARGEST = 4 * 2**20
MAY_BE_REFUSED = frozenset({Code.INSUFFICIENT_STORAGE, Code.STORAGE_FAILED})
"""What a full disk may say; everything else is a fault."""
GONE = frozenset({Code.PRODUCER_LOST, Code.POSITION_TRIMMED})
"""How a run may end that was in the memory of a server which stopped."""

LOG_BYTES = 24 * 2**20
POLICIES = (
    ("block", None),
    ("latest", None),
    ("sample", 0.2),
    ("merge", None),
    ("drop-oldest", 500),
)


def content(name: str) -> bytes:
    """Return what the file of this name is: 1 byte to 4 MiB, most of them small."""
    chance = random.Random(name)
    return chance.randbytes(int(LARGEST ** chance.uniform(0, 1)))


def event_body(log: str, unit: int) -> bytes:
    """Return what the unit of this number is."""
    head = f"{log}:{unit}:".encode()
    return head + bytes(zlib.crc32(head) % 400)


def log_fault(log: str, event: Event) -> str:
    """Return what is wrong with an event of a log; "" if nothing is."""
    if event.data == event_body(log, event.id):
        return ""
    return f"event {event.id} of {log} is {event.data[:40]!r}"


async def read_log(
    client: Client, log: str, start: int, note: Callable[[int, int, int], None]
) -> None:
    """Read a log for ever; tell `note` position, and events and gaps since then.

    Raises:
        ValueError: an event is not what was published.
    """
    reading = client.subscribe(f"logs/{log}", start=start, on_trimmed="gap")
    async with reading as events:
        async for batch in events.batches():
            received = trimmed = 0
            for item in batch:
                if isinstance(item, Gap):
                    trimmed += item.count
                    continue
                received += 1
                if fault := log_fault(log, item):
                    raise ValueError(fault)
            last = batch[-1]
            end = last.id + (last.count if isinstance(last, Gap) else 1)
            note(end, received, trimmed)


class Worker:
    """Does all four uses at once, until told to stop."""

    def __init__(self, name: str, folder: Path, reads: str) -> None:
        self.name = name
        self.folder = folder
        self.path = folder / f"{name}.journal"
        self.journal = Journal(self.path)
        self.reads = reads
        self.stopped = asyncio.Event()
        self.chance = random.Random()  # not seeded: each life is another

    async def run(self, url: str) -> None:
        stopping = asyncio.create_task(self.look_for_stop())
        async with connect(url, options=OPTIONS) as client:
            reading = asyncio.create_task(self.guarded(self.read, client))
            await asyncio.gather(
                *(
                    self.guarded(each, client)
                    for each in (self.upload, self.publish, self.watch, self.watch)
                )
            )
            reading.cancel()
            await asyncio.wait([reading])
        await stopping
        self.journal.note("stopped")

    async def look_for_stop(self) -> None:
        # A file, because one that has just been started again must see it too.
        while not (self.folder / STOP).exists():
            await asyncio.sleep(0.1)
        self.stopped.set()

    async def guarded(
        self, work: Callable[[Client], Awaitable[None]], client: Client
    ) -> None:
        """Do work until told to stop; whatever it raises is written down."""
        while True:
            try:
                await work(client)
            except asyncio.CancelledError:
                raise
            except Refused as refusal:
                if refusal.code not in MAY_BE_REFUSED:
                    self.journal.note("fault", text=traceback.format_exc())
                self.journal.note("held", code=refusal.code)
                await asyncio.sleep(0.5)
            except Exception:  # noqa: BLE001 - the account has it
                self.journal.note("fault", text=traceback.format_exc())
                await asyncio.sleep(0.5)
            else:
                return

    async def rest(self, longest: float) -> None:
        await asyncio.sleep(self.chance.uniform(0, longest))

    # Uploads, and fetching what was stored

    async def upload(self, client: Client) -> None:
        done = {
            each["number"]: each
            for each in entries(self.path, "stored", "refused", "verified", "deleted")
        }
        for number, state in done.items():
            if state["what"] in ("stored", "verified"):
                await self.verify(client, number, state["what"])
        number = max(done, default=-1) + 1
        # What an earlier life sent is brought to its end, even if it is time to stop.
        begun = len({each["number"] for each in entries(self.path, "sent")})
        while number < begun or not self.stopped.is_set():
            await self.store(client, number)
            number += 1
            await self.rest(0.3)

    async def store(self, client: Client, number: int) -> None:
        name = f"{self.name}/{number}"
        if not any(e["number"] == number for e in entries(self.path, "sent")):
            self.journal.note("sent", number=number)
        data = content(name)
        while True:
            try:
                made = await client.upload(data, name, key=name, chunk_size=CHUNK)
            except Refused as refusal:
                if refusal.code not in MAY_BE_REFUSED:
                    raise
                self.journal.note("refused", number=number, code=refusal.code)
                return
            break
        crc = zlib.crc32(data)
        self.journal.note("stored", number=number, crc=crc, again=made.chunks_resent)
        await self.verify(client, number, "stored")

    async def verify(self, client: Client, number: int, state: str) -> None:
        name = f"{self.name}/{number}"
        if state == "stored":
            found = await client.fetch(name, chunk_size=CHUNK)
            if found.data != content(name):
                raise ValueError(f"{name} is not what was uploaded")
            self.journal.note("verified", number=number)
        # Again, if the connection is lost before the answer comes.
        while [each async for each in client.list(f"objects/{name}")]:
            try:
                await client.delete(f"objects/{name}")
            except ConnectionLost:
                continue  # look whether it was done
            except Refused as refusal:
                if refusal.code == Code.NOT_FOUND:
                    break
                raise
        self.journal.note("deleted", number=number)

    # Publishing, and reading what another one publishes

    async def publish(self, client: Client) -> None:
        log = self.name
        await client.configure(log, retention_bytes=LOG_BYTES)
        acknowledged = [e["units"] for e in entries(self.path, "acknowledged")]
        async with client.publish(log, key=log) as publisher:
            unit = publisher.first_unit
            if unit < max(acknowledged, default=0):
                raise ValueError(f"{log} continues at {unit}, after {acknowledged[-1]}")
            while not self.stopped.is_set():
                for _ in range(self.chance.randrange(200)):
                    await publisher.send(event_body(log, unit))
                    unit += 1
                await self.rest(0.1)
                if not self.chance.randrange(10):
                    await publisher.flush()
                    self.journal.note("acknowledged", units=unit)
            await publisher.flush()
            self.journal.note("acknowledged", units=unit)
            self.journal.note("published", units=unit, position=publisher.log_position)

    async def read(self, client: Client) -> None:
        log = self.reads
        before = entries(self.path, "read")
        start = before[-1]["position"] if before else 0
        counts = [0, 0]

        def note(position: int, received: int, trimmed: int) -> None:
            nonlocal start
            counts[0] += received
            counts[1] += trimmed
            if position - start >= 500:
                start = position
                self.journal.note("read", position=position, counts=counts)
                counts[:] = [0, 0]

        while True:
            try:
                await read_log(client, log, start, note)
            except Refused as refusal:
                if refusal.code != Code.NOT_FOUND:
                    raise
                await asyncio.sleep(0.2)  # its publisher has not begun

    # Runs

    async def watch(self, client: Client) -> None:
        while not self.stopped.is_set():
            await self.watch_one(client)
            await self.rest(0.3)

    async def watch_one(self, client: Client) -> None:
        chance = self.chance
        source = chance.choice(["memory", "kept", "steps", "kept-steps"])
        policy, value = chance.choice(POLICIES)
        events = chance.randrange(1, 4000)
        slow = chance.choice([0.0, 0.0, 0.01])
        lost = ""
        async with client.subscribe(
            f"sources/{source}",
            params={"events": events, "pause": chance.choice([0.0, 0.005])},
            policy=policy,
            policy_value=value,
        ) as run:
            received = 0
            try:
                async for item in run:
                    received += isinstance(item, Event)
                    if slow and not received % 50:
                        await asyncio.sleep(slow)
            except (StreamEnded, Refused) as error:
                code = error.code if isinstance(error, Refused) else error.outcome.code
                if code not in GONE:
                    raise
                lost = code_name(code)
            self.journal.note(
                "run",
                source=source,
                policy=policy,
                wanted=events,
                produced=0 if run.outcome is None else run.outcome.position,
                received=received,
                left=[run.left_out.merged, run.left_out.dropped, run.left_out.trimmed],
                lost=lost,
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--name", "--url", "--reads"):
        parser.add_argument(option, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    chosen = parser.parse_args()

    async def work() -> None:
        await Worker(chosen.name, chosen.folder, chosen.reads).run(chosen.url)

    asyncio.run(work())


if __name__ == "__main__":
    main()
