"""The second port."""

from __future__ import annotations
