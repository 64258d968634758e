"""Connections: who gets in, who is turned away, and how all of them go."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType, encode_frame
from ackline.proto.messages import Error, Hello, decode, encode
from ackline.proto.notices import PeerLeft
from ackline.server import Address, ListenError, Server
from tests.server.conftest import options_for
from tests.server.peer import LIMITS, Peer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start


async def said(port: int, data: bytes) -> Error:
    """Return the ERROR that the server answers these bytes with before it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(50):
        answer = await reader.read()
    writer.close()
    while answer:
        length, kind = int.from_bytes(answer[:4], "big"), answer[4]
        payload, answer = answer[24 : 24 + length], answer[24 + length :]
        if kind == FrameType.ERROR:
            return decode(Error, payload)
    raise AssertionError("no ERROR came")


def hello(version: int = 1, *, resume: bool = False) -> bytes:
    message = Hello(version, version, "", b"", "test", resume, LIMITS)
    return encode_frame(FrameType.HELLO, encode(message))


def spoilt(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", Code.FRAME_TOO_LARGE),
        (b"\0" * 64, Code.BAD_CRC),
        (encode_frame(FrameType.PING, b""), Code.BAD_FRAME),
        (hello(2), Code.UNSUPPORTED_VERSION),
        (spoilt(hello()), Code.BAD_CRC),
        (hello() + hello(), Code.WRONG_STATE),
        (hello() + encode_frame(FrameType.WELCOME, b""), Code.WRONG_STATE),
        (hello() + encode_frame(FrameType.RELEASE, b"", stream_id=9), 7),
        (hello(resume=True) + encode_frame(FrameType.CONFIRM, b""), Code.WRONG_STATE),
    ],
)
async def test_every_violation_has_its_error(
    start: Start, data: bytes, code: Code
) -> None:
    async with start() as serving:
        error = await said(serving.port, data)
        assert error.code == code
        assert error.text
        # Nobody else is harmed.
        async with Peer(serving.port) as peer:
            await peer.upload("a", b"x").ended()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x16\3\1", Code.UNSUPPORTED),
        (b"\0" * 24, Code.BAD_CRC),
        (hello() + b"\0" * 24, Code.BAD_CRC),
    ],
)
async def test_who_goes_on_sending_can_read_why_it_is_over(
    start: Start, data: bytes, code: Code
) -> None:
    """A socket closed before all is read would be reset, and the ERROR be lost."""
    async with start() as serving:
        error = await said(serving.port, data + bytes(8 * 2**20))
        assert error.code == code


async def test_random_bytes_close_only_their_connection(start: Start) -> None:
    async with start(handshake_timeout=5.0) as serving, Peer(serving.port) as peer:
        for _ in range(20):
            await said(serving.port, os.urandom(64))
        await peer.upload("a", b"x").ended()


@pytest.mark.parametrize("data", [b"", b"\0\0", hello()[:30], hello(resume=True)])
async def test_a_slow_handshake_is_ended(start: Start, data: bytes) -> None:
    async with start(handshake_timeout=0.1) as serving:
        assert (await said(serving.port, data)).code == Code.HANDSHAKE_TIMEOUT


async def test_credentials_nobody_asked_for_are_refused(start: Start) -> None:
    async with start() as serving:
        peer = Peer(serving.port)
        await peer.connect(scheme="bearer", credential=b"secret", wait=False)
        failed = await peer.failed()
        assert failed.code == Code.UNAUTHENTICATED
        assert "secret" not in failed.text
        await peer.drop()


async def test_more_connections_than_allowed_are_turned_away(start: Start) -> None:
    async with start(max_connections=1) as serving, Peer(serving.port):
        second = Peer(serving.port)
        await second.connect(wait=False)
        failed = await second.failed()
        assert (failed.code, failed.retry) == (Code.TOO_MANY_CONNECTIONS, True)
        await second.drop()


async def test_more_streams_than_allowed_are_refused(start: Start) -> None:
    async with start(max_streams=2) as serving, Peer(serving.port) as peer:
        works = [peer.upload(f"n{n}", b"x" * 100_000, end=False) for n in range(3)]
        await works[0].opened()
        await works[1].opened()
        assert (await works[2].refused()).message.code == Code.TOO_MANY_STREAMS
        works[0].release()
        await peer.upload("more", b"x").ended()


async def test_streams_that_have_ended_are_not_open(start: Start) -> None:
    async with start(max_streams=2) as serving, Peer(serving.port) as peer:
        live = peer.upload("live", b"x" * 100_000, end=False)
        await live.opened()
        for number in range(4):
            await peer.upload(f"n{number}", b"x", key=f"k{number}").ended()
        assert live.outcome is None
        # Only the stream is forgotten, not what it was about.
        again = peer.upload("n0", b"x", key="k0")
        assert (await again.opened()).message.standing.outcome is not None


async def test_drain_stores_what_is_on_its_way_and_takes_nothing_new(
    start: Start,
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", b"x" * 4_000_000)
        await up.stored(1)
        draining = asyncio.create_task(serving.drain(5))
        left = await peer.until(PeerLeft)
        assert left.message.code == Code.DRAINING
        assert left.message.deadline == 5
        late = peer.upload("b", b"x")
        assert (await late.refused()).message.code == Code.DRAINING
        sender = up.stream.sender
        assert sender is not None
        await up.stored(sender.sent_position)
        assert not draining.done()
        await peer.drop()
        await draining
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", serving.port)


async def test_drain_does_not_wait_for_ever(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        await serving.drain(0.1)
        assert not peer.pump.closed.done()
    await peer.drop()


async def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with Server().serve(options_for(tmp_path / "a")) as serving:
        options = options_for(tmp_path / "b", listen=serving.address)
        with pytest.raises(ListenError, match=f"127.0.0.1:{serving.port}.*in use"):
            async with Server().serve(options):
                pass
        options = options_for(tmp_path / "b", metrics=serving.address)
        with pytest.raises(ListenError, match=f"127.0.0.1:{serving.port}.*in use"):
            async with Server().serve(options):
                pass


async def test_listening_for_everybody_is_warned_about(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(listen=Address("0.0.0.0", 0), allow_anonymous=("*",)) as serving:
        assert serving.port
    assert "without TLS" in caplog.text
