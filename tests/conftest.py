"""What every test run shares."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from ackline.server import opening

if TYPE_CHECKING:
    from collections.abc import Generator

# No deadline for an example: on a busy machine it reports the neighbours' load as a
# failure. pytest-timeout still ends a test that hangs.
settings.register_profile("ackline", deadline=None)
settings.load_profile("ackline")

# A shell has what it runs in the background ignore SIGINT, and so would all that tests
# start in order to interrupt it. What has a handler here is at its default there.
signal.signal(signal.SIGINT, signal.default_int_handler)

OVERLOADED_LAG = opening.OVERLOADED_LAG
"""The server's own, for tests of it."""


@pytest.fixture(scope="session", autouse=True)
def _never_overloaded() -> Generator[None]:
    """Open streams however late the loop is, which does the tests' own work too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "OVERLOADED_LAG", 60.0)
        yield
