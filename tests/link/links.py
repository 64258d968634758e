"""The listening end of a link and its switches."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, Self

from tests.link.connections import Connection
from tests.link.options import BOTH, Counters, CutMode, Direction, LinkOptions
from tests.link.paths import Lane

if TYPE_CHECKING:
    from tests.link.options import Observer

__all__ = ["Link"]


class Link:
    """A listening socket whose connections lead to another one.

    Use as an async context manager. `target_host` and `target_port` may be assigned
    while it runs, for a server that came back elsewhere; `port` stays the same from
    start to end, through `down` and `up` too.
    """

    def __init__(
        self,
        *,
        target_port: int,
        target_host: str = "127.0.0.1",
        host: str = "127.0.0.1",
        port: int = 0,
        options: LinkOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.target_host = target_host
        self.target_port = target_port
        self.host = host
        self.port = port
        self.options = options or LinkOptions()
        self._observer = observer
        self._random = random.Random(self.options.seed)
        self._lanes = {way: Lane(self.options.way(way)) for way in BOTH}
        self._accepted = 0
        self._cuts = 0
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._failures: list[BaseException] = []
        self._holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._return: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        # A bound socket that never listens keeps the port ours while the link is down.
        self._holder = self._bound()
        self.port = self._holder.getsockname()[1]
        self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.down()
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failures:
            raise self._failures[0]

    async def cut(self, *, mode: CutMode | None = None) -> int:
        """Cut every connection now and return how many there were.

        Bytes that the kernel still holds may be lost, as in a real accident.

        Args:
            mode: What the ends see; the mode of the options by default.
        """
        connections = list(self._connections)
        for connection in connections:
            connection.request_cut(mode or self.options.cut_mode)
        for connection in connections:
            await connection.ended.wait()
        return len(connections)

    def stall(self, *directions: Direction) -> None:
        """Stop forwarding in these directions, both by default; nothing is lost.

        The link stops reading as well, so the sender's writes soon block. Stalling one
        direction makes a half-open connection.
        """
        for direction in directions or BOTH:
            self._lanes[direction].moving.clear()

    def resume(self, *directions: Direction) -> None:
        """Forward again in these directions, both by default."""
        for direction in directions or BOTH:
            self._lanes[direction].moving.set()

    def blackhole(self, *directions: Direction) -> None:
        """Receive and discard from now on, in these directions, both by default.

        Connections stay open and new ones are accepted; all are silent.
        """
        for direction in directions or BOTH:
            self._lanes[direction].blackhole = True

    def heal(self) -> None:
        """End `blackhole` for connections accepted later.

        Those that lost bytes stay silent: nothing can follow a hole in a byte stream.
        """
        for lane in self._lanes.values():
            lane.blackhole = False

    def down(self) -> None:
        """Refuse new connections; those that exist stay."""
        if self._return is not None:
            self._return.cancel()
            self._return = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def up(self) -> None:
        """Accept new connections again."""
        if self._listener is None and self._holder is not None:
            self._listener = self._bound()
            self._listener.listen(1024)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        to_server = self._lanes[Direction.TO_SERVER]
        to_client = self._lanes[Direction.TO_CLIENT]
        return Counters(
            bytes_to_server=to_server.forwarded,
            bytes_to_client=to_client.forwarded,
            connections=self._accepted,
            open=len(self._connections),
            cuts=self._cuts,
            flips=to_server.flips + to_client.flips,
            discarded=to_server.discarded + to_client.discarded,
        )

    def _count_cut(self) -> None:
        self._cuts += 1
        if self.options.down_after_cut and self._holder is not None:
            self.down()
            self._return = asyncio.get_running_loop().call_later(
                self.options.down_after_cut, self.up
            )

    def _new_socket(self, host: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        new = socket.socket(family, socket.SOCK_STREAM)
        new.setblocking(False)
        new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.options.socket_buffer is not None:
            # Before connecting or listening: the window scale is settled then.
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                new.setsockopt(socket.SOL_SOCKET, option, self.options.socket_buffer)
        return new

    def _bound(self) -> socket.socket:
        bound = self._new_socket(self.host)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((self.host, self.port))
        return bound

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client gave up between the wake-up and here
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(
            number=self._accepted,
            client=client,
            server=self._new_socket(self.target_host),
            target=(self.target_host, self.target_port),
            options=self.options,
            lanes=self._lanes,
            randomness=self._random,
            on_cut=self._count_cut,
            observer=self._observer,
        )
        if self._observer is not None:
            self._observer.accepted(self._accepted)
        self._accepted += 1
        task = asyncio.get_running_loop().create_task(connection.run())
        self._connections[connection] = task
        task.add_done_callback(lambda task: self._gone(connection, task))

    def _gone(self, connection: Connection, task: asyncio.Task[None]) -> None:
        del self._connections[connection]
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failures.append(failure)
