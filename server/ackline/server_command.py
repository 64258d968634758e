"""The command `ackline-server`, before anything is imported.

What the server imports takes some tenths of a second, and opening a large data folder
longer. Ctrl-C in it would be a traceback of whatever was being imported.
"""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]

# Here, as early as can be: this module is imported for nothing but to run the command.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Run the command; return its exit code."""
    from ackline.server.cli import main as command  # noqa: PLC0415 - see above

    return command()


if __name__ == "__main__":
    sys.exit(main())
