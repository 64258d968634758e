"""Who a client is: the one place where that is decided (SPEC.md §7).

Asked in this order: the tokens file (`tokens`), the function of the embedding program,
what a client certificate alone is worth, and what anonymous clients may do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from ackline.server.identities import (
    ANONYMOUS,
    EVERYTHING,
    Identity,
    parse_permissions,
    parse_quotas,
)
from ackline.server.options import OptionError
from ackline.server.tokens import TokenFile, TokenFileError, load_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.options import Options

__all__ = ["AuthenticateFunction", "Authenticator", "Login", "is_loopback"]

log = logging.getLogger(__name__)

BEARER = "bearer"

AUTHENTICATE_SECONDS = 5.0
"""Seconds that the function of the embedding program gets."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a client presents.

    Attributes:
        scheme: `bearer`, empty, or whatever a function of your own understands.
        credential: the secret that belongs to it.
        peer: address of the client.
        certificate: the name in its TLS certificate, which was verified; empty if it
            has shown none.
    """

    scheme: str
    credential: bytes = field(repr=False)
    peer: str = ""
    certificate: str = ""


AuthenticateFunction: TypeAlias = Callable[
    [Login], Identity | Awaitable[Identity | None] | None
]
"""Returns who it is, or None for nobody."""


class Authenticator:
    """Decides who clients are.

    Args:
        options: of the server.
        function: of the embedding program, if it has one.

    Raises:
        OptionError: the tokens file cannot be used, or the server would be open to a
            network without asking anybody who they are.
    """

    def __init__(self, options: Options, function: AuthenticateFunction | None) -> None:
        self._path: Path | None = options.tokens
        self._function = function
        self._certificates = options.tls_client_ca is not None
        self._quotas = parse_quotas(options.quota)
        self._anonymous: Identity | None = None
        self._tokens: TokenFile | None = None
        self._seen: tuple[int, int, int] | None = None
        if options.allow_anonymous or not self.asks:
            allow = parse_permissions(options.allow_anonymous) or EVERYTHING
            self._anonymous = Identity(ANONYMOUS, allow, self._quotas)
        if self._path is not None:
            try:
                self._load(self._path)
            except TokenFileError as error:
                raise OptionError("tokens", str(error)) from None
        if not self.asks and not options.allow_anonymous:
            _stay_on_loopback(options.listen.host)

    @property
    def asks(self) -> bool:
        """Whether clients have to say who they are."""
        return bool(self._path or self._function or self._certificates)

    @property
    def mode(self) -> str:
        """How clients are known, for people."""
        ways = [
            f"tokens in {self._path}" if self._path else "",
            "a function of the program" if self._function else "",
            "client certificates" if self._certificates else "",
        ]
        if self._anonymous is not None:
            allow = ", ".join(map(str, self._anonymous.allow))
            ways.append(f"anybody ({'everything' if allow == '*' else allow})")
        return "; ".join(filter(None, ways))

    async def identify(self, login: Login) -> Identity | str:
        """Return who a client is, or why that is not known, for the client."""
        found = self._from_file(login)
        if found is None and self._function is not None:
            found = await self._asked(self._function, login)
        if found is None:
            found = self._otherwise(login)
        return found or self._refusal(login)

    def bearer(self, token: str) -> Identity | None:
        """Return whose token it is, by the file alone: for the metrics port."""
        return self._from_file(Login(BEARER, token.encode(errors="replace")))

    def refresh(self) -> bool:
        """Read the file again if it changed; return whether anything may be other.

        A file that cannot be used changes nothing: who was known stays known.
        """
        path = self._path
        if path is None or _version(path) == self._seen:
            return False
        try:
            self._load(path)
        except TokenFileError as error:
            log.error("the tokens stay as they were: %s", error)
            return False
        log.info("%s is read again", path)
        return True

    def now(self, identity: Identity) -> Identity | None:
        """Return what somebody is now who was identified before; None if nobody."""
        if identity.expires <= time.time():
            return None
        if self._tokens is None or not identity.credential:
            return identity
        return self._tokens.now(identity)

    # Private

    def _load(self, path: Path) -> None:
        self._seen = _version(path)
        self._tokens = load_tokens(path, self._quotas)

    def _from_file(self, login: Login) -> Identity | None:
        if self._tokens is None:
            return None
        if login.scheme == BEARER:
            return self._tokens.of_token(login.credential)
        if not login.scheme and login.certificate:
            return self._tokens.of_certificate(login.certificate)
        return None

    async def _asked(
        self, function: AuthenticateFunction, login: Login
    ) -> Identity | None:
        try:
            async with asyncio.timeout(AUTHENTICATE_SECONDS):
                answer = function(login)
                return await answer if isawaitable(answer) else answer
        except TimeoutError:
            log.error("the function that authenticates took too long for %s", login)
        except Exception:
            log.exception("the function that authenticates failed for %s", login)
        return None

    def _otherwise(self, login: Login) -> Identity | None:
        if login.scheme or login.credential:
            return None
        if login.certificate and self._tokens is None and self._function is None:
            return Identity(login.certificate, EVERYTHING, self._quotas)
        return self._anonymous

    def _refusal(self, login: Login) -> str:
        """Return why, without a word about which tokens or names there are."""
        if login.scheme == BEARER:
            return (
                "the token is not known here, was revoked or has expired"
                if self._tokens is not None or self._function is not None
                else "this server takes no tokens: connect without one"
            )
        if login.scheme:
            return f"scheme {login.scheme!r} is not accepted here"
        if login.credential:
            return "a credential needs a scheme"
        if login.certificate:
            return f"no identity here is named {login.certificate!r}"
        return "this server wants to know who you are: give a token (ACKLINE_TOKEN)"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stay_on_loopback(host: str) -> None:
    if not is_loopback(host):
        raise OptionError(
            "listen",
            f"{host} can be reached from other machines, and nobody is asked who they"
            " are; give --tokens FILE (ackline-server token add makes it) or"
            " --tls-client-ca FILE, or --allow-anonymous '*' if that is meant",
        )


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what is other when a file was changed or replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
