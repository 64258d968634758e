"""Delete an object, one version of it, or a log with all its events.

There is no way back. Who is fetching an object can finish; who subscribes or publishes
to a log is told `not_found`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import count

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "delete"
HELP = "delete an object or a log"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("target", metavar="TARGET", help="objects/NAME or logs/NAME")
    parser.add_argument(
        "--version",
        type=count,
        default=0,
        metavar="NUMBER",
        help="this version of an object only (default: all)",
    )


class Command(BaseCommand):
    """`ackline delete`."""

    async def run(self, client: Client) -> int:
        """Delete."""
        options = self.arguments
        told = await client.delete(options.target, version=options.version)
        self.result(told, target=options.target, text=told)
        return Exit.DONE
