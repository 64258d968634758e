"""What a store refuses or fails to do.

    StoreError
    ├── the caller asked for something that cannot be
    │   ├── NotFound          no such upload, object, log or session
    │   ├── AlreadyExists     the name is taken and must not be replaced
    │   ├── Unsupported       this installation does not offer it
    │   ├── Ended             an outcome is recorded; the first one stands
    │   ├── Sealed            the log takes no more
    │   ├── Fenced            a newer epoch owns it
    │   └── PositionTrimmed   older than what is retained
    ├── the bytes are not what they should be
    │   ├── SizeMismatch      the whole differs from its size
    │   ├── DigestMismatch    the whole differs from its digest
    │   ├── ChecksumConflict  a stored chunk came again with other bytes
    │   ├── EventsLost        a log ends before what was read from it
    │   └── Corrupt           the disk returned something else than was stored
    ├── the disk cannot take it
    │   ├── StorageFull       no space now; service returns with space
    │   └── StoreFailed       a write or sync failed; reload before storing more
    └── the folder cannot be opened
        ├── FormatMismatch    another format version
        │   └── ForeignFolder no data folder
        └── Locked            another server has it

Names follow the codes of SPEC.md §20 where there is one.
"""

# The names are those of SPEC.md's codes, which have no suffix "Error".
# ruff: noqa: N818

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AlreadyExists",
    "ChecksumConflict",
    "Corrupt",
    "DigestMismatch",
    "Ended",
    "EventsLost",
    "Fenced",
    "ForeignFolder",
    "FormatMismatch",
    "Locked",
    "NotFound",
    "PositionTrimmed",
    "Sealed",
    "SizeMismatch",
    "StorageFull",
    "StoreError",
    "StoreFailed",
    "Unsupported",
    "disk_failure",
    "repeated",
]

#: A quota is a smaller disk: it, too, gets room when something is deleted.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class StoreError(Exception):
    """Base of everything a store raises on purpose."""


class NotFound(StoreError):
    """Report that nothing of this kind has this name or id."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class AlreadyExists(StoreError):
    """Report that a name is taken and the caller asked not to replace."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} {name!r} exists already: choose another name, or ask to replace it"
            " or to add a version (existing)"
        )
        self.kind = kind
        self.name = name


class Unsupported(StoreError):
    """Report something that this installation does not offer."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} is not supported here: {remedy}")
        self.what = what


class Ended(StoreError):
    """Report that an outcome is recorded already; `outcome` is that one."""

    def __init__(self, upload_id: str, outcome: bytes) -> None:
        super().__init__(f"upload {upload_id} has ended")
        self.upload_id = upload_id
        self.outcome = outcome


class Sealed(StoreError):
    """Report that a log was sealed; `outcome` is the one recorded with the seal."""

    def __init__(self, name: str, outcome: bytes) -> None:
        super().__init__(f"log {name!r} is sealed")
        self.name = name
        self.outcome = outcome


class Fenced(StoreError):
    """Report that the caller's epoch is older than the one that owns the thing."""

    def __init__(self, what: str, *, epoch: int, current: int) -> None:
        super().__init__(f"{what} belongs to epoch {current}, not {epoch}")
        self.what = what
        self.epoch = epoch
        self.current = current


class PositionTrimmed(StoreError):
    """Report a position older than the first one retained."""

    def __init__(self, name: str, *, position: int, first_id: int) -> None:
        super().__init__(
            f"log {name!r} begins at {first_id}; {position} is no longer retained"
        )
        self.name = name
        self.position = position
        self.first_id = first_id


class SizeMismatch(StoreError):
    """Report that the bytes stored are not as many as stated. Sizes are bytes."""

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(f"{expected} bytes were stated, {actual} are stored")
        self.expected = expected
        self.actual = actual


class DigestMismatch(StoreError):
    """Report that the bytes stored have another digest than stated."""

    def __init__(self, algorithm: str, *, expected: bytes, actual: bytes) -> None:
        super().__init__(
            f"{algorithm} {expected.hex()} was stated, "
            f"the stored bytes have {actual.hex()}"
        )
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual


class ChecksumConflict(StoreError):
    """Report a chunk that is stored with other bytes; nothing was changed."""

    def __init__(self, index: int, *, stored: int, offered: int) -> None:
        super().__init__(
            f"chunk {index} is stored with CRC-32C {stored:#010x}, not {offered:#010x}"
        )
        self.index = index
        self.stored = stored
        self.offered = offered


class EventsLost(StoreError):
    """Report that the disk has lost events of a log that were read before."""

    def __init__(self, name: str, *, position: int, next_id: int) -> None:
        super().__init__(
            f"log {name!r} has lost the events {next_id} to {position - 1}: they were"
            " stored, and the disk does not have them"
        )
        self.name = name
        self.position = position
        self.next_id = next_id


class Corrupt(StoreError):
    """Report a file that does not hold what was stored in it."""

    def __init__(self, path: Path, *, offset: int, problem: str) -> None:
        super().__init__(f"{path} is damaged at byte {offset}: {problem}")
        self.path = path
        self.offset = offset
        self.problem = problem


class StorageFull(StoreError):
    """Report missing space. Nothing was recorded; the same may be tried again."""

    def __init__(
        self, *, needed: int | None = None, available: int | None = None
    ) -> None:
        if needed is None or available is None:
            text = "the disk is full"
        else:
            text = f"{needed} bytes are needed, {max(0, available)} may be used"
        super().__init__(text)
        self.needed = needed
        self.available = available


class StoreFailed(StoreError):
    """Report a failed write or sync.

    What was waiting for it is in an unknown state. It must be loaded again, which
    verifies what the disk holds, before anything is promised.
    """

    def __init__(self, what: str, cause: str) -> None:
        super().__init__(f"{what}: {cause}")
        self.what = what
        self.cause = cause


class FormatMismatch(StoreError):
    """Report a folder that this version cannot read."""

    def __init__(self, folder: Path, *, found: str, supported: str) -> None:
        super().__init__(self._told(folder, found, supported))
        self.folder = folder
        self.found = found
        self.supported = supported

    def _told(self, folder: Path, found: str, supported: str) -> str:
        return (
            f"{folder} has the format {found!r}; this version reads {supported!r}. "
            "Use the version that made it, or another folder"
        )


class ForeignFolder(FormatMismatch):
    """Report a folder with files that no server made."""

    def _told(self, folder: Path, found: str, supported: str) -> str:
        return (
            f"{folder} is no data folder ({supported}): it holds {found!r}. Use one"
            " that a server made, or an empty one"
        )


class Locked(StoreError):
    """Report a folder that another server has open."""

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(
            f"{folder} is in use by another server (process {owner or 'unknown'}). "
            "Stop it, or use another folder"
        )
        self.folder = folder
        self.owner = owner


def disk_failure(what: str, error: OSError) -> StorageFull | StoreFailed:
    """Return what an operating system error means to the user of a store."""
    if error.errno in _FULL:
        return StorageFull()
    return StoreFailed(what, error.strerror or str(error))


def repeated(error: StorageFull | StoreFailed) -> StorageFull | StoreFailed:
    """Return an equal error to raise: one that is raised often collects tracebacks."""
    if isinstance(error, StorageFull):
        return StorageFull(needed=error.needed, available=error.available)
    return StoreFailed(error.what, error.cause)
