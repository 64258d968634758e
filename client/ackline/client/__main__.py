"""`python -m ackline.client` is the command `ackline`."""

from __future__ import annotations

import sys

from ackline.command import main

if __name__ == "__main__":
    sys.exit(main())
