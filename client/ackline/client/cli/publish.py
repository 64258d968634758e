"""Publish lines to a durable log, one event each.

A FILE is published by line number: killed and started again, the command continues, and
each line is in the log once. Lines of standard input are sent as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from ackline.client.cli.lines import Lines, piped_lines
from ackline.client.cli.running import BaseCommand, Exit, outcome_fields
from ackline.client.cli.values import log_name, open_file, seconds
from ackline.client.state import open_state
from ackline.client.threads import Threads
from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from ackline.client import Client, Publisher
    from ackline.client.state import State
    from ackline.proto.proofs import ProofSum

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "publish"
STDIN = 0
HELP = "publish lines of a file or of standard input to a log"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "log",
        metavar="LOG",
        type=log_name,
        help="its name, or logs/NAME as `list` prints it",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="file with one event a line; - is standard input (default)",
    )
    parser.add_argument(
        "--key", help="name of this publisher (default: made and remembered for a FILE)"
    )
    parser.add_argument("--kind", default="", help="kind of the events")
    parser.add_argument(
        "--linger",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for more lines before sending some (default: 0)",
    )


class Command(BaseCommand):
    """`ackline publish`."""

    _file: IO[bytes] | None = None

    def prepare(self) -> None:
        """Open the file."""
        self.display.counts = True
        self.display.title = self.arguments.log
        name = self.arguments.file
        if name == "-":
            stdin: TextIO | None = sys.stdin
            if stdin is None:
                raise UsageError("standard input is closed; name a FILE")
        else:
            if Path(name).is_dir():
                raise UsageError(f"{name} is a directory; publish one file")
            self._file = open_file(Path(name))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def interrupted(self) -> str:
        """Say how to continue."""
        if self.arguments.file == "-":
            return "interrupted; what was acknowledged is in the log"
        return f"interrupted; what was sent is in the log. To continue: {self.again()}"

    async def run(self, client: Client) -> int:
        """Publish."""
        file = self._file
        if file is None:
            blocks = piped_lines(STDIN, Threads())
            return await self._publish(client, self.arguments.key, blocks, None)
        lines = Lines(file, self.arguments.file)
        state = self._state(client)
        with contextlib.ExitStack() as stack:
            if state is not None:
                stack.enter_context(state.locked(f"publishing {self.arguments.file}"))
            key = self.arguments.key or self._key(state)
            return await self._publish(client, key, _blocks(lines), lines)

    async def _publish(
        self,
        client: Client,
        key: str | None,
        blocks: AsyncIterator[list[bytes]],
        lines: Lines | None,
    ) -> int:
        kind = self.arguments.kind

        async def prefix(position: int) -> ProofSum:
            assert lines is not None
            return await asyncio.to_thread(lines.skip, position)

        publisher = client.publish(
            self.arguments.log,
            key=key,
            kinds=[kind] if kind else [],
            linger=self.arguments.linger,
            prefix=None if lines is None or kind else prefix,
            on_progress=self.display.show,
        )
        async with publisher:
            if lines is not None and kind and publisher.first_unit:
                await prefix(publisher.first_unit)
            async for block in blocks:
                for line in block:
                    await publisher.send(line, kind)
            outcome = await publisher.finish()
        self._result(publisher, outcome_fields(outcome))
        return Exit.DONE

    def _result(self, publisher: Publisher, outcome: dict[str, object]) -> None:
        sent = publisher.position - publisher.first_unit
        before = ""
        if publisher.first_unit:
            before = f" (and {publisher.first_unit:,} before)"
        self.result(
            f"published {sent:,} events{before} to {publisher.resource}",
            **outcome,
            log=publisher.resource,
            events=sent,
            first_unit=publisher.first_unit,
            log_position=publisher.log_position,
            resumes=publisher.resumes,
        )

    def _state(self, client: Client) -> State | None:
        if self.arguments.key is not None:
            return None
        path = Path(self.arguments.file)
        return open_state(
            self.arguments.state_dir,
            "publishers",
            client.home,
            self.arguments.log,
            path.resolve(),
            path.stat().st_ino,
            self.arguments.kind,
        )

    def _key(self, state: State | None) -> str:
        assert state is not None
        key = str(state.get().get("key", ""))
        if not key:
            key = secrets.token_hex(16)
            state.put(key=key)
        return key


async def _blocks(lines: Lines) -> AsyncIterator[list[bytes]]:
    while block := await asyncio.to_thread(lines.read):
        yield block
