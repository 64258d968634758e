"""What all commands have in common: the connection, exit codes, and error messages."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shlex
import signal
from abc import ABC, abstractmethod
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import msgspec

from ackline.client import ClientOptions, client_context, connect
from ackline.client.cli.display import Display, say
from ackline.client.connection_states import ConnectionPhase
from ackline.client.loops import loop_factory
from ackline.client.tokens import token_file
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
    import ssl
    from collections.abc import Callable, Generator

    from ackline.client import Client, ConnectionState, Outcome
    from ackline.client.threads import Threads
    from ackline.client.tokens import Token

__all__ = ["AnyCommand", "BaseCommand", "Exit", "outcome_fields", "run", "write_out"]

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
    NO_READER = 141


class AnyCommand(ABC):
    """One run of one command.

    Attributes:
        arguments: of the command line.
        display: progress and notes, on standard error.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.display = Display(quiet=arguments.quiet or arguments.json)

    @abstractmethod
    async def perform(self) -> int:
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


class BaseCommand(AnyCommand):
    """A command that needs a connection, as nearly all do."""

    @abstractmethod
    async def run(self, client: Client) -> int:
        """Do it, and return the exit code."""

    async def perform(self) -> int:
        """Connect, and do it."""
        arguments, display = self.arguments, self.display
        options = ClientOptions(
            give_up_after=arguments.give_up_after,
            wait_for_server=arguments.give_up_after is not None,
        )
        async with connect(
            arguments.server,
            tls=_tls(arguments),
            token=_token(arguments),
            options=options,
            on_state=_teller(display),
        ) as client:
            return await self.run(client)


def write_out(data: bytes) -> None:
    """Write bytes to standard output, all of them, at once.

    Past `sys.stdout`: a thread that is stuck in it when the process ends, because
    nobody reads, holds a lock that the interpreter aborts for.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(STDOUT, view) :]


async def until_no_reader(threads: Threads) -> None:
    """Return when nobody reads standard output any more.

    Without it a command that has nothing to print would not find out.
    """
    waiting = select.poll()
    waiting.register(STDOUT, 0)
    await threads.run_loose(waiting.poll)


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
    make: Callable[[argparse.Namespace], AnyCommand] = arguments.command
    command = make(arguments)
    try:
        with _interruptible():
            command.prepare()
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                return runner.run(_performed(command))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if told := command.interrupted():
            say(told)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.NO_READER
    except Exception as error:  # a traceback tells a user nothing
        if os.environ.get("ACKLINE_DEBUG"):
            raise
        text, code = _told(error)
        say(f"ackline: {text}")
        return code
    finally:
        command.close()


@contextmanager
def _interruptible() -> Generator[None]:
    """Raise KeyboardInterrupt for Ctrl-C, where before and after it ends the process.

    Between the end of the block and of the process it could only be a traceback.
    """
    ends = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


async def _performed(command: AnyCommand) -> int:
    # A terminal that is closed is an interruption like Ctrl-C.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, task.cancel)
    try:
        return await command.perform()
    finally:
        command.display.close()


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Return how to speak TLS, if anything was said about it."""
    ca, cert, key = arguments.ca, arguments.cert, arguments.cert_key
    return client_context(ca, cert=cert, key=key) if ca or cert or key else None


def _token(arguments: argparse.Namespace) -> Token | None:
    """Return the token: never from the command line, which others can see."""
    if arguments.token_file:
        return token_file(arguments.token_file)
    return os.environ.get("ACKLINE_TOKEN") or None


def _teller(display: Display) -> Callable[[ConnectionState], None]:
    def tell(state: ConnectionState) -> None:
        if state.phase is ConnectionPhase.DISCONNECTED:
            display.note(f"{state.reason}; trying again in {state.retry_in:.1f} s")
        elif state.phase is ConnectionPhase.RESUMED:
            display.note("connected again, resumed")

    return tell


def _told(error: Exception) -> tuple[str, int]:
    """Return what to say of an error, and the exit code."""
    if isinstance(error, AcklineError):
        return str(error), _exit_code(error)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        unusable = isinstance(error, UNUSABLE_FILES)
        text = f"{name}{error.strerror or error}"
        return text, Exit.USAGE if unusable else Exit.FAILED
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r} is not Unicode text", Exit.USAGE
    what = f"{type(error).__name__}: {error}"
    text = f"a defect of this program: {what}; with ACKLINE_DEBUG=1 it shows where"
    return text, Exit.FAILED


def _exit_code(error: AcklineError) -> int:
    if isinstance(error, UsageError):
        return Exit.USAGE
    if isinstance(error, Refused):
        return Exit.REFUSED
    if isinstance(error, ConnectionLost):
        return Exit.NO_CONNECTION
    return Exit.CANCELLED if isinstance(error, StreamCancelled) else Exit.FAILED
