"""Refusals: what a client is told when something it asked for cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code, ProtocolViolation
from ackline.server.stores import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RETRY_SECONDS", "Refusal", "code_of", "refusal_of"]

RETRY_SECONDS = 1.0
"""Seconds after which a client may try again where the disk or memory is short."""

_CODES: Mapping[type[errors.StoreError], Code] = {
    errors.NotFound: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.Unsupported: Code.UNSUPPORTED,
    errors.Sealed: Code.SEALED,
    errors.Fenced: Code.MOVED,
    errors.PositionTrimmed: Code.POSITION_TRIMMED,
    errors.SizeMismatch: Code.SIZE_MISMATCH,
    errors.DigestMismatch: Code.DIGEST_MISMATCH,
    errors.ChecksumConflict: Code.CHECKSUM_CONFLICT,
    errors.EventsLost: Code.POSITION_LOST,
    errors.Corrupt: Code.POSITION_LOST,
    errors.StorageFull: Code.INSUFFICIENT_STORAGE,
    errors.StoreFailed: Code.STORAGE_FAILED,
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a defect
    """Say no to the client, with a code of SPEC.md §20.

    Attributes:
        code, text: for the ERROR frame.
        retry_after: seconds, 0 to leave it to the client.
    """

    def __init__(self, code: Code, text: str, *, retry_after: float = 0.0) -> None:
        super().__init__(f"{code.name.lower()}: {text}")
        self.code = code
        self.text = text
        self.retry_after = retry_after


def code_of(error: errors.StoreError) -> Code:
    """Return the code of the wire for what a store reports."""
    return _CODES.get(type(error), Code.INTERNAL_ERROR)


def refusal_of(error: errors.StoreError | ProtocolViolation | Refusal) -> Refusal:
    """Return the refusal that tells a client of an error."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ProtocolViolation):
        return Refusal(error.code, error.text)
    code = code_of(error)
    return Refusal(code, str(error), retry_after=RETRY_SECONDS if code.retry else 0.0)
