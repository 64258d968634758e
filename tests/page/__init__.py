"""The live page in a real browser: `make page-test`."""

from __future__ import annotations
