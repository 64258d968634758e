"""What the kernel is told to hold."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from ackline.aio import sockets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def near() -> Iterator[socket.socket]:
    """Return a socket whose peer is on this machine."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        yield client


@pytest.fixture
def permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file with what may be asked for."""
    file = tmp_path / "rmem_max"
    file.write_text(f"{sockets.UNREAD}\n")
    monkeypatch.setattr(sockets, "MOST", file)
    sockets.most_unread.cache_clear()
    yield file
    sockets.most_unread.cache_clear()


def held(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@pytest.fixture
def asked(near: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any machine permit what the tests ask for."""
    before = held(near)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, before // 2 // 2)
    monkeypatch.setattr(sockets, "UNREAD", before // 2)
    monkeypatch.setattr(sockets, "NEAR", 10**6)  # this machine may be busy


@pytest.mark.usefixtures("asked", "permitted")
def test_what_a_near_peer_may_have_sent_is_bounded(near: socket.socket) -> None:
    sockets.limit_unread(near)
    assert held(near) == 2 * sockets.UNREAD


@pytest.mark.usefixtures("asked", "permitted")
def test_a_far_peer_is_left_to_the_kernel(
    near: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(near)
    monkeypatch.setattr(sockets, "NEAR", 0)
    sockets.limit_unread(near)
    assert held(near) == before


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("most", ["4096\n", "", None])
def test_a_system_that_gives_too_little_is_not_asked(
    near: socket.socket, permitted: Path, most: str | None
) -> None:
    """It would get that little, where the kernel itself takes what is needed."""
    if most is None:
        permitted.unlink()
    else:
        permitted.write_text(most)
    before = held(near)
    sockets.limit_unread(near)
    assert held(near) == before


def test_other_sockets_and_systems_are_left_alone(
    near: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = socket.socketpair()
    with here, there:
        before = held(here)
        for tell in (sockets.send_at_once, sockets.limit_unread):
            tell(here)
        sockets.limit_unsent(here, 16_384)
        assert held(here) == before
    monkeypatch.setattr(sockets, "INFO", None)
    before = held(near)
    sockets.limit_unread(near)
    assert held(near) == before


def test_small_writes_wait_for_nothing_and_unsent_bytes_are_few(
    near: socket.socket,
) -> None:
    sockets.send_at_once(near)
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    sockets.limit_unsent(near, 16_384)
    assert sockets.LOWAT is not None
    assert near.getsockopt(socket.IPPROTO_TCP, sockets.LOWAT) == 16_384
