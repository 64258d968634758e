"""Servers for tests: in the test's own loop, on free ports, in their own folder."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ackline.server import Address, Options, Server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from ackline.server import Serving

    Start = Callable[..., AbstractAsyncContextManager[Serving]]


def options_for(folder: Path, **chosen: Any) -> Options:
    """Return options that disturb nobody."""
    defaults: dict[str, Any] = {
        "listen": Address("127.0.0.1", 0),
        "metrics": None,
        "data_dir": folder / "data",
        "disk_reserve": 0,
        "drain_seconds": 0.2,
    }
    return Options(**(defaults | chosen))


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a function that serves, in the same folder every time."""

    @asynccontextmanager
    async def serving(
        server: Server | None = None, **chosen: Any
    ) -> AsyncGenerator[Serving]:
        async with (server or Server()).serve(options_for(tmp_path, **chosen)) as it:
            yield it

    return serving
