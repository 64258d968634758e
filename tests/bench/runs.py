"""One run of a peer that may not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.runner import Runner, contenders

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Result
    from bench.specs import Spec

__all__ = ["run_once"]


def run_once(folder: Path, name: str, spec: Spec) -> Result:
    """Measure once, and check what holds for every peer; skip what cannot be."""
    able, skipped = contenders([name])
    if not able:
        pytest.skip(str(skipped))
    if not able[0].does(spec):
        pytest.skip(f"{name} has no roles for it")
    runner = Runner(folder)
    try:
        result = runner.run(able[0], spec, 0)
    finally:
        runner.close()
    assert result.units > 0
    assert result.checked
    assert result.server_peak > 0
    assert "undelivered" not in result.extra
    return result
