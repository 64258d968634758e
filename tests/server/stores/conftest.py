"""Fixtures of the storage tests."""

from __future__ import annotations

import pytest

from tests.server.stores.support import Clock, FaultyFiles


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()
