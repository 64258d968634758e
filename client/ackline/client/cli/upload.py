"""Upload a file, committed as one verified object. Run it again to continue."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client.cli.display import bytes_text
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
HELP = "upload a file; run it again to continue"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("file", metavar="FILE", help="file to upload")
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="of the object (default: that of FILE)"
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
        path = Path(self.arguments.file)
        if path.is_dir():
            raise UsageError(
                f"{path} is a directory; upload one file, such as a tar of it"
            )
        open_file(path).close()
        self.name = self.arguments.name or path.name
        self.display.title = self.name

    def interrupted(self) -> str:
        """Say how to continue."""
        return f"interrupted; the server keeps what it has. To continue: {self.again()}"

    async def run(self, client: Client) -> int:
        """Upload."""
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
