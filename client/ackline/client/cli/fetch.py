"""Fetch an object into a file, verified. Run it again to continue.

A NAME that ends with a slash stands for all objects that begin so: they are fetched
into a folder. What is there with the same size and CRC-32C is not fetched again.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client.cli.display import bytes_text
from ackline.client.cli.folders import FolderOutput
from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import count, size
from ackline.client.parallel import checked_parallel
from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "fetch"
HELP = "fetch an object or a folder of them; run it again to continue"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "name",
        metavar="NAME",
        type=lambda text: text.removeprefix("objects/"),
        help="of the object, or objects/NAME as `list` prints it; FOLDER/ for all that"
        " begin so",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="where to: a file, for FOLDER/ a folder; - for standard output (default:"
        " the last part of NAME)",
    )
    parser.add_argument(
        "--version",
        type=count,
        metavar="NUMBER",
        help="of the object (default: the newest)",
    )
    parser.add_argument(
        "--start",
        metavar="SIZE",
        type=size,
        default=0,
        help="first byte, such as 4096 or 4MiB (default: 0)",
    )
    parser.add_argument(
        "--length", metavar="SIZE", type=size, help="bytes (default: all that follow)"
    )
    parser.add_argument(
        "--parallel",
        metavar="NUMBER",
        type=count,
        default=1,
        help="connections to fetch over, 1 to 16 (default: 1)",
    )


class Command(BaseCommand):
    """`ackline fetch`."""

    def prepare(self) -> None:
        """Choose the file."""
        options = self.arguments
        self.folder = options.name.endswith("/")
        # Names are no paths: only the last part may become a file name here.
        self.file = options.file or options.name.removesuffix("/").rsplit("/", 1)[-1]
        if self.folder:
            self._prepare_folder()
            return
        if self.file in ("", ".", ".."):
            raise UsageError(f"{options.name!r} gives no file name; name a FILE")
        if self.file == "-" and options.json:
            raise UsageError("--json and the object cannot share standard output")
        if self.file != "-" and Path(self.file).is_dir():
            raise UsageError(f"{self.file} is a directory; name a FILE in it")
        if self.file == "-" and options.parallel > 1:
            raise UsageError("standard output takes no --parallel; name a FILE")
        checked_parallel(options.parallel)
        self.display.title = self.file

    def interrupted(self) -> str:
        """Say how to continue."""
        if self.folder:
            return (
                f"interrupted; {self.output.done:,} files are there. To continue:"
                f" {self.again()}"
            )
        if self.file == "-":
            return "interrupted"
        return f"interrupted; {self.file}.part stays. To continue: {self.again()}"

    async def run(self, client: Client) -> int:
        """Fetch."""
        options = self.arguments
        if self.folder:
            return await self._run_folder(client)
        result = await client.fetch(
            options.name,
            sys.stdout.buffer if self.file == "-" else self.file,
            version=options.version,
            start=options.start,
            length=options.length,
            parallel=options.parallel,
            state=options.state_dir,
            on_progress=self.display.show,
        )
        fields = asdict(result)
        del fields["data"]
        if self.file != "-":
            size = bytes_text(result.size)
            if result.size != result.object_size:
                size += f" of {bytes_text(result.object_size)}"
            self.result(
                f"fetched {result.name} into {self.file}: {size}, {result.digest}",
                **fields,
                file=self.file,
            )
        return Exit.DONE

    def _prepare_folder(self) -> None:
        options = self.arguments
        given = [
            name
            for name, value in (
                ("--version", options.version),
                ("--start", options.start),
                ("--length", options.length),
                ("--parallel", options.parallel > 1),
            )
            if value
        ]
        if given:
            raise UsageError(f"{given[0]} is for one object; leave it out for a folder")
        if self.file in ("", ".."):
            raise UsageError(f"{options.name!r} gives no folder name; name a FOLDER")
        if self.file == "-":
            raise UsageError("standard output is no folder; name one")
        self.output = FolderOutput(self, "fetched")
        self.display.title = self.file

    async def _run_folder(self, client: Client) -> int:
        result = await client.fetch_folder(
            self.arguments.name,
            self.file,
            state=self.arguments.state_dir,
            on_file=self.output.file,
            on_progress=self.display.show,
        )
        return self.output.sum(result, f"into {self.file}")
