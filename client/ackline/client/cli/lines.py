"""Lines of files and pipes: what `publish` sends."""

from __future__ import annotations

import os
import select
import struct
from typing import IO, TYPE_CHECKING

from ackline.proto.errors import UsageError
from ackline.proto.limits import MAX_EVENT
from ackline.proto.proofs import NOTHING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ackline.client.threads import Threads
    from ackline.proto.proofs import ProofSum

__all__ = ["Lines", "piped_lines"]

READ_SIZE = 2**20
"""Bytes read at once: thousands of lines for one turn of a thread."""


class Lines:
    """The lines of a regular file, by number.

    A line ends with a newline, which is not part of the event; what follows the last
    newline is a line too, if it is not empty. Methods block: call them in a thread.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._torn = b""
        self._waiting: list[bytes] = []

    def skip(self, count: int) -> ProofSum:
        """Go on after `count` lines, and return their sums (SPEC.md §15).

        Raises:
            UsageError: there are not so many.
        """
        sums, left = NOTHING, count
        while left:
            lines = self.read()
            if not lines:
                raise UsageError(
                    f"{self._name} has {count - left} lines, and the log has {count} of"
                    " it: it is not the file that was published"
                )
            taken = lines[:left]
            left -= len(taken)
            entries = struct.pack(f">{len(taken)}I", *map(len, taken))
            sums = sums.extended(entries, b"".join(taken))
            self._unread(lines[len(taken) :])
        return sums

    def read(self) -> list[bytes]:
        """Return the next lines; none at the end.

        Raises:
            UsageError: a line is longer than an event may be.
        """
        if self._waiting:
            lines, self._waiting = self._waiting, []
            return lines
        while True:
            block = self._file.read(READ_SIZE)
            lines = (self._torn + block).split(b"\n")
            self._torn = lines.pop() if block else b""
            if not block and not lines[-1]:
                lines.pop()
            check_length(self._torn, self._name)
            if lines or not block:
                return lines

    def _unread(self, lines: list[bytes]) -> None:
        self._waiting = lines


def check_length(torn: bytes, name: str) -> None:
    """Refuse a line that never ends, before it fills the memory.

    Raises:
        UsageError: it is longer than an event may be.
    """
    if len(torn) > MAX_EVENT:
        raise UsageError(
            f"{name} has a line of more than {MAX_EVENT} bytes: upload it as a file"
        )


async def piped_lines(fd: int, threads: Threads) -> AsyncIterator[list[bytes]]:
    """Yield lines as they come, nothing ahead of what the consumer takes but one block.

    In a thread that may be left behind: to wait for it in the event loop, what is read
    would have to be made non-blocking, and so for everybody who shares it, such as the
    next command in a terminal.
    """
    torn = b""
    while block := await threads.run_loose(lambda: read_block(fd)):
        complete = (torn + block).split(b"\n")
        torn = complete.pop()
        check_length(torn, "standard input")
        if complete:
            yield complete
    if torn:
        yield [torn]


def read_block(fd: int) -> bytes:
    """Wait until there is something to be read, and return it; b"" at the end."""
    while True:
        try:
            return os.read(fd, READ_SIZE)
        except BlockingIOError:  # somebody else made it non-blocking
            select.select([fd], [], [])
