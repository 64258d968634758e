"""Child processes whose output becomes the events of a run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ackline.server.emitter import SourceError
from ackline.server.lines import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from ackline.proto.messages import Value
    from ackline.server.commands import Command
    from ackline.server.events import Item

__all__ = ["Children"]

log = logging.getLogger(__name__)

MAX_WAITING = 2**16
"""Bytes of a child's output that wait for its run; the next are left in its pipes,
where they stop it. As much as a pipe holds."""

LOOK_SECONDS = 0.05
"""How often a process group is looked at that is about to end."""

SOON_SECONDS = 0.0005
"""How soon first, where it ends most likely now; then twice that, and so on."""

IDLE_SECONDS = 0.5
"""How often others are: mostly it is their pipes that tell of their end, and each look
wakes the server, for a tenth of a millisecond."""

LAST_SECONDS = 1.0
"""How long a pipe is read once nobody of the group is there to write: what left the
group may hold it open for ever. And how long SIGKILL may take."""


class Children:
    """The child processes of one server.

    Args:
        limit: how many there may be at once.
        grace: seconds from SIGTERM to SIGKILL, and from the end of a process to SIGTERM
            for what it left behind.
    """

    def __init__(self, *, limit: int, grace: float) -> None:
        self._limit = limit
        self._grace = grace
        self._running = 0

    async def output(
        self, command: Command, /, **values: Value
    ) -> AsyncGenerator[Item]:
        """Run a command and yield its output, line by line, as it comes.

        Lines of standard error are of the kind `stderr`. However this ends, nothing is
        left of the process group; what it still prints while it is stopped is lost.

        Args:
            command: what to run.
            values: its parameters.

        Raises:
            SourceError: it cannot be started, or ends with another status than 0.
        """
        arguments = command.arguments(values)
        name = Path(arguments[0]).name
        with self._slot():
            try:
                child = _Child(arguments, self._grace)
            except OSError as error:
                raise SourceError(
                    f"{name} cannot be started: {error.strerror}"
                ) from None
            try:
                await child.connect()
                while items := await child.read():
                    for item in items:
                        yield item
            finally:
                await child.stop()
        if child.status:
            raise SourceError(f"{name} {_described(child.status)}")

    @contextmanager
    def _slot(self) -> Generator[None]:
        if self._running >= self._limit:
            raise SourceError(
                f"{self._running} commands run already, which is what max_commands"
                " allows: try again later"
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def _described(status: int) -> str:
    """Say how a process ended that did not end well."""
    if status > 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class _Pipe(asyncio.Protocol):
    """One of the two pipes from a child."""

    def __init__(self, child: _Child, kind: str) -> None:
        self._child = child
        self._lines = Lines(kind)
        self._transport: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.ReadTransport", transport)
        self._child.opened(self._transport)

    def data_received(self, data: bytes) -> None:
        self._child.took(self._lines.feed(data), len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._transport is not None
        self._child.took(self._lines.end(), 0)
        self._child.closed(self._transport)


class _Child:
    """A process in a group of its own, and the two pipes it prints into.

    `connect()`, then `read()` until there is no more, and `stop()` in any case.

    asyncio's own child processes would do, but uvloop's print into sockets, which
    /dev/stdout does not open, and inherit descriptors of the server.

    Raises:
        OSError: it cannot be started.

    Attributes:
        status: the exit status once it has ended; below 0 the signal that ended it.
    """

    def __init__(self, arguments: Sequence[str], grace: float) -> None:
        self.status: int | None = None
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._process = subprocess.Popen(  # noqa: S603 - what the operator chose
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._unread = {"": self._process.stdout, "stderr": self._process.stderr}
        self._pipes: list[asyncio.ReadTransport] = []
        self._paused = False
        self._stopping = False
        self._items: list[Item] = []
        self._waiting_bytes = 0
        self._wanted: asyncio.Future[None] | None = None
        self._term_at = self._kill_at = inf
        self._pause = LOOK_SECONDS
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    async def connect(self) -> None:
        """Begin to read what it prints."""
        for kind, file in list(self._unread.items()):
            await self._loop.connect_read_pipe(partial(_Pipe, self, kind), file)
            del self._unread[kind]

    async def read(self) -> list[Item]:
        """Wait for output and return it; none when it has ended and all was read."""
        while not self._items and (self._pipes or self.status is None):
            self._wanted = self._loop.create_future()
            await self._wanted
        items, self._items = self._items, []
        self._waiting_bytes = 0
        self._resume()
        return items

    async def stop(self) -> None:
        """End what is left of the group, and wait for that.

        It has `grace` seconds; when this is cancelled it is killed at once.
        """
        # One that prints while it ends must not wait for somebody to read it.
        self._stopping = True
        self._items.clear()
        self._resume()
        try:
            if not self._gone.done():
                self._end_by(self._loop.time())
                self._look()
                await asyncio.wait([self._gone])
        finally:
            if not self._gone.done():
                self._kill_at = self._loop.time()
                self._look()
            self._close_pipes()
            for file in self._unread.values():
                file.close()

    def opened(self, pipe: asyncio.ReadTransport) -> None:
        """Take note that a pipe is read."""
        self._pipes.append(pipe)

    def took(self, items: list[Item], size: int) -> None:
        """Take what came through a pipe."""
        if self._stopping:
            return
        self._items += items
        self._waiting_bytes += size
        if self._waiting_bytes >= MAX_WAITING and not self._paused:
            self._paused = True
            for pipe in self._pipes:
                pipe.pause_reading()
        self._wake()

    def closed(self, pipe: asyncio.ReadTransport) -> None:
        """Take note that nothing more comes through a pipe."""
        self._pipes.remove(pipe)
        if not self._pipes and not self._unread:
            self._pause = SOON_SECONDS
            self._look()
        self._wake()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            for pipe in self._pipes:
                pipe.resume_reading()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    # The process group

    def _look(self) -> None:
        """See what is left of the group, and do what is due to it."""
        self._timer.cancel()
        if self._gone.done():
            return
        now = self._loop.time()
        if self.status is None and self._process.poll() is not None:
            self.status = self._process.returncode
            # What it left behind may finish printing, as in `cmd > >(tee log)`.
            self._end_by(now + self._grace)
            self._wake()
        if now >= self._kill_at:
            self._signal(signal.SIGKILL)
        elif now >= self._term_at:
            self._term_at = inf
            self._signal(signal.SIGTERM)
        stuck = now >= self._kill_at + LAST_SECONDS
        if stuck:
            log.warning("process group %d does not end", self._process.pid)
        if stuck or (self.status is not None and not self._signal(0)):
            self._gone.set_result(None)
            self._timer = self._loop.call_later(LAST_SECONDS, self._read_no_more)
            return
        idle = self.status is None and self._pipes and not self._stopping
        self._pause = IDLE_SECONDS if idle else min(2 * self._pause, LOOK_SECONDS)
        self._timer = self._loop.call_later(self._pause, self._look)

    def _end_by(self, when: float) -> None:
        self._term_at = min(self._term_at, when)
        self._kill_at = min(self._kill_at, when + self._grace)
        self._pause = SOON_SECONDS

    def _signal(self, number: int) -> bool:
        """Send a signal to the group, and return whether there is one.

        Its number cannot be another's: it has members, or had some a moment ago.
        """
        group = self._process.pid
        if self.status is not None:
            # As the first process of a container we are the parent of orphans.
            with suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _read_no_more(self) -> None:
        """Close what only others than the group can write into."""
        if self._paused:
            self._timer = self._loop.call_later(LAST_SECONDS, self._read_no_more)
        else:
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in self._pipes:
            pipe.close()
