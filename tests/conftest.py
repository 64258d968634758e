"""What every test run shares."""

from __future__ import annotations

from hypothesis import settings

# No deadline for an example: on a busy machine it reports the neighbours' load as a
# failure. pytest-timeout still ends a test that hangs.
settings.register_profile("ackline", deadline=None)
settings.load_profile("ackline")
