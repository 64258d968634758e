"""SIGKILL of server, client and link in the middle of a fetch."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from typing import TYPE_CHECKING

from ackline.proto.frames import HEADER, HEADER_SIZE, FrameType, Header
from ackline.proto.messages import FetchDetail, Open, Resume, decode, open_detail
from tests.acceptance.processes import run_client, running, send, start_client
from tests.link import Direction, Link, LinkOptions, Way

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20
SIZE = 16 * MIB
GOALS = tuple(goal * MIB // 4 for goal in (15, 31, 47))
"""Bytes of the object after which the next one dies: nearly whole chunks of 4 MiB."""


class Watch:
    """Sees where each connection of a fetch begins, and what it is sent.

    Attributes:
        begins: by connection: the byte from which on the client asks for the object.
        sent: by connection: bytes of the object in whole frames.
    """

    def __init__(self) -> None:
        self.begins: dict[int, int] = {}
        self.sent: defaultdict[int, int] = defaultdict(int)
        self._chunk_size = 0
        self._unread: defaultdict[tuple[int, Direction], bytearray] = defaultdict(
            bytearray
        )

    @property
    def reached(self) -> int:
        """Bytes from the object's start to where the newest connection is."""
        newest = max(self.begins)
        return self.begins[newest] + self.sent[newest]

    def accepted(self, connection: int) -> None:
        """Wait for what it sends."""

    def entered(self, connection: int, direction: Direction, data: memoryview) -> None:
        unread = self._unread[connection, direction]
        unread += data
        while len(unread) >= HEADER_SIZE:
            header = Header(*HEADER.unpack_from(unread))
            end = HEADER_SIZE + header.length
            if len(unread) < end:
                break
            self._frame(connection, header, bytes(unread[HEADER_SIZE:end]))
            del unread[:end]

    def _frame(self, connection: int, header: Header, payload: bytes) -> None:
        if header.type == FrameType.CHUNK:
            self.sent[connection] += header.length
        elif header.type == FrameType.OPEN:
            detail = open_detail(decode(Open, payload))
            assert isinstance(detail, FetchDetail)
            self._chunk_size = detail.chunk_size
            self._begin(connection, detail.position, detail.held)
        elif header.type == FrameType.RESUME:
            [stream] = decode(Resume, payload).streams
            self._begin(connection, stream.position, stream.held)

    def _begin(self, connection: int, position: int, held: int) -> None:
        self.begins[connection] = position * self._chunk_size + held


async def test_what_is_fetched_is_not_fetched_again_whatever_is_killed(
    tmp_path: Path,
) -> None:
    """A client that dies keeps its file, one that lives what it has in memory too."""
    data = os.urandom(SIZE)
    file, target, part = (tmp_path / name for name in ("file", "copy", "copy.part"))
    file.write_bytes(data)
    # What is lost on the way each time: far less than the chunks that are cut.
    options = LinkOptions(
        to_client=Way(bandwidth=40 * MIB), in_flight=2**17, socket_buffer=2**17
    )
    watch = Watch()
    kept: list[int] = []

    async def nearly_a_chunk() -> None:
        while len(watch.begins) <= len(kept) or watch.reached < GOALS[len(kept)]:
            await asyncio.sleep(0.002)

    async with (
        running(tmp_path / "data") as server,
        Link(target_port=server.port, options=options, observer=watch) as link,
        asyncio.timeout(50),
    ):
        arguments = ("upload", "--digest=sha256", str(file), "x")
        await run_client(server.port, tmp_path / "s", *arguments)
        fetch = (tmp_path / "state", "fetch", "x", str(target))
        client = await start_client(link.port, *fetch)
        await nearly_a_chunk()
        await link.cut()
        kept.append(part.stat().st_size)
        await nearly_a_chunk()
        await server.kill()
        kept.append(part.stat().st_size)
        await server.start()
        await nearly_a_chunk()
        send(client, signal.SIGKILL)
        await client.communicate()
        kept.append(part.stat().st_size)
        await run_client(link.port, *fetch)
    assert target.read_bytes() == data
    begins = [watch.begins[each] for each in sorted(watch.begins)]
    ends = [watch.begins[each] + watch.sent[each] for each in sorted(watch.begins)]
    assert len(begins) == 4
    assert begins[-1] == kept[-1] >= begins[-2] > 0
    assert ends[-1] == SIZE
    for had, end, begin in zip(kept[:2], ends, begins[1:], strict=False):
        assert max(had, end - 2 * MIB) <= begin <= end
