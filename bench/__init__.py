"""Measures Ackline and what users would pick instead, on the same work."""

from __future__ import annotations
