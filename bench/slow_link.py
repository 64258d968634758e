"""What lies between server and client: the loopback, a slow link, or a far one.

The slow link joins two network namespaces with a TUN device in each, so that on both
sides TCP is the kernel's own. A thread carries the packets from one to the other, as
netem would in a kernel that has it: `SLOW_RATE` each way, `SLOW_DELAY` on the way to
the client and none back, and a queue of one bandwidth-delay product, which drops what
does not fit. This takes root and /dev/net/tun. Elsewhere `tests.link` forwards the
bytes, and its socket buffers are the queue. The far link is `tests.link` anywhere, with
`FAR_DELAY` each way and no limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.peer import Address

__all__ = ["FAR_DELAY", "SLOW_DELAY", "SLOW_RATE", "Between", "between", "received"]

SLOW_RATE = 50e6 / 8
"""Bytes a second, IP and TCP headers included."""
SLOW_DELAY = 0.020
FAR_DELAY = 0.010
QUEUE = int(SLOW_RATE * SLOW_DELAY)
DEVICE = "slow"
HOSTS = {"server": "10.83.71.1", "client": "10.83.71.2"}
MTU = 1500
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000


class Between(Protocol):
    """What a run's processes have between them.

    Attributes:
        host: where the server listens.
    """

    host: str

    def command(self, side: str) -> list[str]:
        """Return what comes before the command of a side's process."""
        ...

    def reach(self, address: Address) -> Address:
        """Return where the client finds the server."""
        ...


@contextlib.contextmanager
def between(link: str) -> Iterator[Between]:
    """Make what is between server and client, and remove it at the end.

    Args:
        link: `loopback`, `slow` or `far`.
    """
    with contextlib.ExitStack() as stack:
        found: Between
        if link == "loopback":
            found = _Loopback()
        elif link == "far":
            found = stack.enter_context(_Forwarder("--both", f"latency={FAR_DELAY}"))
        else:
            try:
                found = stack.enter_context(_namespaces())
            except (OSError, subprocess.CalledProcessError):
                found = stack.enter_context(_Forwarder(*_slow()))
        yield found


def received() -> int:
    """Return the bytes that came over the slow link; 0 if they cannot be counted."""
    table = Path("/proc/net/dev").read_text()
    line = re.search(rf"^\s*{DEVICE}:\s*(\d+)", table, re.MULTILINE)
    return int(line[1]) if line else 0


class _Loopback:
    host = "127.0.0.1"

    def command(self, side: str) -> list[str]:
        return []

    def reach(self, address: Address) -> Address:
        return address


class _Forwarder(_Loopback):
    """`tests.link` as a process.

    Args:
        arguments: what the link does.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()

    def reach(self, address: Address) -> Address:
        command = [sys.executable, "-m", "tests.link", "--listen=127.0.0.1:0"]
        command += [f"--to={address.host}:{address.port}", *self._arguments]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline().rpartition(":")[2])
        return replace(address, port=port)


def _slow() -> list[str]:
    return [
        *("--both", f"bandwidth={SLOW_RATE:.0f}"),
        *("--to-client", f"latency={SLOW_DELAY}"),
        # What is on its way, and the queue: in the link's memory and in its sockets.
        f"--in-flight={QUEUE + QUEUE // 2}",
        f"--socket-buffer={QUEUE // 4}",
    ]


class _Namespaces:
    host = HOSTS["server"]

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def command(self, side: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[side]]

    def reach(self, address: Address) -> Address:
        return address


@contextlib.contextmanager
def _namespaces() -> Iterator[Between]:
    names = {side: f"ackline-bench-{os.getpid()}-{side}" for side in HOSTS}
    with contextlib.ExitStack() as stack:
        ends: list[int] = []
        for side, name in names.items():
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, end)
            ends.append(end)
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _move(end, name, HOSTS[side])
        stop, stopped = os.pipe()
        stack.callback(os.close, stop)
        carrying = threading.Thread(target=_carry, args=(*ends, stop))
        carrying.start()
        stack.callback(carrying.join)
        stack.callback(os.close, stopped)
        yield _Namespaces(names)


def _move(end: int, namespace: str, host: str) -> None:
    """Make a device of one end of the link, in a namespace."""
    request = struct.pack("16sH22x", b"ackline%d", _IFF_TUN | _IFF_NO_PI)
    made = ioctl(end, _TUNSETIFF, request)[:16].rstrip(b"\0").decode()
    _ip("link", "set", made, "netns", namespace, "name", DEVICE)
    _ip("-n", namespace, "address", "add", f"{host}/30", "dev", DEVICE)
    _ip("-n", namespace, "link", "set", DEVICE, "mtu", str(MTU), "up")
    _ip("-n", namespace, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Lane:
    """One way of the link: packets that wait, are being sent, or are on their way."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._free = 0.0
        self._packets: deque[tuple[float, bytes]] = deque()

    def put(self, packet: bytes, now: float) -> None:
        """Take a packet, unless the queue is full."""
        self._free = max(self._free, now)
        if (self._free - now) * SLOW_RATE <= QUEUE:
            self._free += len(packet) / SLOW_RATE
            self._packets.append((self._free + self._delay, packet))

    def due(self) -> float:
        """Return when the next packet arrives."""
        return self._packets[0][0] if self._packets else float("inf")

    def take(self, now: float) -> Iterator[bytes]:
        """Yield the packets that have arrived."""
        while self.due() <= now:
            yield self._packets.popleft()[1]


def _carry(server: int, client: int, stop: int) -> None:
    """Carry packets between two devices until the other end of `stop` is closed."""
    others = {server: client, client: server}
    to = {client: Lane(SLOW_DELAY), server: Lane(0.0)}
    while True:
        now = time.monotonic()
        for end, lane in to.items():
            for packet in lane.take(now):
                with contextlib.suppress(OSError):  # a device that is full drops it
                    os.write(end, packet)
        wait = max(0.0, min(1.0, min(lane.due() for lane in to.values()) - now))
        readable = select.select((server, client, stop), (), (), wait)[0]
        if stop in readable:
            return
        for end in readable:
            with contextlib.suppress(BlockingIOError):
                while True:
                    to[others[end]].put(os.read(end, MTU), time.monotonic())
