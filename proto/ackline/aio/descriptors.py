"""Standard input, output and error, for commands that open sockets."""

from __future__ import annotations

import os

__all__ = ["hold_standard_files"]


def hold_standard_files() -> None:
    """Open the null device in the place of each of the three that is closed.

    Otherwise the next sockets get their numbers: what is printed would go to a peer,
    and uvloop aborts the process.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDWR)
