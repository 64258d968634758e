"""The parts of the client that need no server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import os
import struct
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ackline.client import ClientOptions, Progress, UsageError, targets
from ackline.client import state as state_module
from ackline.client.addresses import Address, parse_url
from ackline.client.backoff import Backoff
from ackline.client.cli.bar import RichBar
from ackline.client.cli.display import (
    Display,
    bytes_text,
    duration_text,
    progress_text,
)
from ackline.client.cli.lines import Lines
from ackline.client.cli.output import Output
from ackline.client.cli.values import (
    age,
    key_value,
    log_name,
    seconds,
    size,
    size_limit,
    start_at,
)
from ackline.client.digests import OrderedDigest, digest_text, new_hash
from ackline.client.memory import LoadMemory
from ackline.client.state import State, default_state_dir, open_state
from ackline.client.targets import PIECE, FileTarget
from ackline.client.threads import Threads
from ackline.proto.proofs import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable


# Addresses and options


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ackline://example.org", Address("example.org", 7171)),
        ("ackline://example.org:1", Address("example.org", 1)),
        ("ackline://example.org:65535/", Address("example.org", 65_535)),
        ("ackline://[::1]:7000", Address("::1", 7000)),
    ],
)
def test_a_url_names_host_and_port(url: str, address: Address) -> None:
    assert parse_url(url) == address
    assert parse_url(str(address)) == address


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "begin with ackline"),
        ("example.org:7171", "begin with ackline"),
        ("http://example.org", "begin with ackline"),
        ("ackline://:7171", "host"),
        ("ackline://example.org:0", "port 0"),
        ("ackline://example.org:99999", "not a URL"),
        ("ackline://example.org:x", "not a URL"),
        ("ackline://me:token@example.org", "token"),
        ("ackline://example.org/objects", "nothing may follow"),
        ("ackline://example.org?x", "nothing may follow"),
    ],
)
def test_a_url_that_is_none_says_why(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_url(url)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_payload": 100},
        {"max_chunk_size": 2**40},
        {"window_bytes": 1000},
        {"heartbeat": 0.0},
        {"connect_timeout": 0.0},
        {"backoff_first": 0.0},
        {"backoff_last": 0.01},
        {"replay_events": 0},
        {"receive_memory": 2**20},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ClientOptions(**wrong)


def test_backoff_doubles_with_jitter_and_starts_again() -> None:
    """SPEC.md §17."""
    backoff = Backoff(0.1, 10.0)
    expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    delays = [backoff.delay() for _ in expected]
    for delay, base in zip(delays, expected, strict=True):
        assert base / 2 <= delay <= base
    assert backoff.attempts == len(expected)
    asked = [backoff.delay(at_least=60.0) for _ in range(100)]
    assert 60.0 <= min(asked) < 63.0
    assert 87.0 < max(asked) <= 90.0
    backoff.reset()
    assert backoff.delay() <= 0.1


# State


def test_state_is_kept_by_identity(tmp_path: Path) -> None:
    state = State(tmp_path, "uploads", "server", Path("/file"), 5)
    assert state.get() == {}
    state.put(key="k")
    state.put(upload_id="u")
    assert State(tmp_path, "uploads", "server", "/file", 5).get() == {
        "key": "k",
        "upload_id": "u",
    }
    for other in (
        State(tmp_path, "fetches", "server", "/file", 5),
        State(tmp_path, "uploads", "server", "/file", 6),
        State(tmp_path / "other", "uploads", "server", "/file", 5),
    ):
        assert other.get() == {}
    state.drop()
    state.drop()
    assert state.get() == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0\0\0\0"])
def test_a_state_file_that_is_torn_remembers_nothing(tmp_path: Path, text: str) -> None:
    state = State(tmp_path, "uploads", 1)
    state.put(key="k")
    (path,) = (tmp_path / "uploads").glob("*.json")
    path.write_text(text)
    assert state.get() == {}
    state.put(key="again")
    assert state.get() == {"key": "again"}


def test_two_cannot_do_the_same_thing(tmp_path: Path) -> None:
    one, two = State(tmp_path, "uploads", 1), State(tmp_path, "uploads", 1)
    with one.locked("the upload"):
        with pytest.raises(UsageError, match="another process"), two.locked("it"):
            pass
        with State(tmp_path, "uploads", 2).locked("another upload"):
            pass
    with two.locked("the upload"):
        two.put(key="k")
    assert list((tmp_path / "uploads").glob("*.lock"))
    with one.locked("the upload"):
        one.drop()
    assert not list((tmp_path / "uploads").iterdir())


def test_the_oldest_state_is_dropped_where_there_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is old by the clock alone: that may have jumped ahead."""
    old, newer = State(tmp_path, "uploads", 1), State(tmp_path, "uploads", 2)
    for days, state in ((50, old), (40, newer)):
        before = set(tmp_path.rglob("*.json"))
        state.put(key="k")
        (path,) = set(tmp_path.rglob("*.json")) - before
        long_ago = time.time() - days * 86_400
        os.utime(path, (long_ago, long_ago))
    with State(tmp_path, "uploads", 3).locked("another"):
        assert old.get() == newer.get() == {"key": "k"}
    monkeypatch.setattr(state_module, "KEEP_FILES", 1)
    with old.locked("the oldest"):  # what is locked is wanted, however old
        assert old.get() == {"key": "k"}
    monkeypatch.setattr(state_module, "KEEP_FILES", 2)  # that lock is new
    with State(tmp_path, "uploads", 3).locked("another"):
        assert (old.get(), newer.get()) == ({}, {"key": "k"})


def test_state_that_is_new_stays_however_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "KEEP_FILES", 1)
    states = [State(tmp_path, "uploads", number) for number in range(5)]
    for state in states:
        state.put(key="k")
    with State(tmp_path, "uploads", 9).locked("another"):
        assert all(state.get() for state in states)


def test_where_state_is_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "ackline"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / ".local" / "state" / "ackline"
    assert open_state(False, "uploads") is None
    assert open_state(None, "uploads") is not None


# Memory, threads, digests


async def test_memory_is_handed_out_in_turn_and_never_beyond_its_limit() -> None:
    memory = LoadMemory(300)
    held = [await memory.take(100) for _ in range(3)]
    order: list[int] = []

    async def take(number: int, size: int) -> None:
        view = await memory.take(size)
        order.append(number)
        assert memory.used <= 300
        await asyncio.sleep(0)
        memory.give(view)

    waiting = [
        asyncio.create_task(take(number, size))
        for number, size in enumerate([300, 50, 100])
    ]
    await asyncio.sleep(0.01)
    assert order == []
    waiting[1].cancel()
    for view in held:
        memory.give(view)
    await asyncio.wait(waiting)
    assert order == [0, 2]
    assert memory.used == 0
    with pytest.raises(UsageError):
        await memory.take(301)


async def test_cancelling_a_thread_waits_for_it() -> None:
    threads = Threads()
    done: list[int] = []

    def work() -> None:
        time.sleep(0.05)
        done.append(1)

    task = asyncio.create_task(threads.run(work))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]
    threads.close()


async def test_a_loose_thread_is_left_behind() -> None:
    threads = Threads()
    assert await threads.run_loose(lambda: 5) == 5
    with pytest.raises(LookupError):
        await threads.run_loose(lambda: dict[str, int]()["x"])
    reading, writing = os.pipe()
    task = asyncio.create_task(threads.run_loose(lambda: os.read(reading, 1)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(writing)
    await asyncio.sleep(0.01)
    os.close(reading)


def test_a_digest_takes_each_chunk_once_and_in_order() -> None:
    hash_ = new_hash("sha256")
    assert hash_ is not None
    digest = OrderedDigest(hash_)
    for index, data in [(0, b"a"), (0, b"a"), (2, b"c"), (1, b"b"), (2, b"c")]:
        digest.add(index, data)
    assert digest.digest() == hashlib.sha256(b"abc").digest()
    assert new_hash("crc32c") is None
    with pytest.raises(UsageError, match="use one of"):
        new_hash("md5")
    assert digest_text("crc32c", 5, b"") == "crc32c:00000005"
    assert digest_text("sha256", 5, b"\xab") == "sha256:ab"


# Command line


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (5 * 2**40, "5.0 TiB")],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_durations_are_readable() -> None:
    assert [duration_text(each) for each in (0, 7.4, 60, 3723)] == [
        "0:00",
        "0:07",
        "1:00",
        "1:02:03",
    ]


def test_progress_is_one_line() -> None:
    half = Progress(done=2**20, total=2**21, began=0, resumes=2)
    assert (
        progress_text(half, 2.0**20, counts=False)
        == "1.0 MiB of 2.0 MiB (50 %), 1.0 MiB/s, 0:01 left, resumed 2x"
    )
    open_end = Progress(done=5, total=None, began=0, resumes=0)
    assert progress_text(open_end, 0.0, counts=True) == "5 events, 0 events/s"


def test_lines_of_progress_are_few(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(0.0, 0.5)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    display = Display(quiet=False)
    for done in range(20):
        display.show(Progress(done=done, total=20, began=0, resumes=0))
    display.note("connected again")
    display.close()
    shown = capfd.readouterr()
    assert not shown.out
    assert 3 <= len(shown.err.splitlines()) <= 6
    quiet = Display(quiet=True)
    quiet.show(Progress(done=1, total=2, began=0, resumes=0))
    quiet.note("nothing")
    assert not capfd.readouterr().err


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.isatty", lambda _: True)
    display = Display(quiet=False)
    display.title = "file"
    display.show(Progress(done=1, total=2, began=0, resumes=0))
    assert isinstance(display._bar, RichBar)
    display.note("connection [lost]")
    display.close()
    display.close()
    assert "connection [lost]" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [("5", 5), ("64K", 65_536), ("4m", 2**22), ("4MiB", 2**22), ("1GB", 2**30)],
)
def test_sizes_may_have_a_unit(text: str, found: int) -> None:
    assert size(text) == found


@pytest.mark.parametrize(
    ("text", "found"), [("5", 5.0), ("0.5", 0.5), ("90s", 90.0), ("7d", 604_800.0)]
)
def test_durations_may_have_a_unit(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=5", 5),
        ("a=0.5", 0.5),
        ("a=true", True),
        ("a=null", None),
        ('a="5"', "5"),
        ("a=word", "word"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a=[1]", "[1]"),
    ],
)
def test_parameters_are_numbers_where_they_look_so(text: str, value: object) -> None:
    assert key_value(text) == ("a", value)


def test_starts() -> None:
    assert [start_at(text) for text in ("first", "last", "next", "-3", "17")] == [
        "first",
        "last",
        "next",
        ("last", 3),
        17,
    ]
    time = start_at("2026-01-31T14:30+01:00")
    assert isinstance(time, datetime)
    assert time.timestamp() == 1_769_866_200
    ago = start_at("10m")
    assert isinstance(ago, datetime)
    assert 599 < datetime.now().timestamp() - ago.timestamp() < 660


def test_names_of_logs() -> None:
    names = [log_name(text) for text in ("a", "logs/a", "a/b", "logs/objects/a")]
    assert names == ["a", "a", "a/b", "objects/a"]


def test_what_a_log_keeps() -> None:
    assert [age(text) for text in ("7d", "90s", "off")] == [604_800, 90, None]
    assert [size_limit(text) for text in ("1GB", "500", "off")] == [2**30, 500, None]


def lines_of(data: bytes, count: int = 0) -> list[bytes]:
    lines = Lines(io.BytesIO(data), "the file")
    lines.skip(count)
    found: list[bytes] = []
    while block := lines.read():
        found += block
    return found


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\n", [b"a\r"]),
        (b"x" * 3_000_000 + b"\n", None),
        (b"line\n" * 500_000, [b"line"] * 500_000),
    ],
)
def test_a_file_is_cut_into_lines(data: bytes, lines: list[bytes] | None) -> None:
    if lines is None:
        with pytest.raises(UsageError, match="a line of more than"):
            lines_of(data)
        return
    assert lines_of(data) == lines
    for count in {0, min(1, len(lines)), len(lines) // 2, len(lines)}:
        assert lines_of(data, count) == lines[count:]
    with pytest.raises(UsageError, match="is not the file that was published"):
        lines_of(data, len(lines) + 1)


def test_skipped_lines_are_summed_for_the_proof() -> None:
    bodies = [b"one", b"", b"three"]
    expected = NOTHING.extended(struct.pack(">3I", *map(len, bodies)), b"".join(bodies))
    lines = Lines(io.BytesIO(b"one\n\nthree\nfour\n"), "the file")
    assert lines.skip(3) == expected
    assert lines.read() == [b"four"]


@pytest.mark.parametrize(
    ("content", "next_id", "left"),
    [
        (b"", None, b""),
        (b'{"id":1', None, b""),
        (b'{"id":1,"data":"x"}\n', 2, None),
        (b'{"id":1,"data":"x"}\n{"id":2', 2, b'{"id":1,"data":"x"}\n'),
        (b'{"id":1,"gap":5,"reason":"dropped"}\n', 6, None),
        (b'{"id":1}\n' + b'{"id":2,"data":"' + b"y" * 200_000 + b'"}\n', 3, None),
        (b'{"id":1}\n' + b"y" * 200_000, 2, b'{"id":1}\n'),
    ],
)
def test_an_output_continues_after_its_last_complete_line(
    tmp_path: Path, content: bytes, next_id: int | None, left: bytes | None
) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    output = Output(path)
    assert output.next_id == next_id
    assert path.read_bytes() == (content if left is None else left)
    output.write(b"more\n")
    assert output.unsynced_bytes == 5
    output.sync()
    assert output.unsynced_bytes == 0
    with pytest.raises(UsageError, match="another process"):
        Output(path)
    output.close()
    assert path.read_bytes().endswith(b"more\n")


@pytest.mark.parametrize("line", [b"hello\n", b"5\n", b'{"data":1}\n', b"\n"])
def test_a_file_of_something_else_is_not_written_to(
    tmp_path: Path, line: bytes
) -> None:
    (tmp_path / "out").write_bytes(line)
    with pytest.raises(UsageError, match="no event"):
        Output(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == line


def test_wrong_values_say_what_is_right() -> None:
    from argparse import ArgumentTypeError  # noqa: PLC0415

    parsers: list[tuple[Callable[[str], object], str]] = [
        (size, "4X"),
        (size, "-4"),
        (size, "9999999T"),
        (seconds, "nan"),
        (seconds, "soon"),
        (seconds, "99999d"),
        (key_value, "=5"),
        (start_at, "middle"),
        (start_at, "2026-13-01"),
        (age, "never"),
        (size_limit, "much"),
        (log_name, "objects/x"),
        (log_name, "runs/x"),
    ]
    for parse, text in parsers:
        with pytest.raises(ArgumentTypeError):
            parse(text)


def test_a_fetched_chunk_is_written_in_pieces_and_the_disk_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system takes less than it was given."""
    data, sizes, told = os.urandom(2 * PIECE + 5), list[int](), list[tuple[int, int]]()
    pwrite, advise = os.pwrite, os.posix_fadvise

    def short(fd: int, part: memoryview, at: int) -> int:
        sizes.append(len(part))
        return pwrite(fd, part[:-1] if len(part) > 1 else part, at)

    def telling(fd: int, at: int, size: int, advice: int) -> None:
        told.append((at, size))
        advise(fd, at, size, advice)

    monkeypatch.setattr(os, "pwrite", short)
    monkeypatch.setattr(os, "posix_fadvise", telling)
    target = FileTarget(tmp_path / "file")
    target.put(0, memoryview(b"head"))
    target.put(4, memoryview(data))
    target.finish()
    target.close()
    assert (tmp_path / "file").read_bytes() == b"head" + data
    assert max(sizes) == PIECE
    assert told == [(0, 4), (4, len(data))]


def test_what_is_fetched_into_memory_is_written_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, sizes, pwrite = os.urandom(2 * PIECE + 5), list[int](), os.pwrite

    def memory(_: int) -> bool:
        return True

    def counted(fd: int, part: memoryview, at: int) -> int:
        sizes.append(len(part))
        return pwrite(fd, part, at)

    monkeypatch.setattr(targets, "in_memory", memory)
    monkeypatch.setattr(os, "pwrite", counted)
    target = FileTarget(tmp_path / "file")
    target.put(0, memoryview(data))
    target.finish()
    target.close()
    assert (tmp_path / "file").read_bytes() == data
    assert sizes == [len(data)]
