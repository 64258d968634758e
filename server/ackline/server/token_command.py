"""The command `ackline-server token`: who may come in, and as whom.

Exit codes: 0 done, 2 it could not be done.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.aio import parse_duration
from ackline.server.identities import (
    ACTIONS,
    Identity,
    parse_permissions,
    parse_quotas,
)
from ackline.server.tokens import (
    TokenFileError,
    add_identity,
    add_token,
    changing,
    load_tokens,
    revoke,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ackline.server.tokens import IdentityEntry

__all__ = ["run_token_command"]

DONE = 0
IMPOSSIBLE = 2

DEFAULT_FILE = "ackline-tokens.json"


def run_token_command(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    arguments = _parser().parse_args(words)
    path = Path(arguments.tokens)
    try:
        if arguments.command == "add":
            return _add(path, arguments)
        if arguments.command == "list":
            return _list(path)
        return _revoke(path, arguments.what)
    except (TokenFileError, ValueError) as error:
        print(f"ackline-server token: {error}", file=sys.stderr)
        return IMPOSSIBLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ackline-server token",
        description="Who may connect. A running server takes changes within seconds.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tokens",
        metavar="FILE",
        default=os.environ.get("ACKLINE_TOKENS") or DEFAULT_FILE,
        help=f"the file, as the server's --tokens [ACKLINE_TOKENS] ({DEFAULT_FILE})",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add = commands.add_parser(
        "add",
        help="make a token for an identity, new or known; it is shown only now",
        description="Make a token for an identity, new or known. It is printed alone on"
        " standard output, and kept nowhere: the file has only its hash.",
    )
    add.add_argument("name", metavar="NAME", help="of the identity")
    add.add_argument(
        "--allow",
        metavar="PERMISSION",
        action="append",
        default=[],
        help=f"ACTION or ACTION:PATTERN with an action of {', '.join(ACTIONS)} and a"
        " pattern of resources such as objects/photos/*; or * for everything;"
        " repeatable",
    )
    add.add_argument(
        "--quota",
        metavar="NAME=NUMBER",
        action="append",
        default=[],
        help="connections, streams, stored-bytes, bytes-per-second or"
        " events-per-second, such as bytes-per-second=10MiB; repeatable",
    )
    add.add_argument(
        "--expires", metavar="DURATION", help="such as 90d (default: never)"
    )
    add.add_argument(
        "--certificate",
        action="store_true",
        help="make no token: the name is that of a client certificate",
    )
    commands.add_parser("list", help="show identities, permissions and ids of tokens")
    gone = commands.add_parser("revoke", help="take away a token, or an identity")
    gone.add_argument("what", metavar="ID|NAME", help="id of a token, or a name")
    return parser


def _add(path: Path, arguments: argparse.Namespace) -> int:
    quotas = dict(_pair(text) for text in arguments.quota)
    Identity(arguments.name, parse_permissions(arguments.allow), parse_quotas(quotas))
    expires: float | None = None
    if arguments.expires is not None:
        expires = time.time() + parse_duration(arguments.expires)
    with changing(path) as content:
        if arguments.certificate:
            add_identity(content, arguments.name, allow=arguments.allow, quotas=quotas)
            token, what = "", f"{arguments.name} is known by its certificate"
        else:
            token, entry = add_token(
                content,
                arguments.name,
                allow=arguments.allow,
                quotas=quotas,
                expires=expires,
            )
            what = f"token {entry.id} of {arguments.name}, in {path}"
        may = ", ".join(content.identities[arguments.name].allow)
    print(f"{what}: may {'do everything' if may == '*' else may}", file=sys.stderr)
    if token:
        print(token)
    return DONE


def _list(path: Path) -> int:
    for name, entry in sorted(load_tokens(path).content.identities.items()):
        print(f"{name}  {', '.join(entry.allow)}  {_quotas(entry)}".rstrip())
        for token in entry.tokens:
            made = datetime.fromtimestamp(token.created).astimezone()
            print(f"  {token.id}  made {made:%Y-%m-%d}  {_expiry(token.expires)}")
    return DONE


def _quotas(entry: IdentityEntry) -> str:
    return ", ".join(f"{name}={number}" for name, number in entry.quotas.items())


def _expiry(expires: float | None) -> str:
    if expires is None:
        return "never expires"
    when = datetime.fromtimestamp(expires).astimezone()
    word = "expired" if expires <= time.time() else "expires"
    return f"{word} {when:%Y-%m-%d %H:%M}"


def _revoke(path: Path, what: str) -> int:
    load_tokens(path)  # not made by a word that was mistyped
    with changing(path) as content:
        gone = revoke(content, what)
    if not gone:
        raise TokenFileError(f"{path} has no identity or token {what!r}")
    print(f"revoked: {', '.join(gone)}", file=sys.stderr)
    return DONE


def _pair(text: str) -> tuple[str, str]:
    name, equals, number = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=NUMBER")
    return name.strip(), number.strip()
