"""`ackline-server token`, as operators use it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from ackline.server.cli import main
from ackline.server.tokens import IdentityEntry, changing, load_tokens

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "etc" / "tokens.json"
    monkeypatch.setenv("ACKLINE_TOKENS", str(path))
    return path


def test_a_token_is_printed_alone_and_kept_nowhere(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "add", "ann", "--allow", "upload:objects/a/*"]) == 0
    shown = capsys.readouterr()
    token = shown.out.strip()
    assert token.startswith("ackline_")
    assert len(token) > 40
    assert "ann, in" in shown.err
    assert "may upload:objects/a/*" in shown.err
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    identity = load_tokens(file).of_token(token.encode())
    assert identity is not None
    assert identity.name == "ann"
    assert identity.may("upload", "objects/a/b")
    assert not identity.may("upload", "objects/b")
    assert not identity.may("fetch", "objects/a/b")


def test_a_second_token_and_revoking(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["token", "add", "ann", "--allow", "*", "--quota", "streams=5"])
    first = capsys.readouterr().out.strip().encode()
    main(["token", "add", "ann", "--expires", "90d"])
    second = capsys.readouterr().out.strip().encode()
    main(["token", "list"])
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "ann  *  streams=5"
    assert "never expires" in listed[1]
    assert "expires " in listed[2]
    content = load_tokens(file).content
    expires = content.identities["ann"].tokens[1].expires
    assert expires == pytest.approx(time.time() + 90 * 86_400, abs=60)
    assert main(["token", "revoke", listed[1].split()[0]]) == 0
    after = load_tokens(file)
    assert after.of_token(first) is None
    assert after.of_token(second) is not None
    assert main(["token", "revoke", "ann"]) == 0
    assert load_tokens(file).of_token(second) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "ann"], "say what it may do"),
        (["add", "ann", "--allow", "fly"], "'fly' is no permission"),
        (["add", "a\nb", "--allow", "*"], "no name of an identity"),
        (["add", "ann", "--allow", "*", "--quota", "streams"], "not NAME=NUMBER"),
        (["add", "ann", "--allow", "*", "--quota", "x=1"], "there is no quota 'x'"),
        (["add", "ann", "--allow", "*", "--expires", "soon"], "soon"),
        (["revoke", "ann"], "is not there; make it"),
        (["list"], "is not there; make it"),
    ],
)
def test_wrong_words_are_told_and_change_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["token", *words]) == 2
    assert says in capsys.readouterr().err
    assert not file.exists()


def test_revoking_what_is_not_there(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["token", "add", "ann", "--allow", "*"])
    before = file.read_bytes()
    assert main(["token", "revoke", "bob"]) == 2
    assert "no identity or token 'bob'" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_an_identity_of_a_certificate_has_no_token(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["token", "add", "sensor-1", "--certificate", "--allow", "publish"]) == 0
    )
    assert capsys.readouterr().out == ""
    identity = load_tokens(file).of_certificate("sensor-1")
    assert identity is not None
    assert identity.may("publish", "logs/a")


def test_two_who_change_it_at_once_lose_nothing(file: Path) -> None:
    def add(number: int) -> None:
        with changing(file) as content:
            content.identities[f"n{number}"] = IdentityEntry(["*"])

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_tokens(file).content.identities) == 8
