"""What both sides say when TLS fails, each time with what to do (SPEC.md §2)."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ackline.client import ConnectionLost, UsageError, client_context, connect
from ackline.proto.errors import Code
from ackline.proto.frames import HEADER_SIZE, FrameType
from ackline.proto.limits import ALPN
from ackline.proto.messages import Error, decode
from ackline.server import OptionError, Server
from ackline.server.tls import server_context
from tests.server.conftest import options_for
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from ackline.server import Serving

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()

PAST = datetime.now(UTC) - timedelta(days=1)


class Files:
    """PEM files of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = self.write("ca", AUTHORITY.cert_pem)
        self.server = self.issue("server", AUTHORITY, "127.0.0.1")

    def write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self.folder / f"{name}.pem"
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    def issue(self, name: str, authority: trustme.CA, *hosts: str, **more: Any) -> Path:
        issued = authority.issue_cert(*hosts, **more)
        return self.write(name, issued.private_key_and_cert_chain_pem)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@asynccontextmanager
async def serving(files: Files, **chosen: Any) -> AsyncGenerator[Serving]:
    options = options_for(files.folder, **({"tls_cert": files.server} | chosen))
    async with Server().serve(options) as running:
        yield running


async def why(url: str, tls: ssl.SSLContext | None = None) -> str:
    """Return why there is no connection."""
    with pytest.raises(ConnectionLost) as caught:
        async with asyncio.timeout(50), connect(url, tls=tls):
            pass
    return str(caught.value)


def of_client(files: Files, cert: Path | None = None) -> ssl.SSLContext:
    return client_context(files.ca, cert=cert)


# The server's certificate


async def test_an_expired_certificate_of_the_server(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    expired = files.issue("expired", AUTHORITY, "127.0.0.1", not_after=PAST)
    async with serving(files, tls_cert=expired) as running:
        reason = await why(running.url, of_client(files))
        assert "expired: whoever runs the server has to renew it" in reason
        await until_logged(caplog, "renew it, then send SIGHUP")


async def test_an_authority_that_is_not_trusted(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stranger = files.issue("stranger", STRANGER, "127.0.0.1")
    async with serving(files, tls_cert=stranger) as running:
        assert "--ca FILE" in await why(running.url, of_client(files))
        await until_logged(caplog, "it needs the authority (--ca)")


async def test_a_certificate_for_another_name(files: Files) -> None:
    other = files.issue("other", AUTHORITY, "example.org")
    async with serving(files, tls_cert=other) as running:
        reason = await why(running.url, of_client(files))
        assert "use a name or address that is in it" in reason
        named = running.url.replace("127.0.0.1", "localhost")
        reason = await why(named, of_client(files))
        assert "use a name that is in it" in reason


# The client's certificate


async def test_the_name_in_a_certificate_is_the_identity(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    alice = files.issue("alice", AUTHORITY, "a.example", common_name="alice")
    nameless = files.issue("device", AUTHORITY, "device-7.example")
    async with serving(files, tls_client_ca=files.ca) as running:
        async with connect(running.url, tls=of_client(files, alice)) as client:
            assert await client.upload(b"x", "a")
        assert " of alice from" in caplog.text
        async with connect(running.url, tls=of_client(files, nameless)):
            pass
        assert " of device-7.example from" in caplog.text


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_without_a_certificate(
    files: Files, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    caplog.set_level("INFO")
    context = of_client(files)
    context.maximum_version = ssl.TLSVersion[version]
    async with serving(files, tls_client_ca=files.ca) as running:
        reason = await why(running.url, context)
        assert "certificate of the client" in reason
        assert "--cert" in reason
        await until_logged(caplog, "the client showed no certificate")


async def test_a_certificate_of_the_client_that_is_not_accepted(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stranger = files.issue("stranger", STRANGER, "x", common_name="alice")
    expired = files.issue("old", AUTHORITY, "x", common_name="alice", not_after=PAST)
    async with serving(files, tls_client_ca=files.ca) as running:
        reason = await why(running.url, of_client(files, stranger))
        assert "not from an authority in the server's --tls-client-ca" in reason
        await until_logged(caplog, "tls_client_ca says whose are")
        reason = await why(running.url, of_client(files, expired))
        assert "this client's certificate has expired: renew it" in reason
    assert " of alice" not in caplog.text


async def test_a_scheme_that_only_tls_can_prove_is_not_taken_from_hello(
    files: Files,
) -> None:
    async with Server().serve(options_for(files.folder)) as running:
        peer = Peer(running.port)
        await peer.connect(scheme="certificate", credential=b"alice", wait=False)
        assert (await peer.failed()).code == Code.UNAUTHENTICATED
        await peer.drop()


# Two protocols on one port


async def test_plain_text_to_a_port_with_tls(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(files) as running:
        reason = await why(running.url.replace("acklines:", "ackline:"))
        assert "speaks TLS only: connect to acklines://" in reason
        assert "speaks TLS only" in caplog.text


async def test_tls_to_a_port_without(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(files, tls_cert=None) as running:
        reason = await why(running.url.replace("ackline:", "acklines:"))
        assert "does not speak TLS on this port: use ackline://" in reason
        assert "this port does not speak TLS" in caplog.text


async def test_plain_text_to_a_foreign_server_with_tls(files: Files) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server)

    async def hold(_reader: object, _writer: object) -> None: ...

    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(bytes.fromhex("15030100020246"))
        writer.close()

    async with await asyncio.start_server(alert, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        reason = await why(f"ackline://127.0.0.1:{port}")
        assert "speaks TLS on this port: use acklines://" in reason
    async with await asyncio.start_server(hold, "127.0.0.1", ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        reason = await why(f"acklines://127.0.0.1:{port}", of_client(files))
        assert f"does not name {ALPN}" in reason


@pytest.mark.parametrize("names", [[], ["h2", "http/1.1"]])
async def test_tls_for_another_protocol_is_turned_away(
    files: Files, names: list[str]
) -> None:
    context = ssl.create_default_context(cafile=files.ca)
    if names:
        context.set_alpn_protocols(names)
    async with serving(files) as running, asyncio.timeout(50):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=context
        )
        answer = await reader.read()
        writer.close()
    assert answer[4] == FrameType.ERROR
    error = decode(Error, answer[HEADER_SIZE:])
    assert error.code == Code.UNSUPPORTED
    assert ALPN in error.text


async def test_what_is_old_is_not_spoken(files: Files) -> None:
    context = of_client(files)
    context.set_ciphers("AES256-GCM-SHA384")  # no forward secrecy
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(files) as running:
        assert "HANDSHAKE" in (await why(running.url, context)).upper()


# Files that change


async def test_certificates_are_read_again_and_connections_stay(files: Files) -> None:
    async with serving(files, tls_client_ca=files.ca) as running:
        alice = files.issue("alice", AUTHORITY, "x", common_name="alice")
        context = of_client(files, alice)
        async with connect(running.url, tls=context) as client:
            files.issue("server", STRANGER, "127.0.0.1")
            running.reload()
            assert "not trusted" in await why(running.url, context)
            assert await client.upload(b"x", "a")
            files.server.write_text("junk")
            with pytest.raises(OptionError, match=r"option tls_cert.*no certificate"):
                running.reload()
            assert "not trusted" in await why(running.url, context)
            assert await client.upload(b"x", "b")


# Files that cannot be used


def test_files_of_the_client_that_cannot_be_used(files: Files) -> None:
    issued, other = AUTHORITY.issue_cert("x"), AUTHORITY.issue_cert("y")
    cert = files.write("cert", issued.cert_chain_pems[0])
    key = files.write("key", issued.private_key_pem)
    wrong = files.write("wrong", other.private_key_pem)
    junk = files.folder / "junk"
    junk.write_text("x")
    sealed = files.folder / "sealed"
    sealed.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    damaged = files.folder / "damaged"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
    assert client_context(cert=cert, key=key)
    for said, arguments in {
        "is not that of the certificate": {"cert": cert, "key": wrong},
        "say in which file that is": {"cert": cert},
        "holds no private key": {"cert": cert, "key": junk},
        "has a password": {"cert": cert, "key": sealed},
        "holds no certificate": {"cert": junk, "key": key},
        "damaged": {"ca": damaged},
        "No such file": {"cert": cert, "key": files.folder / "no"},
        "damaged PEM; both": {"cert": damaged, "key": key},
    }.items():
        with pytest.raises(UsageError, match=said):
            client_context(**arguments)


def test_authorities_that_cannot_be_used_are_an_error_of_their_option(
    files: Files,
) -> None:
    missing = options_for(
        files.folder, tls_cert=files.server, tls_client_ca=files.folder / "no"
    )
    with pytest.raises(OptionError, match=r"option tls_client_ca: .*No such file"):
        server_context(missing)


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait for a line of the server's log: its handshake may end after the client's."""
    async with asyncio.timeout(50):
        while text not in caplog.text:
            await asyncio.sleep(0.005)
