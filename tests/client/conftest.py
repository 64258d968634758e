"""One server for most tests, and a client connected to it."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from ackline.client import ClientOptions, connect
from tests.client.processes import running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ackline.client import Client
    from tests.client.processes import ServerProcess


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ServerProcess]:
    async with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(autouse=True)
def state_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep what clients remember out of the home of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "ackline"


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Return an empty folder in memory."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("there is no folder in memory")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def name() -> str:
    """Return a name that nothing else has."""
    return f"test/{uuid.uuid4().hex}"


@pytest_asyncio.fixture
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(server.url, options=ClientOptions(heartbeat=1.0)) as made:
        yield made
