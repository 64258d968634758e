"""Which event loop runs a client that chooses one itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["loop_factory"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest loop there is; None for asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - the library must not need it
    except ImportError:
        return None
    return uvloop.new_event_loop
