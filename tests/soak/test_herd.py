"""A smaller herd than that of `python -m tests.soak.herd`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.processes import running
from tests.soak.herd import Herd

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 60


@pytest.mark.parametrize("drain", [True, False])
async def test_clients_come_back_within_seconds_and_not_at_once(
    tmp_path: Path, drain: bool
) -> None:
    async with running(tmp_path / "data") as server:
        back = await Herd(server, CLIENTS).scatter(drain=drain)
    assert len(back.resumed) == CLIENTS
    assert back.most_in(0.05) < CLIENTS
    assert back.served < 30
