"""Upload a file, committed as one verified object. Run it again to continue.

Of a FOLDER each file becomes an object of its own, NAME/PATH. What the server has with
the same size and CRC-32C is not sent again.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client.cli.display import bytes_text
from ackline.client.cli.folders import FolderOutput
from ackline.client.cli.running import BaseCommand, Exit
from ackline.client.cli.values import key_value, open_file, size
from ackline.client.digests import ALGORITHMS
from ackline.client.uploads import EXISTING
from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "upload"
HELP = "upload a file or a folder; run it again to continue"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("file", metavar="FILE", help="file or folder to upload")
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="of the object (default: that of FILE); for a folder what names begin with"
        ' ("" for nothing)',
    )
    parser.add_argument(
        "--existing",
        choices=tuple(EXISTING),
        default="refuse",
        help="what to do if there is an object of that name (default: refuse)",
    )
    parser.add_argument(
        "--digest",
        choices=ALGORITHMS,
        default="crc32c",
        help="algorithm of the digest (default: crc32c)",
    )
    parser.add_argument(
        "--chunk-size",
        metavar="SIZE",
        type=size,
        default="4MiB",
        help="what is acknowledged as a whole (default: 4MiB)",
    )
    parser.add_argument("--key", help="idempotency key (default: made and remembered)")
    parser.add_argument(
        "--metadata",
        metavar="NAME=VALUE",
        action="append",
        type=key_value,
        default=[],
        help="kept with the object; may be repeated",
    )


class Command(BaseCommand):
    """`ackline upload`."""

    def prepare(self) -> None:
        """Look at the file before anything is sent."""
        options, path = self.arguments, Path(self.arguments.file)
        self.folder = path.is_dir()
        if self.folder and options.key is not None:
            raise UsageError("--key names one upload; leave it out for a folder")
        if not self.folder:
            open_file(path).close()
        self.name = options.name or path.name
        self.display.title = str(path) if self.folder else self.name

    def interrupted(self) -> str:
        """Say how to continue."""
        return f"interrupted; the server keeps what it has. To continue: {self.again()}"

    async def run(self, client: Client) -> int:
        """Upload."""
        if self.folder:
            return await self._run_folder(client)
        options = self.arguments
        result = await client.upload(
            options.file,
            self.name,
            key=options.key,
            chunk_size=options.chunk_size,
            algorithm=options.digest,
            existing=options.existing,
            metadata=dict(options.metadata),
            state=options.state_dir,
            on_progress=self.display.show,
        )
        again = f", resumed {result.resumes}x" if result.resumes else ""
        sent = result.chunks_sent or result.resumes or not result.size
        done = "uploaded" if sent else "is there already:"
        self.result(
            f"{done} {result.name}: {bytes_text(result.size)}, {result.digest},"
            f" object {result.object_id}{again}",
            **asdict(result),
        )
        return Exit.DONE

    async def _run_folder(self, client: Client) -> int:
        options, output = self.arguments, FolderOutput(self, "uploaded")
        result = await client.upload_folder(
            options.file,
            options.name,
            chunk_size=options.chunk_size,
            algorithm=options.digest,
            existing=options.existing,
            metadata=dict(options.metadata),
            state=options.state_dir,
            on_file=output.file,
            on_progress=self.display.show,
        )
        return output.sum(result, f"of {options.file}")
