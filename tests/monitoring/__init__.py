"""A real Prometheus beside a real server: `make monitoring-test`."""

from __future__ import annotations
