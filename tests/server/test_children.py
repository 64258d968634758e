"""Commands as sources: what they print, how they end, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.server.children import Children
from ackline.server.commands import Command
from ackline.server.options import OptionError
from tests.server.peer import PATIENCE, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from tests.server.conftest import Start as Starter
    from tests.server.peer import Work


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ackline.server.children.LAST_SECONDS", 0.3)


def shell(script: str, *arguments: str) -> tuple[tuple[str, str], ...]:
    """Return the option for a source `it` that is a script."""
    command = ["sh", "-c", script, "sh", *arguments]
    return (("it", shlex.join(command)),)


@contextlib.asynccontextmanager
async def running(
    start: Starter, script: str, *arguments: str, **chosen: Any
) -> AsyncGenerator[Callable[..., Work]]:
    """Serve a script, and return what subscribes to it."""
    option = shell(script, *arguments)
    async with start(exec=option, **chosen) as serving, Peer(serving.port) as peer:
        yield partial(peer.subscribe, "sources/it")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def started(work: Work) -> list[int]:
    """Return the process ids that a shell prints, the last of them that of `sleep`.

    A signal that meets the shell between fork and exec can be lost.
    """
    pids = [int(pid) for pid in (await work.events(1))[0][2].split()]
    await until(lambda: psutil.Process(pids[-1]).name() == "sleep")
    return pids


def texts(work: Work) -> list[tuple[str, bytes]]:
    return [(kind, data) for _, kind, data in work.received]


async def test_lines_come_as_they_are_and_the_end_completes(start: Starter) -> None:
    script = r"printf 'one\n\n\377\0three\r\nno newline'; printf 'oh\nno' >&2"
    async with running(start, script) as subscribe:
        work = subscribe()
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        out = [data for kind, data in texts(work) if not kind]
        errors = [data for kind, data in texts(work) if kind == "stderr"]
        assert out == [b"one", b"", b"\xff\0three\r", b"no newline"]
        assert errors == [b"oh", b"no"]


async def test_a_line_comes_when_it_is_printed(start: Starter, tmp_path: Path) -> None:
    script = 'echo first; until test -e "$1"; do sleep 0.01; done; echo second'
    async with running(start, script, f"{tmp_path}/go") as subscribe:
        work = subscribe()
        assert [each[2] for each in await work.events(1)] == [b"first"]
        (tmp_path / "go").touch()
        await work.ended()
        assert texts(work) == [("", b"first"), ("", b"second")]


@pytest.mark.parametrize(
    ("script", "tells"),
    [
        ("echo last words; exit 3", "sh exited with status 3"),
        ("echo last words; kill -KILL $$", "sh was ended by SIGKILL"),
        ("echo last words; exec >&- 2>&-; sleep 0.05; exit 4", "status 4"),
    ],
)
async def test_the_exit_status_is_the_outcome(
    start: Starter, script: str, tells: str
) -> None:
    async with running(start, script) as subscribe:
        work = subscribe()
        outcome = await work.ended()
        assert outcome.outcome is OutcomeKind.FAILED
        assert outcome.code == Code.SOURCE_FAILED
        assert tells in outcome.text
        assert texts(work) == [("", b"last words")]


async def test_parameters_are_arguments_and_others_are_refused(start: Starter) -> None:
    script = 'for each; do echo "<$each>"; done'
    async with running(start, script, "--", "{a}", "--b={b}") as subscribe:
        work = subscribe(parameters={"a": "x; $(echo y) 'z", "b": 7})
        await work.ended()
        assert texts(work) == [
            *(("", b"<-->"), ("", b"<x; $(echo y) 'z>"), ("", b"<--b=7>"))
        ]
        for wrong in ({}, {"a": "x"}, {"a": "x", "b": 1, "c": 2}, {"a": "\0", "b": 1}):
            refused = subscribe(parameters=wrong)
            message = (await refused.refused()).message
            assert message.code == Code.INVALID_ARGUMENT
            assert message.text.startswith("source 'it': ")


async def test_cancelling_stops_the_whole_group(start: Starter, tmp_path: Path) -> None:
    script = "trap 'wait; touch \"$1\"; exit 0' TERM; sleep 1000 & echo $$ $!; wait"
    async with running(start, script, f"{tmp_path}/cleaned") as subscribe:
        work = subscribe()
        pids = await started(work)
        assert all(map(alive, pids))
        work.cancel(work=True)
        outcome = await work.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.CANCELLED,
            Code.CANCELLED_BY_CLIENT,
        )
        assert not any(map(alive, pids))
        assert (tmp_path / "cleaned").exists()


async def test_what_ignores_sigterm_is_killed_after_the_grace_time(
    start: Starter,
) -> None:
    script = "trap '' TERM; (while :; do sleep 0.02; done) & echo $$ $!; wait"
    async with running(start, script, command_grace=0.1) as subscribe:
        work = subscribe()
        pids = [int(pid) for pid in (await work.events(1))[0][2].split()]
        work.cancel(work=True)
        await work.ended()
        assert not any(map(alive, pids))


async def test_who_cannot_wait_for_the_grace_time_kills_at_once() -> None:
    """As when the event loop ends: what is cancelled again has no more time."""
    children = Children(limit=1, grace=1000.0)
    script = "trap '' TERM; echo $$; while :; do sleep 0.02; done"
    pids: list[int] = []

    async def consume() -> None:
        async for item in children.output(Command(shlex.join(["sh", "-c", script]))):
            assert isinstance(item, bytes)
            pids.append(int(item))

    task = asyncio.create_task(consume())
    await until(lambda: bool(pids))
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done
    assert alive(*pids)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.cancelled()
    await until(lambda: not psutil.pid_exists(*pids))  # reaped, too


async def test_what_prints_while_it_is_stopped_does_not_wait_for_a_reader(
    start: Starter, tmp_path: Path
) -> None:
    script = (
        "trap 'head -c 1000000 /dev/zero; touch \"$1\"; exit 0' TERM;"
        " echo ready; while :; do sleep 0.01; done"
    )
    async with running(start, script, f"{tmp_path}/printed") as subscribe:
        work = subscribe()
        await work.events(1)
        work.cancel(work=True)
        await work.ended()
        assert (tmp_path / "printed").exists()


async def test_nothing_is_left_when_the_server_stops(start: Starter) -> None:
    script = "trap 'wait; exit 0' TERM; sleep 1000 & echo $$ $!; wait"
    async with running(start, script) as subscribe:
        pids = await started(subscribe())
    assert not any(map(alive, pids))


async def test_what_is_left_behind_may_finish_and_is_stopped_then(
    start: Starter,
) -> None:
    script = "(sleep 0.05; echo late) & (sleep 1000) & echo $!"
    async with running(start, script, command_grace=0.3) as subscribe:
        work = subscribe()
        assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        (_, pid), (_, late) = texts(work)
        assert late == b"late"
        assert not alive(int(pid))


async def test_what_left_the_group_does_not_hold_the_run(start: Starter) -> None:
    async with running(start, "setsid sleep 1000 & echo $!") as subscribe:
        work = subscribe()
        pid = int((await work.events(1))[0][2])
        try:
            assert (await work.ended()).outcome is OutcomeKind.COMPLETED
            assert alive(pid)
        finally:
            os.kill(pid, signal.SIGKILL)


async def test_a_consumer_that_waits_stops_the_command(start: Starter) -> None:
    async with running(
        start, "echo $$; exec yes 0123456789", run_buffer_bytes=100_000
    ) as subscribe:
        first = subscribe(key="k")
        pid = int((await first.events(1))[0][2])
        first.cancel()
        work = subscribe(key="k", take=False, window=65_536)
        await work.opened()
        written = psutil.Process(pid).io_counters
        before = -1
        async with asyncio.timeout(PATIENCE):
            while before != written().write_chars:
                before = written().write_chars
                await asyncio.sleep(0.2)
        assert 100 < before < 2_000_000
        work.go_on()
        await until(lambda: written().write_chars > before + 1_000_000)
        work.cancel(work=True)
        await work.ended()
        count = len(work.received)
        assert [each[2] for each in work.received[1:]] == [b"0123456789"] * (count - 1)


async def test_output_that_waits_is_not_lost_at_the_end(
    start: Starter, tmp_path: Path
) -> None:
    script = 'yes 0123456789 | head -n 5000; touch "$1"; exit 3'
    async with running(
        start, script, f"{tmp_path}/printed", run_buffer_bytes=10_000
    ) as subscribe:
        work = subscribe(take=False, window=1024)
        await until((tmp_path / "printed").exists)
        work.go_on()
        assert (await work.ended()).code == Code.SOURCE_FAILED
        assert len(work.received) == 5000


async def test_a_program_that_cannot_be_started_fails_the_run(
    start: Starter, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    async with (
        start(exec=(("it", str(program)),)) as serving,
        Peer(serving.port) as peer,
    ):
        program.unlink()
        work = peer.subscribe("sources/it")
        outcome = await work.ended()
        assert outcome.code == Code.SOURCE_FAILED
        assert outcome.text == "program cannot be started: No such file or directory"


async def test_commands_at_once_are_bounded(start: Starter) -> None:
    async with running(start, "echo $$; exec sleep 1000", max_commands=1) as subscribe:
        first = subscribe()
        await first.events(1)
        second = subscribe()
        outcome = await second.ended()
        assert outcome.outcome is OutcomeKind.FAILED
        assert "max_commands" in outcome.text
        first.cancel(work=True)
        await first.ended()
        third = subscribe()
        await third.events(1)


async def test_orphans_are_reaped_where_they_are_ours(start: Starter) -> None:
    """As in a container, where the server is the first process."""
    libc = pytest.importorskip("ctypes").CDLL(None)
    set_subreaper = 36
    assert libc.prctl(set_subreaper, 1, 0, 0, 0) == 0
    try:
        script = "(sleep 0.05; echo late) & echo $!"
        async with running(start, script) as subscribe:
            work = subscribe()
            await work.ended()
            (_, pid), (_, _) = texts(work)
            assert not psutil.pid_exists(int(pid))
    finally:
        libc.prctl(set_subreaper, 0, 0, 0, 0)


async def test_what_a_durable_command_printed_is_read_after_a_restart(
    start: Starter,
) -> None:
    script = "echo one; echo two >&2; exit 3"
    chosen = {"exec": shell(script), "durable": ("it",)}
    async with start(**chosen) as serving, Peer(serving.port) as peer:
        work = peer.subscribe("sources/it")
        first = await work.ended()
        run = work.stream.resource
    async with start() as serving, Peer(serving.port) as peer:
        again = peer.subscribe(run)
        assert (await again.ended()).text == first.text == "sh exited with status 3"
        assert sorted(each[1:] for each in again.received) == [
            ("", b"one"),
            ("stderr", b"two"),
        ]


async def test_only_sources_without_code_are_made_durable_so(start: Starter) -> None:
    with pytest.raises(OptionError, match="no 'other' in follow or exec"):
        async with start(exec=shell("true"), durable=("other",)):
            pass


async def test_a_command_that_fails_is_told_in_one_line(
    start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(start, "exit 3") as subscribe:
        await subscribe().ended()
    told = [each for each in caplog.records if each.levelname == "WARNING"]
    assert ["sh exited with status 3" in each.message for each in told] == [True]
    assert not any(each.exc_info for each in told)
