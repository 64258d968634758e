"""Show the state of a resource, and why it is not moving."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import count, metadata_texts, printable

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client
    from ackline.proto.values import Value

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "status"
HELP = "show the state of a resource, and why it is not moving"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="such as objects/NAME, uploads/ID, runs/ID or logs/NAME",
    )
    parser.add_argument(
        "--version",
        type=count,
        default=0,
        metavar="NUMBER",
        help="of an object (default: the newest)",
    )


TIMES = ("created", "touched", "decided", "sink_next_try")
"""Facts in unix seconds."""


class Command(BaseCommand):
    """`ackline status`."""

    async def run(self, client: Client) -> int:
        """Ask and print."""
        report = await client.status(
            self.arguments.target, version=self.arguments.version
        )
        lines = [f"{report.target}: {report.state}"]
        facts = dict(report.facts)
        if report.reasons:
            words = f"it waits for: {', '.join(report.reasons)}"
            why = printable(str(facts.pop("why", words)))
            lines.append(f"  {why[:1].upper()}{why[1:]}.")
        for name, value in facts.items():
            if value not in (None, ""):  # --json has them all
                lines.append(f"  {name}: {_shown(name, value)}")
        lines += [f"  metadata: {text}" for text in metadata_texts(report.metadata)]
        self.result(
            "\n".join(lines),
            target=report.target,
            state=report.state,
            reasons=report.reasons,
            facts=report.facts,
            metadata=report.metadata,
        )
        return Exit.DONE


def _shown(name: str, value: Value) -> object:
    if name in TIMES and isinstance(value, float):
        return f"{datetime.fromtimestamp(value).astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, str):
        return printable(value)
    return value.hex() if isinstance(value, bytes) else value
