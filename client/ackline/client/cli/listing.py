"""List what the server has: objects, logs, sources, runs and unfinished uploads."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ackline.client.cli.display import bytes_text
from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import metadata_texts

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client, Entry

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "list"
HELP = "list objects, logs, sources, runs and uploads"
EVERYTHING = ("objects/", "logs/", "sources/", "runs/", "uploads/")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "prefix",
        metavar="PREFIX",
        nargs="?",
        help="such as objects/ or logs/app (default: everything)",
    )
    parser.add_argument(
        "--versions",
        action="store_true",
        help="every version of each object, not only the newest",
    )


class Command(BaseCommand):
    """`ackline list`."""

    async def run(self, client: Client) -> int:
        """List."""
        prefix = self.arguments.prefix
        if prefix is not None and "/" not in prefix:
            prefix += "/"
        for each in EVERYTHING if prefix is None else (prefix,):
            async for entry in client.list(each, versions=self.arguments.versions):
                self._print(entry)
        return Exit.DONE

    def _print(self, entry: Entry) -> None:
        when = datetime.fromtimestamp(entry.created).astimezone()
        text = (
            f"{entry.resource:<48} {entry.state:<10} {bytes_text(entry.size):>12}"
            f"  {when:%Y-%m-%d %H:%M:%S}"
        )
        if self.arguments.versions and "version" in entry.facts:
            text += f"  version {entry.facts['version']!r}"
        if "source" in entry.facts:
            text += f"  of {entry.facts['source']!s}"
        self.result(
            " ".join([text, *metadata_texts(entry.metadata)]),
            resource=entry.resource,
            state=entry.state,
            size=entry.size,
            created=entry.created,
            facts=entry.facts,
            metadata=entry.metadata,
        )
