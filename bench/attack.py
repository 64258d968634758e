"""What honest clients keep while another one attacks: `python -m bench attack`.

The server has one processor, the honest client and the attacker share another, so the
attacker alone takes half of the honest client's. The baseline is therefore a neighbour
that only burns its processor: what is left is what the server does about it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ackline.client import ClientOptions, client_context, connect
from ackline.client.addresses import Address, parse_url
from ackline.proto.frames import HEADER_SIZE, FrameType, encode_frame
from ackline.proto.limits import ALPN
from ackline.proto.messages import (
    Ack,
    Durability,
    Hello,
    Limits,
    List,
    Open,
    Pause,
    PublishDetail,
    Resume,
    Resumed,
    Start,
    SubscribeDetail,
    Use,
    Welcome,
    decode,
    encode,
    raw,
)
from bench.certificates import make_certificate
from bench.processes import pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Attack: TypeAlias = Callable[[Address], None]

__all__ = ["main"]

SECONDS = 1.0
"""Of one measurement, after as long to come to speed."""

ROUNDS = 3
"""Measurements of each, alone and beside the attacker in turn; medians are compared."""

OBJECT = bytes(32 * 2**20)

LIMITS = Limits(262_144, 2**24, 0, 65_536, 2**25, 0, 0, 10.0)


# The honest client


async def _honest(url: str, what: str, ca: str) -> None:
    tls = client_context(ca) if ca else None
    options = ClientOptions(wait_for_server=True, give_up_after=20)
    async with connect(url, tls=tls, options=options) as client:
        moved = 0
        begin = time.monotonic() + SECONDS
        end = begin + SECONDS
        if what == "subscribe":
            arguments = {"count": 10**9, "size": 64}
            async with client.subscribe("sources/events", params=arguments) as it:
                async for _ in it:
                    now = time.monotonic() if not moved % 64 else 0.0
                    moved += 1
                    if now and now < begin:
                        moved, started = 0, now
                    elif now >= end:
                        break
        else:
            started = begin
            while (now := time.monotonic()) < end:
                if now < begin:
                    moved, started = 0, now
                await client.upload(OBJECT, "honest", existing="replace")
                moved += len(OBJECT)
        print(moved / (time.monotonic() - started))


# Attackers: each call is one turn of a loop that never ends


def _hello(*, resume: bool = False) -> bytes:
    hello = Hello(1, 1, "", b"", "attacker", resume, LIMITS)
    return encode_frame(FrameType.HELLO, encode(hello))


def _dial(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=20)


def _read(connection: socket.socket) -> bytes:
    """Return the payload of the next frame."""
    header = connection.recv(HEADER_SIZE, socket.MSG_WAITALL)
    if len(header) < HEADER_SIZE:
        raise ConnectionResetError
    length = int.from_bytes(header[:4], "big")
    return connection.recv(length, socket.MSG_WAITALL) if length else b""


def _greeted(address: Address) -> tuple[socket.socket, Welcome]:
    connection = _dial(address)
    connection.sendall(_hello())
    return connection, decode(Welcome, _read(connection))


def _flood(connection: socket.socket, frames: Iterator[bytes]) -> None:
    """Write as fast as it is taken, and throw away what is answered."""
    connection.setblocking(False)
    for data in frames:
        rest = memoryview(data)
        while rest:
            with contextlib.suppress(BlockingIOError):
                rest = rest[connection.send(rest) :]
            with contextlib.suppress(BlockingIOError):
                if not connection.recv(2**20):
                    raise ConnectionResetError


def _opens(address: Address) -> None:
    connection, _ = _greeted(address)
    message = encode(Open(Use.PUBLISH, "logs/x", "", 0, 0, raw(PublishDetail())))
    _flood(
        connection,
        (
            encode_frame(FrameType.OPEN, message, stream_id=number)
            + encode_frame(FrameType.RELEASE, b"", stream_id=number)
            for number in itertools.count(1)
        ),
    )


def _cancels(address: Address) -> None:
    connection, _ = _greeted(address)
    detail = raw(SubscribeDetail(Start.FIRST))
    message = encode(Open(Use.SUBSCRIBE, "sources/idle", "", 9, 9000, detail))
    cancel = bytes([0x91, 0])
    _flood(
        connection,
        (
            encode_frame(FrameType.OPEN, message, stream_id=number)
            + encode_frame(FrameType.CANCEL, cancel, stream_id=number)
            + encode_frame(FrameType.RELEASE, b"", stream_id=number)
            for number in itertools.count(1)
        ),
    )


def _on_stream(address: Address, frames: bytes) -> None:
    connection, _ = _greeted(address)
    detail = raw(SubscribeDetail(Start.FIRST))
    message = encode(Open(Use.SUBSCRIBE, "sources/idle", "", 9, 9000, detail))
    connection.sendall(encode_frame(FrameType.OPEN, message, stream_id=1))
    _read(connection)  # OPENED
    _flood(connection, itertools.repeat(frames * 100))


def _acks(address: Address) -> None:
    ack = encode(Ack(9, 9000, 0, Durability.MEMORY))
    _on_stream(address, encode_frame(FrameType.ACK, ack, stream_id=1))


def _pauses(address: Address) -> None:
    _on_stream(
        address,
        b"".join(
            encode_frame(FrameType.PAUSE, encode(Pause(paused, "")), stream_id=1)
            for paused in (True, False)
        ),
    )


def _lists(address: Address) -> None:
    connection, _ = _greeted(address)
    for number in itertools.count(1):
        message = encode(List("objects/"))
        connection.sendall(encode_frame(FrameType.LIST, message, sequence=number))
        if number > 32:
            _read(connection)


def _sessions(address: Address) -> None:
    _greeted(address)[0].close()


def _resumes(address: Address) -> None:
    connection, welcome = _greeted(address)
    session = welcome.session
    while session is not None:
        connection.close()
        connection = _dial(address)
        resume = encode(Resume(session.session_id, session.token, ()))
        connection.sendall(_hello(resume=True) + encode_frame(FrameType.RESUME, resume))
        _read(connection)
        session = decode(Resumed, _read(connection)).session


def _connects(address: Address) -> None:
    _dial(address).close()


def _garbage(address: Address) -> None:
    connection = _dial(address)
    connection.sendall(os.urandom(64))
    connection.close()


def _flood_of_garbage(connection: socket.socket) -> None:
    _flood(connection, itertools.repeat(bytes(2**18)))


def _broken(address: Address) -> None:
    """Go on sending after a frame that ends the connection."""
    _flood_of_garbage(_greeted(address)[0])


def _noises(address: Address) -> None:
    _flood_of_garbage(_dial(address))


_held: list[socket.socket] = []


def _silents(address: Address) -> None:
    _held.append(_dial(address))
    if len(_held) > 2_000:
        _held.pop(0).close()


def _handshakes(address: Address) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    while True:
        with contextlib.suppress(OSError):
            context.wrap_socket(_dial(address)).close()


def _client_hellos(address: Address) -> None:
    """Have the server sign, for a few bytes each."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    shaking = context.wrap_bio(incoming, outgoing, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    hello = outgoing.read()
    while True:
        with contextlib.suppress(OSError):
            connection = _dial(address)
            connection.sendall(hello)
            connection.recv(1)
            connection.close()


def _spin(_address: Address) -> None:
    while True:
        pass


AUTHENTICATED: dict[str, Attack] = {
    "opens": _opens,
    "cancels": _cancels,
    "acks": _acks,
    "pauses": _pauses,
    "lists": _lists,
    "sessions": _sessions,
    "resumes": _resumes,
    "broken": _broken,
}
STRANGERS: dict[str, Attack] = {
    "connects": _connects,
    "garbage": _garbage,
    "silents": _silents,
    "noises": _noises,
}
TLS: dict[str, Attack] = {"handshakes": _handshakes, "client-hellos": _client_hellos}
ATTACKS = AUTHENTICATED | STRANGERS | TLS
LEAST = {name: 0.8 if name in AUTHENTICATED else 0.5 for name in ATTACKS}
"""What an honest client keeps of its throughput, at least."""


def _attack(kind: str, url: str) -> None:
    address = parse_url(url)
    call = {"spin": _spin, **ATTACKS}[kind]
    while True:
        with contextlib.suppress(OSError):
            call(address)


# The measurement


def _server(folder: Path, *, tls: bool) -> tuple[subprocess.Popen[str], str, str]:
    arguments = ["--durability=written", "--log-level=error", "--metrics=off"]
    ca = ""
    if tls:
        pem, authority = make_certificate(folder)
        arguments.append(f"--tls-cert={pem}")
        ca = str(authority)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "ackline.server", "--app=bench.app:server"),
            *("--listen=127.0.0.1:0", f"--data-dir={folder / 'data'}", *arguments),
        ],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin("server"),  # noqa: PLW1509 - no threads here
    )
    assert server.stdout is not None
    for line in server.stdout:
        if "clients" in line:
            return server, line.split()[-1], ca
    raise SystemExit("the server did not start")


def _role(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.attack", *words],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin("client"),  # noqa: PLW1509 - no threads here
    )


def _measure(kind: str, what: str, *, tls: bool) -> float:
    """Return what the honest client moves in a second beside an attacker."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        server, url, ca = _server(Path(folder), tls=tls)
        attacker = _role("attacker", kind, url)
        try:
            honest = _role("honest", url, what, ca)
            out, _ = honest.communicate(timeout=60)
        finally:
            for process in (attacker, server):
                process.kill()
                process.wait()
        return float(out)


def _compare(kind: str, what: str, *, rounds: int) -> float:
    """Return the part of its throughput that the honest client keeps."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(_measure("spin", what, tls=kind in TLS))
        beside.append(_measure(kind, what, tls=kind in TLS))
    return statistics.median(beside) / statistics.median(alone)


def main(arguments: list[str]) -> int:
    """Measure; return the exit code: 1 if somebody keeps too little."""
    if arguments[:1] == ["attacker"]:
        _attack(*arguments[1:])
    if arguments[:1] == ["honest"]:
        asyncio.run(_honest(*arguments[1:]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m bench.attack")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.attacks) - set(ATTACKS)
    if unknown:
        print(f"no attack {', '.join(unknown)}; there are {', '.join(ATTACKS)}")
        return 2
    kept_all = True
    for kind in parsed.attacks or ATTACKS:
        for what in ("upload", "subscribe"):
            kept = _compare(kind, what, rounds=parsed.rounds)
            kept_all &= kept >= LEAST[kind]
            least = f"at least {LEAST[kind]:.0%}"
            print(f"{kind:14} {what:10} keeps {kept:4.0%} ({least})", flush=True)
    return 0 if kept_all else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
