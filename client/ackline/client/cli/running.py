"""What all commands have in common: the connection, exit codes, and error messages."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import msgspec

from ackline.client import ClientOptions, client_context, connect
from ackline.client.cli.display import Display
from ackline.client.connection_states import ConnectionPhase
from ackline.client.loops import loop_factory
from ackline.proto.errors import (
    AcklineError,
    ConnectionLost,
    Refused,
    StreamCancelled,
    UsageError,
    code_name,
)
from ackline.proto.messages import OutcomeKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ackline.client import Client, ConnectionState, Outcome

__all__ = ["BaseCommand", "Exit", "outcome_fields", "run"]

UNUSABLE_FILES = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    FileExistsError,
)

STDOUT = 1


class Exit(IntEnum):
    """Exit codes, as `ackline --help` lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NO_CONNECTION = 4
    CANCELLED = 5
    INTERRUPTED = 130


class BaseCommand(ABC):
    """One run of one command.

    Attributes:
        arguments: of the command line.
        display: progress and notes, on standard error.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.display = Display(quiet=arguments.quiet or arguments.json)

    @abstractmethod
    async def run(self, client: Client) -> int:
        """Do it, and return the exit code."""

    def prepare(self) -> None:  # noqa: B027 - a hook
        """Check what can be checked without a connection.

        Raises:
            UsageError, OSError: it cannot be done.
        """

    def close(self) -> None:  # noqa: B027 - a hook
        """Give back what `prepare()` took."""

    def interrupted(self) -> str:
        """Return how to go on after Ctrl-C."""
        return "interrupted"

    def again(self) -> str:
        """Return the command line of this command, to be typed again."""
        return shlex.join(["ackline", *self.arguments.invocation])

    def line(self, **fields: object) -> None:
        """Print a JSON object on standard output."""
        try:
            data = msgspec.json.encode(fields)
        except UnicodeEncodeError:  # the name of a file that is no Unicode text
            data = json.dumps(fields).encode()
        write_out(data + b"\n")

    def text(self, text: str) -> None:
        """Print a line on standard output."""
        write_out(text.encode(errors="backslashreplace") + b"\n")

    def result(self, text: str, /, **fields: object) -> None:
        """Print the result, for people or programs; nothing is drawn after it."""
        self.display.close()
        if self.arguments.json:
            self.line(**fields)
        else:
            self.text(text)


def write_out(data: bytes) -> None:
    """Write bytes to standard output, all of them, at once.

    Past `sys.stdout`: a thread that is stuck in it when the process ends, because
    nobody reads, holds a lock that the interpreter aborts for.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(STDOUT, view) :]


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """Return how a stream ended, for a JSON line."""
    return {
        "outcome": OutcomeKind(outcome.outcome).name.lower(),
        "code": code_name(outcome.code),
        "text": outcome.text,
        "position": outcome.position,
    }


def run(arguments: argparse.Namespace) -> int:
    """Run a command and turn whatever happens into an exit code and one line."""
    make: Callable[[argparse.Namespace], BaseCommand] = arguments.command
    command = make(arguments)
    try:
        command.prepare()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_connected(command))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say(command.interrupted())
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _mute_stdout()
        return Exit.DONE
    except AcklineError as error:
        _say(f"ackline: {error}")
        return _exit_code(error)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        _say(f"ackline: {name}{error.strerror or error}")
        return Exit.USAGE if isinstance(error, UNUSABLE_FILES) else Exit.FAILED
    finally:
        command.close()


async def _connected(command: BaseCommand) -> int:
    arguments, display = command.arguments, command.display
    options = ClientOptions(
        give_up_after=arguments.give_up_after,
        wait_for_server=arguments.give_up_after is not None,
    )
    # A terminal that is closed is an interruption like Ctrl-C.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, task.cancel)
    try:
        async with connect(
            arguments.server,
            tls=client_context(arguments.ca) if arguments.ca else None,
            token=os.environ.get("ACKLINE_TOKEN"),
            options=options,
            on_state=_teller(display),
        ) as client:
            return await command.run(client)
    finally:
        display.close()


def _teller(display: Display) -> Callable[[ConnectionState], None]:
    def tell(state: ConnectionState) -> None:
        if state.phase is ConnectionPhase.DISCONNECTED:
            display.note(f"{state.reason}; trying again in {state.retry_in:.1f} s")
        elif state.phase is ConnectionPhase.RESUMED:
            display.note("connected again, resumed")

    return tell


def _exit_code(error: AcklineError) -> int:
    if isinstance(error, UsageError):
        return Exit.USAGE
    if isinstance(error, Refused):
        return Exit.REFUSED
    if isinstance(error, ConnectionLost):
        return Exit.NO_CONNECTION
    return Exit.CANCELLED if isinstance(error, StreamCancelled) else Exit.FAILED


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _mute_stdout() -> None:
    """Keep the interpreter from complaining when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
