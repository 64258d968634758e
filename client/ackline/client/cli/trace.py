"""Show what happened to a stream, upload, run, log or session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import printable

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "trace"
HELP = "show what happened to a stream, upload, run, log or session"

_STREAM = re.compile(r"([0-9a-f]{32})/([0-9]+)")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "target",
        metavar="ID",
        help="such as uploads/ID, runs/ID, logs/NAME or sessions/ID; of one stream"
        " SESSION/STREAM, as the live page shows it",
    )


class Command(BaseCommand):
    """`ackline trace`."""

    async def run(self, client: Client) -> int:
        """Ask and print."""
        target, only = self.arguments.target, ""
        stream = _STREAM.fullmatch(target)
        if stream is not None:
            target, only = f"sessions/{stream[1]}", f" stream {stream[2]} "
        report = await client.status(target)
        history = [line for line in report.history if only in line]
        shown = history or ["nothing is known of what happened to it"]
        lines = [f"{self.arguments.target}: {report.state}"]
        lines += [f"  {printable(line)}" for line in shown]
        self.result(
            "\n".join(lines),
            target=report.target,
            state=report.state,
            history=history,
        )
        return Exit.DONE
