"""Who may come in, and as whom (SPEC.md §7)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.notices import Welcomed
from ackline.server import (
    Address,
    Identity,
    Login,
    OptionError,
    Server,
    authentication,
    revocation,
)
from ackline.server.identities import parse_permissions
from ackline.server.tokens import changing, revoke
from tests.server.conftest import options_for
from tests.server.identities import make_token, peer_with
from tests.server.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def test_a_token_stands_for_an_identity(start: Start, tokens: Path) -> None:
    ann, bob = make_token(tokens, "ann"), make_token(tokens, "bob")
    async with start(tokens=tokens) as serving:
        for token, name in ((ann, "ann"), (bob, "bob")):
            peer = await peer_with(serving, token)
            assert (await peer.until(Welcomed)).welcome.identity == name
            await peer.drop()


@pytest.mark.parametrize(
    ("scheme", "credential", "says"),
    [
        ("", b"", "give a token"),
        ("bearer", b"", "is not known here"),
        ("bearer", b"ackline_" + b"x" * 43, "is not known here"),
        ("bearer", b"\xff\x00" * 100, "is not known here"),
        ("certificate", b"ann", "'certificate' is not accepted"),
        ("basic", b"ann:secret", "'basic' is not accepted"),
        ("", b"secret", "a credential needs a scheme"),
    ],
)
async def test_who_is_not_known_is_refused(
    start: Start, tokens: Path, scheme: str, credential: bytes, says: str
) -> None:
    make_token(tokens, "ann")
    async with start(tokens=tokens) as serving:
        peer = Peer(serving.port)
        await peer.connect(scheme=scheme, credential=credential, wait=False)
        failed = await peer.failed()
        assert failed.code == Code.UNAUTHENTICATED
        assert says in failed.text
        assert "secret" not in failed.text
        await peer.drop()


async def test_no_token_is_kept_or_logged(
    start: Start, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = make_token(tokens, "ann")
    assert token.removeprefix("ackline_") not in tokens.read_text()
    assert tokens.stat().st_mode & 0o777 == 0o600
    async with start(tokens=tokens) as serving:
        peer = await peer_with(serving, token)
        await peer.drop()
        peer = await peer_with(serving, f"{token}x", wait=False)
        await peer.failed()
        await peer.drop()
    assert token not in caplog.text
    assert token not in repr(Login("bearer", token.encode()))


async def test_an_expired_token_is_refused(start: Start, tokens: Path) -> None:
    old = make_token(tokens, "ann", expires=time.time() - 1)
    async with start(tokens=tokens) as serving:
        peer = await peer_with(serving, old, wait=False)
        assert "expired" in (await peer.failed()).text
        await peer.drop()


async def test_a_token_that_is_revoked_ends_its_connections_and_no_other(
    start: Start, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "LOOK_SECONDS", 0.01)
    ann, other = make_token(tokens, "ann"), make_token(tokens, "ann")
    async with start(tokens=tokens) as serving:
        peer, stays = await peer_with(serving, ann), await peer_with(serving, other)
        with changing(tokens) as content:
            assert revoke(content, content.identities["ann"].tokens[0].id)
        failed = await peer.failed()
        assert (failed.code, failed.text) == (
            Code.UNAUTHENTICATED,
            "the token was revoked or has expired",
        )
        await stays.upload("a", b"x").ended()
        again = await peer_with(serving, ann, wait=False)
        assert (await again.failed()).code == Code.UNAUTHENTICATED
        for each in (peer, stays, again):
            await each.drop()


async def test_a_token_that_expires_ends_its_connections(
    start: Start, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(revocation, "EXPIRY_SECONDS", 1)
    token = make_token(tokens, "ann", expires=time.time() + 0.5)
    async with start(tokens=tokens) as serving:
        peer = await peer_with(serving, token)
        assert (await peer.failed()).code == Code.UNAUTHENTICATED
        await peer.drop()


async def test_a_damaged_file_changes_nothing_while_the_server_runs(
    start: Start,
    tokens: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(revocation, "LOOK_SECONDS", 0.01)
    token = make_token(tokens, "ann")
    async with start(tokens=tokens) as serving:
        tokens.write_text("{")
        async with asyncio.timeout(50):
            while "stay as they were" not in caplog.text:
                await asyncio.sleep(0.01)
        peer = await peer_with(serving, token)
        await peer.drop()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there; make it"),
        ("{", "is no file of tokens"),
        ("[]", "is no file of tokens"),
        ('{"version": 9, "key": "00", "identities": {}}', "version 9"),
        (
            '{"version": 1, "key": "00", "identities": {"a": {"allow": ["fly"]}}}',
            "'fly' is no permission",
        ),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_at_the_start(
    start: Start, tokens: Path, content: str | None, says: str
) -> None:
    if content is not None:
        tokens.write_text(content)
    with pytest.raises(OptionError, match=says):
        async with start(tokens=tokens):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "host.example"])
async def test_without_asking_anybody_it_stays_on_loopback(
    start: Start, host: str
) -> None:
    with pytest.raises(OptionError, match="--allow-anonymous"):
        async with start(listen=Address(host, 0)):
            pass


async def test_what_is_asked_for_may_be_open(start: Start, tokens: Path) -> None:
    make_token(tokens, "ann")
    everywhere = Address("0.0.0.0", 0)
    async with start(listen=everywhere, tokens=tokens):
        pass
    async with start(listen=everywhere, allow_anonymous=("fetch",)) as serving:
        peer = await Peer(serving.port).connect()
        refused = await peer.upload("a", b"x").refused()
        assert refused.message.code == Code.PERMISSION_DENIED
        await peer.drop()


async def test_a_function_of_the_program_says_who_somebody_is(
    start: Start, tokens: Path
) -> None:
    server = Server()
    asked: list[Login] = []

    @server.authenticate
    async def who(login: Login) -> Identity | None:
        asked.append(login)
        if login.credential == b"let me in":
            return Identity("carl", parse_permissions(["upload:objects/carl/*"]))
        return None

    token = make_token(tokens, "ann")
    async with start(server, tokens=tokens) as serving:
        ann = await peer_with(serving, token)
        assert asked == []
        carl = await Peer(serving.port).connect(scheme="own", credential=b"let me in")
        assert (await carl.until(Welcomed)).welcome.identity == "carl"
        await carl.upload("carl/a", b"x").ended()
        refused = await carl.upload("ann/a", b"x").refused()
        assert refused.message.code == Code.PERMISSION_DENIED
        nobody = await Peer(serving.port).connect(scheme="own", wait=False)
        assert (await nobody.failed()).code == Code.UNAUTHENTICATED
        assert asked[0].peer.startswith("127.0.0.1")
        for each in (ann, carl, nobody):
            await each.drop()


async def test_a_function_that_fails_or_hangs_lets_nobody_in(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(authentication, "AUTHENTICATE_SECONDS", 0.05)
    server = Server()

    @server.authenticate
    async def who(login: Login) -> Identity | None:
        if login.credential == b"fail":
            raise RuntimeError("the database is gone")
        await asyncio.Event().wait()
        return None

    async with start(server) as serving:
        for credential in (b"fail", b"hang"):
            peer = await Peer(serving.port).connect(
                scheme="own", credential=credential, wait=False
            )
            assert (await peer.failed()).code == Code.UNAUTHENTICATED
            await peer.drop()
    assert "the database is gone" in caplog.text
    assert "took too long" in caplog.text


async def test_there_is_one_function() -> None:
    server = Server()
    server.authenticate(lambda _login: None)
    with pytest.raises(ValueError, match="already"):
        server.authenticate(lambda _login: None)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "a\x1fb"])
def test_a_name_is_printable_and_short(name: str) -> None:
    with pytest.raises(ValueError, match="no name of an identity"):
        Identity(name)


def test_options_of_permissions_and_quotas_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no permission"):
        options_for(tmp_path, allow_anonymous=("upload:",))
    with pytest.raises(OptionError, match="no quota 'speed'"):
        options_for(tmp_path, quota=(("speed", "1"),))
    with pytest.raises(OptionError, match="above 0"):
        options_for(tmp_path, quota=(("streams", "0"),))
