"""Ask the server whether it lives, and measure a round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.cli.running import BaseCommand, Exit

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "ping"
HELP = "ask the server whether it lives"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments: it has none."""


class Command(BaseCommand):
    """`ackline ping`."""

    async def run(self, client: Client) -> int:
        """Ping."""
        seconds = await client.ping()
        self.result(
            f"{client.url} answered in {seconds * 1000:.1f} ms",
            server=client.url,
            seconds=seconds,
        )
        return Exit.DONE
