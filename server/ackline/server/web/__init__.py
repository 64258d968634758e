"""The second port: what people and programs look at over HTTP."""

from __future__ import annotations
