"""Files that are followed: as they grow, are rotated away, and are truncated."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.server import OptionError
from ackline.server.lines import MAX_LINE
from tests.server.peer import PATIENCE, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tests.server.conftest import Start as Starter
    from tests.server.peer import Work


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ackline.server.rotation.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("ackline.server.rotation.SWITCH_SECONDS", 0.1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


@asynccontextmanager
async def following(
    start: Starter, path: Path, **chosen: Any
) -> AsyncGenerator[Callable[..., Work]]:
    """Serve a file, and return what subscribes to it."""
    async with (
        start(follow=(("app", path),), **chosen) as serving,
        Peer(serving.port) as peer,
    ):
        yield partial(peer.subscribe, "sources/app")


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def lines(work: Work) -> list[str]:
    return [data.decode() for _, _, data in work.received]


async def read(work: Work, *expected: str) -> None:
    """Wait for as many lines, and compare all that came so far."""
    await work.events(len(expected))
    assert lines(work) == list(expected)


def opened(path: Path) -> list[str]:
    """Return the files that this process has open whose path begins so."""
    found: list[str] = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(f"{fd.readlink()}")
    return [name for name in found if name.startswith(f"{path}")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_file_is_followed_line_by_line(start: Starter, log: Path) -> None:
    append(log, "one\ntwo\n\nthr")
    async with following(start, log) as subscribe:
        work = subscribe()
        await read(work, "one", "two", "")
        append(log, "ee\nfour\nfi")
        await read(work, "one", "two", "", "three", "four")
        append(log, "ve\n")
        await read(work, "one", "two", "", "three", "four", "five")


async def test_bytes_and_long_lines_come_as_they_are(start: Starter, log: Path) -> None:
    long = b"y" * (MAX_LINE + 10)
    log.write_bytes(b"\xff\xfe\0\r\n" + long + b"\nend\n")
    async with following(start, log) as subscribe:
        work = subscribe()
        await work.events(4)
        assert [(kind, data) for _, kind, data in work.received] == [
            ("", b"\xff\xfe\0\r"),
            ("part", long[:MAX_LINE]),
            ("", long[MAX_LINE:]),
            ("", b"end"),
        ]


async def test_a_file_that_is_not_there_is_waited_for(
    start: Starter, tmp_path: Path
) -> None:
    log = tmp_path / "later" / "app.log"
    async with following(start, log) as subscribe:
        work, new = subscribe(), subscribe(parameters={"last": 0})
        await work.opened()
        await new.opened()
        await asyncio.sleep(0.05)
        log.parent.mkdir()
        append(log, "one\n")
        await read(work, "one")
        await read(new, "one")


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0, []), (1, ["c"]), (2, ["b", "c"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"])],
)
async def test_last_is_how_many_lines_come_of_those_there_are(
    start: Starter, log: Path, last: int, expected: list[str]
) -> None:
    append(log, "a\nb\nc\nde")
    async with following(start, log) as subscribe:
        work = subscribe(parameters={"last": last})
        await work.events(len(expected))
        await asyncio.sleep(0.05)
        append(log, "f\n")
        await read(work, *expected, "def")


async def test_the_last_lines_of_a_large_file_are_found(
    start: Starter, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.follow.READ_SIZE", 1000)
    everything = [f"line {number}" for number in range(2000)]
    append(log, "\n".join(everything) + "\n")
    async with following(start, log) as subscribe:
        work = subscribe(parameters={"last": 1234})
        await read(work, *everything[-1234:])


@pytest.mark.parametrize("parameters", [{"last": -1}, {"last": "x"}, {"first": 1}])
async def test_parameters_that_make_no_sense_are_refused(
    start: Starter, log: Path, parameters: dict[str, Any]
) -> None:
    async with following(start, log) as subscribe:
        message = (await subscribe(parameters=parameters).refused()).message
        assert message.code == Code.INVALID_ARGUMENT
        assert "last" in message.text


async def test_rotation_loses_nothing_of_the_old_file(
    start: Starter, log: Path
) -> None:
    old = log.with_suffix(".1")
    append(log, "one\n")
    async with following(start, log) as subscribe:
        work = subscribe()
        await read(work, "one")
        log.rename(old)
        append(old, "two\n")  # its writer has not noticed yet
        await read(work, "one", "two")
        log.touch()
        append(old, "three\n")
        await read(work, "one", "two", "three")
        append(log, "five\n")
        append(old, "four, with no end")  # another one of its writers
        await read(work, "one", "two", "three", "four, with no end", "five")
        append(old, "too late\n")
        append(log, "six\n")
        await work.events(6)
        assert lines(work)[5:] == ["six"]


async def test_the_handler_of_the_standard_library_rotates(
    start: Starter, log: Path
) -> None:
    handler = RotatingFileHandler(log, maxBytes=500, backupCount=2)
    record = partial(
        logging.LogRecord, "x", logging.INFO, "x", 1, args=(), exc_info=None
    )
    expected: list[str] = []
    try:
        async with following(start, log) as subscribe:
            work = subscribe()
            for number in range(150):
                expected.append(f"this is line {number}")
                handler.emit(record(msg=expected[-1]))
                if number % 15 == 0:
                    await read(work, *expected)
            await read(work, *expected)
    finally:
        handler.close()


async def test_a_consumer_that_waits_misses_no_rotation(
    start: Starter, log: Path
) -> None:
    expected = [f"{n} {'x' * 100}" for n in range(50)]
    append(log, "\n".join(expected) + "\n")
    async with following(start, log, run_buffer_bytes=1024) as subscribe:
        work = subscribe(take=False, window=1024)
        await until(lambda: len(opened(log)) == 1)
        for turn in range(3):
            old = log.with_suffix(f".{turn}")
            log.rename(old)
            expected.append(f"of file {turn}")
            append(log, f"{expected[-1]}\n")
            await until(lambda: f"{log}" in opened(log))
            old.unlink()
        work.go_on()
        await read(work, *expected)
        await until(lambda: len(opened(log)) == 1)  # those before are closed


async def test_too_many_rotations_behind_is_a_failure(
    start: Starter, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.rotation.MAX_OPEN_FILES", 2)
    monkeypatch.setattr("ackline.server.follow.READ_SIZE", 1000)
    append(log, ("x" * 100 + "\n") * 200)
    async with following(start, log, run_buffer_bytes=1024) as subscribe:
        work = subscribe(take=False, window=1024)
        await until(lambda: len(opened(log)) == 1)
        for turn in range(2):
            log.rename(log.with_suffix(f".{turn}"))
            log.touch()
            await until(lambda: f"{log}" in opened(log))
        work.go_on()
        outcome = await work.ended()
        assert outcome.outcome is OutcomeKind.FAILED
        assert outcome.text == "the consumer is more than 2 rotations behind"


async def test_a_truncated_file_is_read_from_its_start(
    start: Starter, log: Path
) -> None:
    append(log, "one\ntwo\nand no end")
    async with following(start, log) as subscribe:
        work = subscribe()
        await read(work, "one", "two")
        await asyncio.sleep(0.05)
        os.truncate(log, 0)
        await read(work, "one", "two", "and no end")
        append(log, "three\n")
        await read(work, "one", "two", "and no end", "three")


async def test_a_file_that_was_written_anew_is_read_from_its_start(
    start: Starter, log: Path
) -> None:
    """Also where it is longer than before: its size alone does not tell."""
    append(log, "one\ntwo\n")
    async with following(start, log) as subscribe:
        work = subscribe()
        await read(work, "one", "two")
        log.write_text("three\nfour\nfive\n")
        await read(work, "one", "two", "three", "four", "five")


async def test_what_is_truncated_before_it_was_read_is_told(
    start: Starter, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.follow.READ_SIZE", 1000)
    append(log, ("x" * 99 + "\n") * 200)
    async with following(start, log, run_buffer_bytes=1024) as subscribe:
        work = subscribe(take=False, window=1024)
        await until(lambda: len(opened(log)) == 1)
        await asyncio.sleep(0.1)
        log.write_text("one\n")
        work.go_on()
        await until(lambda: "one" in lines(work))
        events = [(kind, data) for _, kind, data in work.received]
        assert events[-2][0] == "lost"
        assert set(events[:-2]) == {("", b"x" * 99)}
        assert len(events) < 150


async def test_what_is_no_file_is_told_at_start(start: Starter, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"follow: app=.* not a regular file"):
        async with following(start, tmp_path):
            pass


@pytest.mark.parametrize("kind", ["folder", "pipe", "in a file"])
async def test_what_is_no_file_fails_the_run(
    start: Starter, tmp_path: Path, kind: str
) -> None:
    parent = tmp_path / "later"
    async with following(start, parent / "app.log") as subscribe:
        if kind == "in a file":
            parent.touch()
        else:
            parent.mkdir()
            make = os.mkdir if kind == "folder" else os.mkfifo
            make(parent / "app.log")
        outcome = await subscribe().ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.SOURCE_FAILED,
        )
        assert "app.log: " in outcome.text
        assert f"{tmp_path}" not in outcome.text


async def test_a_file_that_cannot_be_read_for_a_time_is_waited_for(
    start: Starter, log: Path
) -> None:
    append(log, "one\n")
    async with following(start, log) as subscribe:
        work = subscribe()
        await read(work, "one")
        log.unlink()
        log.mkdir()
        await asyncio.sleep(0.05)
        log.rmdir()
        append(log, "two\n")
        await read(work, "one", "two")


async def test_runs_read_on_their_own_and_nothing_stays_open(
    start: Starter, log: Path
) -> None:
    append(log, "one\n")
    async with following(start, log) as subscribe:
        works = [subscribe(), subscribe()]
        for work in works:
            await read(work, "one")
        append(log, "two\n")
        for work in works:
            await read(work, "one", "two")
        assert len(opened(log)) == 1
        for work in works:
            work.cancel(work=True)
            await work.ended()
        await until(lambda: not opened(log))
        await read(subscribe(), "one", "two")
