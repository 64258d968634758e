"""Certificates that cannot be used are refused before anything is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from ackline.server.options import OptionError, Options
from ackline.server.tls import server_context

if TYPE_CHECKING:
    from tests.server.conftest import Start


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Certificate and key in one file."""
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    return tmp_path / "both.pem"


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_context(Options()) is None


def test_one_file_may_hold_both(both: Path) -> None:
    assert server_context(Options(tls_cert=both)) is not None


def test_a_key_needs_a_certificate(both: Path) -> None:
    with pytest.raises(OptionError, match="without tls_cert"):
        Options(tls_key=both)


@pytest.mark.parametrize("option", ["tls_cert", "tls_key"])
def test_a_file_that_is_missing_is_named(both: Path, option: str) -> None:
    missing = Path("/nowhere/x.pem")
    options = replace(Options(tls_cert=both), **{option: missing})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=f"option {option}: /nowhere/x.pem: No such"):
        server_context(options)


def test_a_key_of_another_certificate_is_refused(both: Path, tmp_path: Path) -> None:
    other = trustme.CA().issue_cert("localhost")
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    with pytest.raises(OptionError, match="belong together"):
        server_context(Options(tls_cert=both, tls_key=tmp_path / "other.key"))


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(OptionError, match="PEM"):
        server_context(Options(tls_cert=tmp_path / "x"))


async def test_the_url_says_that_there_is_tls(start: Start, both: Path) -> None:
    async with start(tls_cert=both) as serving:
        assert serving.url == f"acklines://127.0.0.1:{serving.port}"
