"""The command `ackline`, before anything is imported.

What `ackline.client` imports takes a tenth of a second. Ctrl-C in it would be a
traceback of whatever was being imported.
"""

from __future__ import annotations

import os
import signal

__all__ = ["main"]

ENDED_BY = {130: signal.SIGINT, 141: signal.SIGPIPE}
"""Exit codes by which a shell shows that a signal ended a command."""


# Here, as early as can be: this module is imported for nothing but to run the command.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Run the command; return its exit code, or end by the signal it stands for.

    A shell that is told 130 goes on with its loop; one that sees a command ended by
    SIGINT stops, as whoever pressed Ctrl-C wants it to.
    """
    from ackline.client.cli import main as command  # noqa: PLC0415 - see above

    code = command()
    ended_by = ENDED_BY.get(code)
    if ended_by is not None:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    return code
