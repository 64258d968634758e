"""How far a stream is, for whoever shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OnProgress", "Progress"]


class Progress(Struct, frozen=True, kw_only=True):
    """A moment of an upload, fetch or publication.

    Attributes:
        done: bytes (chunks) or events (publish) that are acknowledged or stored.
        total: all of them, or None while that is not known.
        began: what was done when this process began, left out of a rate.
        resumes: connections the stream was brought back on.
        held: why the server takes nothing for now, such as `insufficient_storage` (its
            disk is full); "" while it does. It is tried again.
    """

    done: int
    total: int | None
    began: int
    resumes: int
    held: str = ""


if TYPE_CHECKING:
    OnProgress = Callable[[Progress], None]
