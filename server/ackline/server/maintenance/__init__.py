"""What is done to a data folder besides serving it: check, repair, back up."""

from __future__ import annotations
