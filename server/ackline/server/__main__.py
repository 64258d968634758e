"""`python -m ackline.server` is `ackline-server`."""

from __future__ import annotations

import sys

from ackline.server.cli import main

sys.exit(main())
