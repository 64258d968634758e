"""Show the state of a resource, and why it is not moving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "status"
HELP = "show the state of a resource, and why it is not moving"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "target", metavar="TARGET", help="such as uploads/ID, runs/ID or logs/NAME"
    )


class Command(BaseCommand):
    """`ackline status`."""

    async def run(self, client: Client) -> int:
        """Ask and print."""
        report = await client.status(self.arguments.target)
        lines = [f"{report.target}: {report.state}"]
        if report.reasons:
            lines.append(f"  waits for: {', '.join(report.reasons)}")
        for name, value in report.facts.items():
            shown = value.hex() if isinstance(value, bytes) else value
            lines.append(f"  {name}: {shown}")
        self.result(
            "\n".join(lines),
            target=report.target,
            state=report.state,
            reasons=report.reasons,
            facts=report.facts,
        )
        return Exit.DONE
