"""Bearer tokens and what they stand for, in one file.

The file is JSON, read as a whole and replaced as a whole: `ackline-server token` writes
it, a server reads it and looks for changes. It holds no token, only what is needed to
recognise one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import secrets
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ackline.server.identities import (
    Identity,
    Quotas,
    parse_permissions,
    parse_quotas,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = [
    "Content",
    "IdentityEntry",
    "TokenEntry",
    "TokenFile",
    "TokenFileError",
    "add_identity",
    "add_token",
    "changing",
    "load_tokens",
    "revoke",
]

PREFIX = "ackline_"
"""What every token begins with, so that scanners find one that was published."""

TOKEN_BYTES = 32
"""Random bytes of a token. Nobody can guess 256 bits however fast the hash is, so a
slow one, which every handshake would pay, would protect nothing."""

VERSION = 1


class TokenFileError(Exception):
    """Say what is wrong with the file, and what to do."""


class TokenEntry(Struct, forbid_unknown_fields=True):
    """One token of an identity.

    Attributes:
        id: what it is revoked by.
        hash: keyed BLAKE2b of the token, hexadecimal.
        created, expires: unix seconds; None for never.
    """

    id: str
    hash: str
    created: float
    expires: float | None = None


class IdentityEntry(Struct, forbid_unknown_fields=True):
    """One identity. Without tokens it is known by its client certificate.

    Attributes:
        allow: permissions, as `identities.parse_permissions` reads them.
        quotas: as `identities.parse_quotas` reads them.
        tokens: that stand for it.
    """

    allow: list[str]
    quotas: dict[str, str] = {}
    tokens: list[TokenEntry] = []


class Content(Struct, forbid_unknown_fields=True):
    """The file.

    Attributes:
        version: of this form.
        key: of the hashes, hexadecimal: a copy of another server's file is of no use
            for looking hashes up.
        identities: by name.
    """

    version: int
    key: str
    identities: dict[str, IdentityEntry]


CERTIFICATE = "certificate"
"""The credential of an identity that is known by its certificate."""


class TokenFile:
    """What a file says, ready to be asked.

    Args:
        content: of the file.
        quotas: for what an identity's own do not say.

    Raises:
        TokenFileError: a permission, quota or name in it is none.
    """

    def __init__(self, content: Content, quotas: Quotas | None = None) -> None:
        self.content = content
        self._key = bytes.fromhex(content.key)
        self._by_hash: dict[str, Identity] = {}
        self._by_credential: dict[tuple[str, str], Identity] = {}
        for name, entry in content.identities.items():
            try:
                known = Identity(
                    name,
                    parse_permissions(entry.allow),
                    parse_quotas(entry.quotas, quotas),
                    credential=CERTIFICATE,
                )
            except ValueError as error:
                raise TokenFileError(f"identity {name!r}: {error}") from None
            self._by_credential[name, CERTIFICATE] = known
            for token in entry.tokens:
                expires = math.inf if token.expires is None else token.expires
                each = replace(known, credential=token.id, expires=expires)
                self._by_hash[token.hash] = each
                self._by_credential[name, token.id] = each

    def of_token(self, token: bytes) -> Identity | None:
        """Return whose token it is, if it is one and has not expired."""
        # The time of this look-up depends on the hash alone, and without the key that
        # says nothing about any token: nothing is compared byte by byte that a client
        # has chosen.
        identity = self._by_hash.get(hash_token(self._key, token))
        if identity is None or identity.expires <= time.time():
            return None
        return identity

    def of_certificate(self, name: str) -> Identity | None:
        """Return the identity that a client certificate names."""
        return self._by_credential.get((name, CERTIFICATE))

    def now(self, identity: Identity) -> Identity | None:
        """Return what an identity that was found before is now; None if revoked."""
        return self._by_credential.get((identity.name, identity.credential))


def hash_token(key: bytes, token: bytes) -> str:
    """Return what is kept of a token."""
    return hashlib.blake2b(token, key=key, digest_size=32).hexdigest()


def load_tokens(path: Path, quotas: Quotas | None = None) -> TokenFile:
    """Read a file.

    Raises:
        TokenFileError: it cannot be read, or is none; the text says what to do.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TokenFileError(
            f"{path} is not there; make it: ackline-server token --tokens {path} add"
            " NAME"
        ) from None
    except OSError as error:
        raise TokenFileError(f"{path}: {error.strerror}") from None
    try:
        content = msgspec.json.decode(data, type=Content)
        if content.version != VERSION:
            raise TokenFileError(
                f"{path} is of version {content.version}; this program knows {VERSION}"
            )
        return TokenFile(content, quotas)
    except (msgspec.DecodeError, ValueError) as error:
        raise TokenFileError(f"{path} is no file of tokens: {error}") from None
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from None


@contextlib.contextmanager
def changing(path: Path) -> Generator[Content]:
    """Change a file, or make one: what the block leaves replaces it at once.

    Raises:
        TokenFileError: it is there and is none, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                content = load_tokens(path).content
            else:
                content = Content(VERSION, secrets.token_hex(32), {})
            yield content
            TokenFile(content)
            _replace(path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    except OSError as error:
        raise TokenFileError(f"{error.filename or path}: {error.strerror}") from None


def _replace(path: Path, data: bytes) -> None:
    """Write a file of our own that nobody else can read, and put it in place."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                known = path.stat()
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), known.st_uid, known.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def add_token(
    content: Content,
    name: str,
    *,
    allow: Iterable[str],
    quotas: dict[str, str],
    expires: float | None,
) -> tuple[str, TokenEntry]:
    """Make a token for an identity, and the identity if there is none; return it.

    Raises:
        TokenFileError: a new identity may do nothing.

    Args:
        content: what is changed.
        name: of the identity.
        allow: replaces what an identity that is there may do, if any is given.
        quotas: likewise, one by one.
        expires: unix seconds, or None.
    """
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    entry = TokenEntry(
        secrets.token_hex(4),
        hash_token(bytes.fromhex(content.key), token.encode()),
        time.time(),
        expires,
    )
    add_identity(content, name, allow=allow, quotas=quotas).tokens.append(entry)
    return token, entry


def add_identity(
    content: Content, name: str, *, allow: Iterable[str], quotas: dict[str, str]
) -> IdentityEntry:
    """Make an identity, or change what one may do; return it.

    Raises:
        TokenFileError: a new one may do nothing.
    """
    wanted = list(allow)
    entry = content.identities.get(name)
    if entry is None:
        if not wanted:
            raise TokenFileError(
                f"{name!r} is new: say what it may do, such as --allow upload"
                " --allow 'fetch:objects/public/*'; --allow '*' is everything"
            )
        entry = content.identities[name] = IdentityEntry(wanted)
    elif wanted:
        entry.allow = wanted
    entry.quotas |= quotas
    return entry


def revoke(content: Content, what: str) -> list[str]:
    """Take away a token by its id, or an identity with all of its; return the ids."""
    entry = content.identities.pop(what, None)
    if entry is not None:
        return [token.id for token in entry.tokens] or [what]
    for entry in content.identities.values():
        for token in entry.tokens:
            if token.id == what:
                entry.tokens.remove(token)
                return [token.id]
    return []
