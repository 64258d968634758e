"""Files of tokens for tests, and clients that present them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.server.tokens import add_token, changing
from tests.server.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server import Serving

__all__ = ["make_token", "peer_with"]


def make_token(
    path: Path, name: str, *allow: str, expires: float | None = None, **quotas: str
) -> str:
    """Add a token to a file; return it."""
    named = {key.replace("_", "-"): value for key, value in quotas.items()}
    with changing(path) as content:
        token, _ = add_token(
            content, name, allow=allow or ["*"], quotas=named, expires=expires
        )
    return token


async def peer_with(serving: Serving, token: str, *, wait: bool = True) -> Peer:
    """Connect with a token."""
    peer = Peer(serving.port)
    await peer.connect(scheme="bearer", credential=token.encode(), wait=wait)
    return peer
