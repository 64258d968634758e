"""The command `ackline`: arguments, exit codes, and one module for each command."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ackline.aio import hold_standard_files
from ackline.client.addresses import DEFAULT_URL
from ackline.client.cli import (
    cancel,
    create,
    delete,
    fetch,
    listing,
    ping,
    publish,
    seal,
    status,
    subscribe,
    top,
    trace,
    upload,
)
from ackline.client.cli.running import run
from ackline.client.cli.values import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

EPILOG = """\
exit codes:
    0  done
    1  the stream failed; the message says why
    2  wrong usage, or a file that cannot be read
    3  the server refused
    4  no connection, or lost for good
    5  cancelled
  130  interrupted with Ctrl-C; the message says how to continue
  141  nobody reads the output any more (SIGPIPE)

variables: ACKLINE_SERVER is the default of --server, ACKLINE_TOKEN the bearer token.
"""

COMMANDS = (
    upload,
    fetch,
    publish,
    subscribe,
    listing,
    status,
    cancel,
    create,
    seal,
    delete,
    ping,
    top,
    trace,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    hold_standard_files()
    parser = argparse.ArgumentParser(
        prog="ackline",
        description="Acknowledged, resumable streams of files and events.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"ackline {version('ackline')}"
    )
    _common(parser, defaults=True)
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for module in COMMANDS:
        command = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.__doc__,
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _common(command, defaults=False)
        module.arguments(command)
        command.set_defaults(command=module.Command)
    arguments = parser.parse_args(argv)
    arguments.invocation = list(sys.argv[1:] if argv is None else argv)
    return run(arguments)


class _CommandParser(argparse.ArgumentParser):
    """A parser of one command line, with options also between and behind its words.

    Argparse alone refuses FILE in `fetch NAME --version 1 FILE` where FILE may be
    left out: with NAME, it takes it for left out.
    """

    _intermixed = False

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Take the options first, then the words; that calls this for each.

        Whoever says where the words begin (`--`) has put the options before them.
        """
        if self._intermixed or "--" in args:
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        return self.parse_known_intermixed_args(args, namespace)


def _common(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    """Add what every command takes, before or after its name."""

    def default(value: object) -> object:
        return value if defaults else argparse.SUPPRESS

    group = parser.add_argument_group("common options")
    group.add_argument(
        "--server",
        metavar="URL",
        default=default(os.environ.get("ACKLINE_SERVER") or DEFAULT_URL),
        help=f"where the server is (default: $ACKLINE_SERVER, or {DEFAULT_URL})",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        default=default(os.environ.get("ACKLINE_CA")),
        help="certificates (PEM) to trust for acklines:// URLs"
        " (default: $ACKLINE_CA, or those of the system)",
    )
    group.add_argument(
        "--cert",
        metavar="FILE",
        default=default(os.environ.get("ACKLINE_CERT")),
        help="your own certificate and chain (PEM), for a server that wants one"
        " (default: $ACKLINE_CERT)",
    )
    group.add_argument(
        "--cert-key",
        metavar="FILE",
        default=default(os.environ.get("ACKLINE_CERT_KEY")),
        help="its key (PEM), if that is not in the same file"
        " (default: $ACKLINE_CERT_KEY)",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        default=default(os.environ.get("ACKLINE_TOKEN_FILE")),
        help="bearer token, in its first line; read for each connection"
        " (default: $ACKLINE_TOKEN_FILE, or the token in $ACKLINE_TOKEN)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=default(value=False),
        help="print one JSON object a line, for programs",
    )
    group.add_argument(
        "--quiet",
        action="store_true",
        default=default(value=False),
        help="print results and errors only",
    )
    group.add_argument(
        "--state-dir",
        metavar="FOLDER",
        default=default(None),
        help="where to remember how to continue"
        " (default: $XDG_STATE_HOME/ackline or ~/.local/state/ackline)",
    )
    group.add_argument(
        "--give-up-after",
        metavar="SECONDS",
        type=seconds,
        default=default(None),
        help="end after so long without a connection; without this, a first connection"
        " that fails ends the command, and one that is lost is made again for ever",
    )
