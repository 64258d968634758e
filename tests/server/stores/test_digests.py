from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.digests import running_digest
from ackline.server.stores.errors import Unsupported

if TYPE_CHECKING:
    from tests.server.stores.support import FaultyFiles


def test_composed_digest_needs_no_pass(files: FaultyFiles) -> None:
    assert running_digest("crc32c", files) is None


def test_unknown_algorithm_is_unsupported(files: FaultyFiles) -> None:
    with pytest.raises(Unsupported, match="md5"):
        running_digest("md5", files)


def test_missing_package_is_said_with_the_remedy(
    files: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(Unsupported, match="install"):
        running_digest("blake3", files)


def test_installed_package_is_used(
    files: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("blake3")
    vars(module)["blake3"] = hashlib.blake2b
    monkeypatch.setitem(sys.modules, "blake3", module)
    assert running_digest("blake3", files) is not None
