"""Cancel a run or an upload, whoever began it, and wait until it has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit, outcome_fields
from ackline.proto.errors import code_name
from ackline.proto.messages import OutcomeKind

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "cancel"
HELP = "cancel a run or an upload"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("target", metavar="TARGET", help="runs/ID or uploads/ID")


class Command(BaseCommand):
    """`ackline cancel`."""

    async def run(self, client: Client) -> int:
        """Cancel; it is a failure if there was another outcome before."""
        target = self.arguments.target
        outcome = await client.cancel(target)
        cancelled = outcome.outcome == OutcomeKind.CANCELLED
        if cancelled:
            text = f"{target}: cancelled at position {outcome.position}"
        else:
            ended = OutcomeKind(outcome.outcome).name.lower()
            why = f" ({code_name(outcome.code)})" if outcome.code else ""
            text = f"{target}: had {ended}{why} before"
        self.result(text, target=target, **outcome_fields(outcome))
        return Exit.DONE if cancelled else Exit.FAILED
