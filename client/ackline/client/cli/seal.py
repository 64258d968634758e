"""End a log: it takes no more, and its subscribers end after its last event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import log_name

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "seal"
HELP = "end a log: it takes no more"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("log", metavar="LOG", type=log_name, help="logs/NAME")
    parser.add_argument(
        "--outcome",
        choices=("completed", "failed", "cancelled"),
        default="completed",
        help="how it ended, for its subscribers (default: completed)",
    )
    parser.add_argument("--text", default="", help="why, for its subscribers")


class Command(BaseCommand):
    """`ackline seal`."""

    async def run(self, client: Client) -> int:
        """Seal; sealing again changes nothing."""
        options = self.arguments
        told = await client.seal(options.log, intent=options.outcome, text=options.text)
        self.result(told, log=f"logs/{options.log}", text=told)
        return Exit.DONE
