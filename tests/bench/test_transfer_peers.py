"""The peers that transfer files do so wherever they are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.peer import Peer
from bench.specs import Fetch, Spec, Upload

from tests.bench.runs import run_once

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
SMALL: tuple[Spec, ...] = (
    Upload(size=20 * MIB),
    Upload(size=20 * MIB, folder="disk"),
    Upload(size=20 * MIB, durability="synced"),
    Fetch(size=20 * MIB),
)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.variant)
@pytest.mark.parametrize("name", ["nginx", "tus_js", "tus_js-whole", "tuspy"])
def test_a_file_is_transferred(tmp_path: Path, name: str, spec: Spec) -> None:
    result = run_once(tmp_path, name, spec)
    assert result.units == 20 * MIB
    assert "CRC-32C" in result.checked
    assert result.server_peak > MIB


def test_a_folder_that_is_not_there_is_named_with_what_makes_it(tmp_path: Path) -> None:
    folders = {tmp_path / "here": "", tmp_path / "modules": "npm install"}
    (tmp_path / "here").mkdir()
    peer = Peer(title="", settings="", folders=folders)
    assert peer.missing() == "modules (npm install)"
