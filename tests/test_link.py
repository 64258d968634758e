from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.link import Counters, CutMode, Direction, Link, LinkOptions, Way
from tests.link.__main__ import _setting, _size

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = os.urandom(300_000)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Sink:
    """A server that keeps what each connection sent and how it ended.

    With `echo` it sends everything back.
    """

    def __init__(self, *, echo: bool = False, kernel_buffer: int | None = None) -> None:
        self.echo = echo
        self.kernel_buffer = kernel_buffer
        self.received: list[bytearray] = []
        self.reads: list[int] = []
        self.ends: list[str] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        if self.kernel_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.kernel_buffer)
        self._server = await asyncio.start_server(self._serve, sock=listener)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        received = bytearray()
        self.received.append(received)
        try:
            await self.reading.wait()
            while data := await reader.read(2**16):
                received += data
                self.reads.append(len(data))
                if self.echo:
                    writer.write(data)
            self.ends.append("finished")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def until(condition: Callable[[], bool], *, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.002)


async def connected(link: Link) -> Streams:
    return await asyncio.open_connection("127.0.0.1", link.port, limit=2**20)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def sent(link: Link, data: bytes) -> None:
    """Send all of it on a new connection, as far as the connection lasts."""
    reader, writer = await connected(link)
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await reader.read()
    await closed(writer)


async def test_bytes_pass_unchanged_in_both_directions() -> None:
    async with Sink(echo=True) as sink, Link(target_port=sink.port) as link:
        reader, writer = await connected(link)
        writer.write(DATA)
        assert await reader.readexactly(len(DATA)) == DATA
        writer.write_eof()
        assert await reader.read() == b""
        await closed(writer)
        await until(lambda: link.counters.open == 0)
    assert sink.received == [DATA]
    assert sink.ends == ["finished"]
    assert link.counters == Counters(
        bytes_to_server=len(DATA),
        bytes_to_client=len(DATA),
        connections=1,
        open=0,
        cuts=0,
        flips=0,
        discarded=0,
    )


async def test_an_observer_sees_connections_and_what_enters() -> None:
    class Seeing:
        def __init__(self) -> None:
            self.connections: list[int] = []
            self.bytes: dict[tuple[int, Direction], bytes] = {}

        def accepted(self, connection: int) -> None:
            self.connections.append(connection)

        def entered(
            self, connection: int, direction: Direction, data: memoryview
        ) -> None:
            key = connection, direction
            self.bytes[key] = self.bytes.get(key, b"") + data

    seeing = Seeing()
    options = LinkOptions(to_client=Way(flip_at=(0,)))
    async with (
        Sink(echo=True) as sink,
        Link(target_port=sink.port, options=options, observer=seeing) as link,
    ):
        for sent in (b"first", b"second"):
            reader, writer = await connected(link)
            writer.write(sent)
            await reader.readexactly(len(sent))
            await closed(writer)
    assert seeing.connections == [0, 1]
    assert seeing.bytes == {
        (0, Direction.TO_SERVER): b"first",
        (0, Direction.TO_CLIENT): b"first",
        (1, Direction.TO_SERVER): b"second",
        (1, Direction.TO_CLIENT): b"second",
    }


async def test_end_of_one_direction_leaves_the_other_open() -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        question = await reader.read()
        writer.write(question.upper())
        await closed(writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Link(target_port=port) as link:
        reader, writer = await connected(link)
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read() == b"QUESTION"
        await closed(writer)


async def test_reset_by_one_end_reaches_the_other_as_a_reset() -> None:
    async with Sink() as sink, Link(target_port=sink.port) as link:
        with socket.create_connection(("127.0.0.1", link.port)) as client:
            await until(lambda: len(sink.received) == 1)
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
            )
        await until(lambda: sink.ends == ["reset"])


async def test_unreachable_target_resets_the_client() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with Link(target_port=unused.getsockname()[1]) as link:
            reader, writer = await connected(link)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await closed(writer)


async def test_receiver_that_does_not_read_holds_the_sender_back() -> None:
    options = LinkOptions(
        to_server=Way(latency=0.001), in_flight=2**20, socket_buffer=2**16
    )
    for each in (options, LinkOptions(socket_buffer=2**16)):
        async with Sink() as sink, Link(target_port=sink.port, options=each) as link:
            sink.reading.clear()
            _, writer = await connected(link)
            total = 2**26
            writer.write(bytes(total))
            await asyncio.sleep(0.3)
            taken = total - writer.transport.get_write_buffer_size()
            assert taken < 2**25
            sink.reading.set()
            await writer.drain()
            await closed(writer)
            await until(lambda: sink.ends == ["finished"])
        assert len(sink.received[0]) == total


@pytest.mark.parametrize("latency", [0.0, 0.001])
async def test_cut_every_connection_after_exactly_so_many_bytes(latency: float) -> None:
    way = Way(cut_every=100_000, latency=latency)
    options = LinkOptions(to_server=way)
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        for _ in range(3):
            await sent(link, DATA)
        await until(lambda: len(sink.ends) == 3)
        assert link.counters.cuts == 3
    assert sink.received == [DATA[:100_000]] * 3
    assert sink.ends == ["reset"] * 3


async def test_cut_towards_the_client_after_exactly_so_many_bytes() -> None:
    options = LinkOptions(to_client=Way(cut_every=70_000))
    async with (
        Sink(echo=True) as sink,
        Link(target_port=sink.port, options=options) as link,
    ):
        reader, writer = await connected(link)
        writer.write(DATA)
        assert await reader.readexactly(70_000) == DATA[:70_000]
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await closed(writer)


async def test_bytes_before_a_cut_reach_a_receiver_that_is_slow() -> None:
    options = LinkOptions(to_server=Way(cut_every=1_000_000))
    async with (
        Sink(kernel_buffer=2**14) as sink,
        Link(target_port=sink.port, options=options) as link,
    ):
        sink.reading.clear()
        sending = asyncio.create_task(sent(link, bytes(2_000_000)))
        await until(lambda: link.counters.bytes_to_server == 1_000_000)
        await asyncio.sleep(0.05)
        sink.reading.set()
        await sending
        await until(lambda: sink.ends == ["reset"])
    assert len(sink.received[0]) == 1_000_000


async def test_list_of_cuts_has_one_for_each_connection() -> None:
    options = LinkOptions(to_server=Way(cut_at=(1000, 20)))
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        for _ in range(3):
            await sent(link, DATA)
        await until(lambda: len(sink.ends) == 3)
    assert [len(each) for each in sink.received] == [1000, 20, len(DATA)]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (Way(cut_at=(1000, 1500), in_total=True), [1000, 500, 2000, 2000]),
        (Way(cut_every=1500, in_total=True), [1500, 1500, 1500, 1500]),
        (Way(cut_every=3000, in_total=True), [2000, 1000, 2000, 1000]),
    ],
)
async def test_cuts_may_count_all_connections(way: Way, expected: list[int]) -> None:
    options = LinkOptions(to_server=way)
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        for _ in range(4):
            await sent(link, bytes(2000))
        await until(lambda: len(sink.ends) == 4)
    assert [len(each) for each in sink.received] == expected


async def test_total_cuts_only_the_connection_that_reached_it() -> None:
    options = LinkOptions(to_server=Way(cut_at=(1000,), in_total=True))
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        _, bystander = await connected(link)
        bystander.write(bytes(400))
        await until(lambda: link.counters.bytes_to_server == 400)
        await sent(link, bytes(2000))
        bystander.write(bytes(2000))
        await closed(bystander)
        await until(lambda: len(sink.ends) == 2)
    assert [len(each) for each in sink.received] == [2400, 600]
    assert sink.ends == ["reset", "finished"]


async def test_cut_may_look_like_an_orderly_end() -> None:
    options = LinkOptions(to_server=Way(cut_every=100_000), cut_mode=CutMode.FINISH)
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        reader, writer = await connected(link)
        writer.write(DATA)
        assert await reader.read() == b""
        await closed(writer)
        await until(lambda: len(sink.ends) == 1)
    assert sink.received == [DATA[:100_000]]
    assert sink.ends == ["finished"]


@pytest.mark.parametrize(
    ("mode", "end"), [(CutMode.RESET, "reset"), (CutMode.FINISH, "finished")]
)
async def test_cut_now_ends_every_connection(mode: CutMode, end: str) -> None:
    async with Sink() as sink, Link(target_port=sink.port) as link:
        clients = [await connected(link) for _ in range(3)]
        await until(lambda: len(sink.received) == 3)
        assert await link.cut(mode=mode) == 3
        for reader, writer in clients:
            if mode is CutMode.RESET:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            else:
                assert await reader.read() == b""
            await closed(writer)
        await until(lambda: sink.ends == [end] * 3)
        await until(lambda: link.counters.open == 0)
        assert link.counters.cuts == 3
        assert await link.cut() == 0


async def test_latency_delays_each_direction_by_its_own() -> None:
    options = LinkOptions(to_server=Way(latency=0.05), to_client=Way(latency=0.1))
    async with (
        Sink(echo=True) as sink,
        Link(target_port=sink.port, options=options) as link,
    ):
        reader, writer = await connected(link)
        start = time.perf_counter()
        writer.write(b"ping")
        await until(lambda: sink.received == [b"ping"])
        assert time.perf_counter() - start >= 0.05
        assert await reader.readexactly(4) == b"ping"
        assert 0.15 <= time.perf_counter() - start < 2.0
        # Bytes are delayed, not spaced out: a hundred take little longer than one.
        start = time.perf_counter()
        for number in range(100):
            writer.write(bytes([number]))
            await asyncio.sleep(0)
        assert await reader.readexactly(100) == bytes(range(100))
        assert 0.15 <= time.perf_counter() - start < 5.0
        await closed(writer)


async def test_jitter_varies_the_delay_and_keeps_the_order() -> None:
    async with Sink(echo=True) as sink:
        options = LinkOptions(to_client=Way(jitter=0.03), seed=7)
        async with Link(target_port=sink.port, options=options) as link:
            reader, writer = await connected(link)
            delays: list[float] = []
            for _ in range(15):
                start = time.perf_counter()
                writer.write(b"x")
                await reader.readexactly(1)
                delays.append(time.perf_counter() - start)
            assert max(delays) - min(delays) > 0.01
            writer.write(DATA)
            assert await reader.readexactly(len(DATA)) == DATA
            await closed(writer)


async def test_bandwidth_is_limited_and_nearly_reached() -> None:
    options = LinkOptions(to_server=Way(bandwidth=1_000_000))
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        start = time.perf_counter()
        await sent(link, DATA)
        elapsed = time.perf_counter() - start
    assert sink.received == [DATA]
    assert 0.28 <= elapsed < 1.5


async def test_segment_of_one_delivers_byte_after_byte() -> None:
    options = LinkOptions(to_server=Way(segment=1))
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        await sent(link, DATA[:2000])
        await until(lambda: sink.ends == ["finished"])
    assert sink.received == [DATA[:2000]]
    assert sum(size == 1 for size in sink.reads) > 1000


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("segment", [None, 7])
async def test_bits_flip_at_chosen_bytes(every: bool, segment: int | None) -> None:
    way = Way(flip_at=(0, 1000), flip_every=every, segment=segment)
    options = LinkOptions(to_server=way)
    data = DATA[:2000]
    flipped = bytearray(data)
    flipped[0] ^= 1
    flipped[1000] ^= 1
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        await sent(link, data)
        await sent(link, data)
        assert link.counters.flips == (4 if every else 2)
    assert sink.received == [flipped, flipped if every else data]


async def test_blackhole_from_an_offset_takes_everything_and_answers_nothing() -> None:
    options = LinkOptions(to_server=Way(blackhole_at=1000))
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        reader, writer = await connected(link)
        writer.write(DATA)
        await writer.drain()
        writer.write_eof()
        await until(lambda: link.counters.discarded == len(DATA) - 1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read()
        assert sink.received == [DATA[:1000]]
        assert sink.ends == []
        assert link.counters.open == 1
        await closed(writer)
    await until(lambda: len(sink.ends) == 1)


async def test_blackhole_now_lasts_for_its_victims_and_heals_for_new_ones() -> None:
    async with Sink() as sink, Link(target_port=sink.port) as link:
        _, victim = await connected(link)
        victim.write(b"before")
        await until(lambda: sink.received == [b"before"])
        link.blackhole()
        victim.write(b"lost")
        _, newcomer = await connected(link)
        newcomer.write(b"lost too")
        await until(lambda: link.counters.discarded == 12)
        link.heal()
        victim.write(b"still lost")
        await until(lambda: link.counters.discarded == 22)
        await sent(link, b"after")
        assert sink.received == [b"before", b"", b"after"]
        await closed(victim)
        await closed(newcomer)
    await until(lambda: len(sink.ends) == 3)


async def test_stalled_direction_loses_nothing_and_the_other_one_moves() -> None:
    async with Sink(echo=True) as sink, Link(target_port=sink.port) as link:
        reader, writer = await connected(link)
        link.stall(Direction.TO_CLIENT)
        writer.write(DATA)
        await until(lambda: sink.received == [DATA])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.readexactly(1)
        link.resume(Direction.TO_CLIENT)
        assert await reader.readexactly(len(DATA)) == DATA
        link.stall()
        writer.write(b"more")
        await asyncio.sleep(0.05)
        assert sink.received == [DATA]
        link.resume()
        assert await reader.readexactly(4) == b"more"
        await closed(writer)


async def test_link_that_is_down_refuses_newcomers_and_keeps_its_port() -> None:
    async with Sink(echo=True) as sink, Link(target_port=sink.port) as link:
        port = link.port
        reader, writer = await connected(link)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        link.down()
        with pytest.raises(ConnectionRefusedError):
            await connected(link)
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        link.up()
        assert link.port == port
        await sent(link, b"c")
        assert sink.received == [b"ab", b"c"]
        await closed(writer)


async def test_link_may_stay_down_for_a_while_after_each_cut() -> None:
    options = LinkOptions(to_server=Way(cut_at=(10,)), down_after_cut=0.1)
    async with Sink() as sink, Link(target_port=sink.port, options=options) as link:
        await sent(link, DATA)
        with pytest.raises(ConnectionRefusedError):
            await connected(link)
        await asyncio.sleep(0.15)
        await sent(link, DATA)
    assert sink.received == [DATA[:10], DATA]


async def test_target_may_move_while_the_link_runs() -> None:
    async with Sink() as first, Sink() as second, Link(target_port=first.port) as link:
        await sent(link, b"1")
        link.target_port = second.port
        await sent(link, b"2")
    assert first.received == [b"1"]
    assert second.received == [b"2"]


async def test_leaving_the_link_closes_its_connections() -> None:
    async with Sink() as sink:
        async with Link(target_port=sink.port) as link:
            _, writer = await connected(link)
            await until(lambda: len(sink.received) == 1)
        await until(lambda: sink.ends == ["finished"])
        with pytest.raises(ConnectionRefusedError):
            await connected(link)
        await closed(writer)


async def test_command_forwards_and_reports_what_it_did() -> None:
    async with Sink() as sink:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.link"),
            *("--listen", "127.0.0.1:0", "--to", f"127.0.0.1:{sink.port}"),
            *("--to-server", "cut_at=1KB,2KiB", "--both", "latency=0.001"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        match = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
        assert match is not None
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(match[1]))) as client:
                client.sendall(bytes(3000))
                client.setblocking(False)
                with contextlib.suppress(ConnectionResetError):
                    client.shutdown(socket.SHUT_WR)
                    await asyncio.get_running_loop().sock_recv(client, 1)
        await until(lambda: len(sink.ends) == 3)
        process.send_signal(signal.SIGTERM)
        output, _ = await process.communicate()
    assert [len(each) for each in sink.received] == [1000, 2048, 3000]
    assert "bytes_to_server=6048" in output.decode()
    assert "cuts=2" in output.decode()
    assert process.returncode == 0


def test_settings_are_parsed_with_their_units() -> None:
    assert _size("3MB") == 3_000_000
    assert _size("1.5KiB") == 1536
    assert _setting("bandwidth=10MB") == ("bandwidth", 10_000_000)
    assert _setting("flip_at=5,1KiB") == ("flip_at", (5, 1024))
    assert _setting("in_total=yes") == ("in_total", True)
    for wrong in ("speed=1", "cut_every=3parsecs"):
        with pytest.raises(ValueError, match="is not a"):
            _setting(wrong)
