"""How much may still be written to the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.server.stores.errors import StorageFull

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.stores.files import Files

__all__ = ["Space"]


class Space:
    """Refuses early what the disk could not take in the end.

    Some bytes stay free for the records: a server that cannot write down that an upload
    was cancelled could never free its space. Uploads of a known size, on file systems
    that cannot reserve it, claim here what they may still write.
    """

    def __init__(self, files: Files, folder: Path, *, reserve: int) -> None:
        self._files = files
        self._folder = folder
        self._reserve = reserve
        self._claims: dict[str, int] = {}

    def claim(self, owner: str, size: int) -> None:
        """Count `size` bytes as good as written."""
        self._claims[owner] = size

    def claimed(self, owner: str) -> bool:
        """Return whether there is a claim, used up or not."""
        return owner in self._claims

    def consume(self, owner: str, size: int) -> None:
        """Count bytes of a claim as written, if there is one."""
        claimed = self._claims.get(owner)
        if claimed is not None:
            self._claims[owner] = max(0, claimed - size)

    def release(self, owner: str) -> None:
        """Forget a claim, if there is one."""
        self._claims.pop(owner, None)

    def require(self, size: int, *, owner: str | None = None) -> None:
        """Check that `size` more bytes may be written. Blocks for a system call.

        Args:
            size: Bytes to be written.
            owner: Whose claim covers them; the claims of others are not available.

        Raises:
            StorageFull: They may not.
            OSError: The file system does not answer.
        """
        # A copy: this runs in a thread, claims change in the event loop.
        claims = self._claims.copy()
        claims.pop(owner or "", None)
        free = self._files.free(self._folder)
        available = free - self._reserve - sum(claims.values())
        if size > available:
            raise StorageFull(needed=size, available=available)
