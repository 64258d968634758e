"""TLS: everything works over it, and what goes wrong is said."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from ackline.client import (
    ConnectionLost,
    Event,
    UsageError,
    client_context,
    connect,
)
from ackline.client.addresses import parse_url
from ackline.client.options import ClientOptions
from ackline.client.patience import Attempt, Patience
from ackline.proto.checksums import crc32c
from ackline.proto.messages import Redirect
from tests.client.processes import command, running_server
from tests.link import CutMode, Link, LinkOptions, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.client.processes import ServerProcess

MIB = 1 << 20


@dataclass
class Pems:
    """PEM files: of the authority, and of a server with a key apart."""

    ca: Path
    cert: Path
    key: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        return f"--tls-cert={self.cert}", f"--tls-key={self.key}"


def make_pems(folder: Path) -> Pems:
    folder.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    pems = Pems(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(pems.ca))
    issued.private_key_pem.write_to_path(str(pems.key))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(pems.cert), append=True)
    return pems


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Pems:
    return make_pems(tmp_path_factory.mktemp("tls") / "pems")


@pytest.fixture
async def tls_server(tmp_path: Path, pems: Pems) -> AsyncIterator[ServerProcess]:
    async with running_server(tmp_path / "data", arguments=pems.arguments) as server:
        yield server


async def test_everything_works_over_tls(
    tls_server: ServerProcess, pems: Pems, tmp_path: Path
) -> None:
    assert tls_server.url.startswith("acklines://")
    data = os.urandom(9 * MIB + 7)
    async with connect(tls_server.url, tls=client_context(pems.ca)) as client:
        result = await client.upload(data, "x", chunk_size=MIB)
        assert result.crc == crc32c(data)
        async with client.publish("log") as publisher:
            for number in range(1_000):
                await publisher.send(str(number))
        got: list[str] = []
        async with client.subscribe("logs/log", start="first") as events:
            async for event in events:
                assert isinstance(event, Event)
                got.append(event.text)
                if len(got) == 1_000:
                    break
        assert got == [str(number) for number in range(1_000)]
        fetched = await client.fetch("x", tmp_path / "y", chunk_size=MIB)
        assert fetched.crc == result.crc
        assert (tmp_path / "y").read_bytes() == data


async def test_an_upload_resumes_over_tls_too(
    tls_server: ServerProcess, pems: Pems
) -> None:
    data = os.urandom(6 * MIB)
    options = LinkOptions(to_server=Way(cut_every=2_000_000), cut_mode=CutMode.RESET)
    async with (
        Link(target_port=tls_server.port, options=options) as link,
        connect(
            f"acklines://127.0.0.1:{link.port}", tls=client_context(pems.ca)
        ) as client,
    ):
        result = await client.upload(data, "x", chunk_size=MIB)
    assert result.crc == crc32c(data)
    assert result.resumes >= 2
    assert result.chunks_resent == 0


async def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    tls_server: ServerProcess, tmp_path: Path
) -> None:
    other = make_pems(tmp_path / "other")
    with pytest.raises(ConnectionLost, match=r"not trusted.*--ca FILE"):
        async with connect(tls_server.url, tls=client_context(other.ca)):
            pass
    with pytest.raises(ConnectionLost, match="not trusted"):
        async with connect(tls_server.url):
            pass


async def test_a_name_that_is_not_in_the_certificate_is_not_trusted(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("example.org")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    arguments = (f"--tls-cert={tmp_path / 'both.pem'}",)
    async with running_server(tmp_path / "data", arguments=arguments) as server:
        with pytest.raises(ConnectionLost, match=r"not trusted.*use a name or addr"):
            async with connect(server.url, tls=client_context(tmp_path / "ca.pem")):
                pass


async def test_the_command_takes_an_authority(
    tls_server: ServerProcess, pems: Pems, tmp_path: Path
) -> None:
    done = await command(
        "ping", "--server", tls_server.url, "--ca", str(pems.ca), folder=tmp_path
    )
    assert done.code == 0
    done = await command("ping", "--server", tls_server.url, folder=tmp_path)
    assert done.code == 4
    assert "--ca FILE" in done.errors
    arguments = ("ping", "--server", tls_server.url, "--ca", str(tmp_path / "no"))
    done = await command(*arguments, folder=tmp_path)
    assert done.code == 2
    assert "No such file" in done.errors


async def test_sighup_has_certificates_read_again(
    tls_server: ServerProcess, pems: Pems, tmp_path: Path
) -> None:
    before = pems.cert.read_bytes(), pems.key.read_bytes()
    newer = make_pems(tmp_path / "newer")
    try:
        async with connect(tls_server.url, tls=client_context(pems.ca)) as client:
            pems.cert.write_bytes(newer.cert.read_bytes())
            pems.key.write_bytes(newer.key.read_bytes())
            tls_server.process.send_signal(signal.SIGHUP)
            options = ClientOptions(wait_for_server=True, give_up_after=10)
            tls = client_context(newer.ca)
            async with connect(tls_server.url, tls=tls, options=options) as other:
                await other.ping()
            await client.upload(b"x", "still-there")
    finally:
        pems.cert.write_bytes(before[0])
        pems.key.write_bytes(before[1])


async def test_the_command_takes_a_certificate_of_its_own(
    tmp_path: Path, pems: Pems
) -> None:
    # Any certificate of the authority will do, the server's own too.
    arguments = (*pems.arguments, f"--tls-client-ca={pems.ca}")
    async with running_server(tmp_path / "data", arguments=arguments) as server:
        ping = ("ping", "--server", server.url, "--ca", str(pems.ca))
        done = await command(*ping, folder=tmp_path)
        assert done.code == 4
        assert "--cert FILE --cert-key FILE" in done.errors
        own = ("--cert", str(pems.cert), "--cert-key", str(pems.key))
        assert (await command(*ping, *own, folder=tmp_path)).code == 0


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(UsageError, match="holds no certificate"):
        client_context(tmp_path / "empty")
    with pytest.raises(UsageError, match="no use without its certificate"):
        client_context(key=tmp_path / "empty")


def test_a_redirect_never_leaves_tls() -> None:
    patience = Patience(parse_url("acklines://a"), ClientOptions())
    attempt = Attempt(0.0, redirect=Redirect("acklines://b"))
    patience.delay(attempt, 0.0)
    assert str(patience.address) == "acklines://b:7171"
    attempt = Attempt(0.0, redirect=Redirect("ackline://b"))
    with pytest.raises(ConnectionLost, match="away from TLS"):
        patience.delay(attempt, 0.0)
