"""The command `ackline-server`.

Exit codes: 0 stopped as asked, 1 the server could not start or broke, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.aio import hold_standard_files
from ackline.server.addresses import ListenError
from ackline.server.configuration import flag_of, load_options, variable_of
from ackline.server.logformat import log_to
from ackline.server.maintenance.command import COMMANDS, run_command
from ackline.server.options import OptionError, described
from ackline.server.server import Server
from ackline.server.stores.errors import StoreError
from ackline.server.token_command import run_token_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ackline.server.options import Options
    from ackline.server.server import Serving

__all__ = ["main"]

BROKEN = 1
MISUSED = 2

log = logging.getLogger(__name__)


class _UsageError(Exception):
    """Say what was wrong with the command line, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    hold_standard_files()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in COMMANDS:
        return run_command(words)
    if words and words[0] == "token":
        return run_token_command(words[1:])
    parser = _parser()
    chosen = vars(parser.parse_args(words))
    app, config = chosen.pop("app"), chosen.pop("config")
    try:
        options = load_options(
            flags=chosen,
            environment=os.environ,
            file=None if config is None else Path(config),
        )
        server = _load(app) if app else Server()
    except (OptionError, _UsageError) as error:
        print(f"ackline-server: {error}", file=sys.stderr)
        return MISUSED
    log_to(sys.stderr, level=options.log_level, form=options.log_format)
    _allow_many_files()
    return _run(server, options)


def _run(server: Server, options: Options) -> int:
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(
                server.serve_until_stopped(
                    options, started=partial(_greet, server, options)
                )
            )
    except StoreError as error:
        told, folder = str(error), str(options.data_dir)
        if not told.startswith(folder):
            told = f"{folder}: {told}"
        print(f"ackline-server: {told}", file=sys.stderr)
        return BROKEN
    except ListenError as error:
        print(f"ackline-server: {error}", file=sys.stderr)
        return BROKEN
    except OptionError as error:
        print(f"ackline-server: {error}", file=sys.stderr)
        return MISUSED
    return 0


def _greet(server: Server, options: Options, serving: Serving) -> None:
    """Print the first screen: what is where."""
    metrics = "off"
    if serving.metrics is not None:
        metrics = f"http://{serving.metrics}/metrics  (and a page for people at /)"
    lines = [
        f"ackline-server {version('ackline')}",
        f"  clients   {serving.url}",
        f"  known by  {serving.identities}",
        f"  metrics   {metrics}",
        f"  data      {options.data_dir.absolute()}  (ACKs: {options.durability})",
        f"  sources   {_sources(server, options) or 'none'}",
        f"  sinks     {_sinks(server) or 'none'}",
    ]
    print("\n".join(lines), flush=True)


def _sinks(server: Server) -> str:
    return ", ".join(
        f"{sink.name} ({' '.join(sink.patterns)})" for sink in server.sinks
    )


def _sources(server: Server, options: Options) -> str:
    names = ", ".join(sorted(server.sources))
    pairs = [f"{name} = {what}" for name, what in (*options.follow, *options.exec)]
    return "\n            ".join(filter(None, [names, *pairs]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ackline-server",
        description="Acknowledged, resumable streaming of files and events over TCP.",
        epilog="Every option is also a name in the --config file, such as data_dir, and"
        " an environment variable; a flag wins over the environment, and that over the"
        " file. Other commands: "
        + "; ".join(f"ackline-server {name}: {what}" for name, what in COMMANDS.items())
        + "; ackline-server token: who may connect"
        + ".",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"ackline-server {version('ackline')}"
    )
    parser.add_argument(
        "--app", metavar="MODULE:SERVER", help="serve the sources and sinks of this"
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with options")
    for name, about in described():
        parser.add_argument(
            flag_of(name),
            dest=name,
            metavar=about["form"],
            action="append" if about["default"] == () else "store",
            help=f"{about['text']} [{variable_of(name)}] ({about['shown']})",
        )
    return parser


def _load(app: str) -> Server:
    """Return the server object that `--app` names.

    Raises:
        _UsageError: there is none.
    """
    module_name, colon, attribute = app.partition(":")
    if not colon or not module_name or not attribute:
        raise _UsageError(f"--app {app!r} is not MODULE:SERVER, such as chat:server")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise _UsageError(
            f"--app {app!r}: there is no module {error.name!r} here or installed"
        ) from None
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Server):
        raise _UsageError(
            f"--app {app!r}: {attribute!r} in {module_name} is no ackline.server.Server"
        )
    return found


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop: uvloop's where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - absent on some platforms
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _allow_many_files() -> None:
    """Use as many descriptors as the system lets us: each open upload has one."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on every platform

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
