"""Watch what a server does: throughput, ACK latency and streams, every second.

It reads the metrics port (`ackline-server --metrics`), as the live page does.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ackline.client.cli.running import STDOUT, AnyCommand, Exit, write_out
from ackline.client.cli.view import COLUMNS, View
from ackline.client.cli.watching import watch
from ackline.proto.errors import ConnectionLost

if TYPE_CHECKING:
    import argparse

    from ackline.client.cli.screen import Screen
    from ackline.client.cli.watching import Update

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "top"
HELP = "watch what a server does"

PORT = 9171
"""Of `ackline-server --metrics`, by default."""

AGAIN_SECONDS = 1.0
"""Seconds until a server that is gone is asked again."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="*",
        help="show only streams with this in id, name, identity or address",
    )
    parser.add_argument(
        "--metrics",
        metavar="URL",
        default=os.environ.get("ACKLINE_METRICS"),
        help="the server's metrics port (default: $ACKLINE_METRICS, or port"
        f" {PORT} of --server)",
    )
    parser.add_argument(
        "--use",
        default="",
        choices=("upload", "fetch", "publish", "subscribe", "run"),
        help="show only these",
    )
    parser.add_argument(
        "--stuck", action="store_true", help="show only what is not moving"
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print one screen and end, as without a terminal",
    )


class Command(AnyCommand):
    """`ackline top`."""

    async def perform(self) -> int:
        """Show updates until Ctrl-C, or one."""
        lasting = os.isatty(STDOUT) and not self.arguments.once
        screen = self._screen(lasting=lasting)
        try:
            while True:
                try:
                    await self._follow(screen, lasting=lasting)
                except ConnectionLost as error:
                    if screen is None or not screen.shown:
                        raise
                    screen.note(f"{error}; trying again")
                    await asyncio.sleep(AGAIN_SECONDS)
                else:
                    return Exit.DONE
        finally:
            if screen is not None:
                screen.close()

    def interrupted(self) -> str:
        """Say nothing: Ctrl-C is how one leaves."""
        return ""

    async def _follow(self, screen: Screen | None, *, lasting: bool) -> None:
        arguments = self.arguments
        query = {
            "words": " ".join(arguments.words),
            "use": arguments.use,
            "show": "stuck" if arguments.stuck else "",
        }
        async with watch(self._url(), query) as (hello, updates):
            before: Update | None = None
            async with aclosing(updates):
                async for update, data in updates:
                    if arguments.json:
                        write_out(data + b"\n")
                        if arguments.once:
                            return
                    elif before is not None:
                        view = View(hello, before, update)
                        if screen is None:
                            self._print(view)
                            return
                        screen.show(view)
                    before = update

    def _screen(self, *, lasting: bool) -> Screen | None:
        if not lasting or self.arguments.json:
            return None
        from ackline.client.cli.screen import Screen  # noqa: PLC0415 - slow

        return Screen()

    def _print(self, view: View) -> None:
        """Print one screen as text, columns as wide as they need to be."""
        lines = [COLUMNS, *(view.cells(row) for row in view.update.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in view.heading():
            self.text(line)
        self.text("")
        for cells in lines:
            padded = [
                f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)
            ]
            self.text("  ".join(padded).rstrip())
        hidden = view.update.matching - len(view.update.rows)
        if hidden > 0:
            self.text(f"and {hidden} more: name a WORD to find one")

    def _url(self) -> str:
        if self.arguments.metrics:
            return str(self.arguments.metrics)
        host = urlsplit(str(self.arguments.server)).hostname or "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{PORT}"
