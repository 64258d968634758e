"""Create a log, or change how long one keeps its events.

Whole files of a log are deleted, so somewhat more is kept than asked for.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import age, log_name, size_limit

if TYPE_CHECKING:
    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "create"
HELP = "create a log, or change how long it keeps its events"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("log", metavar="LOG", type=log_name, help="logs/NAME")
    parser.add_argument(
        "--max-age",
        type=age,
        default=argparse.SUPPRESS,
        metavar="AGE",
        help="delete events older than this, such as 7d, 12h, 30m or 45s; off keeps"
        " them (default: as it is; a new log keeps everything)",
    )
    parser.add_argument(
        "--max-size",
        type=size_limit,
        default=argparse.SUPPRESS,
        metavar="SIZE",
        help="delete the oldest events beyond this, such as 1GB; off keeps them"
        " (default: as it is)",
    )


class Command(BaseCommand):
    """`ackline create`."""

    async def run(self, client: Client) -> int:
        """Configure, and show what holds now."""
        options = self.arguments
        told = await client.configure(
            options.log,
            retention_seconds=getattr(options, "max_age", "unchanged"),
            retention_bytes=getattr(options, "max_size", "unchanged"),
        )
        self.result(told, log=f"logs/{options.log}", text=told)
        return Exit.DONE
