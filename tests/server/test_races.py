"""What happens between two steps of the server, when something else gets in between."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import Delete, OutcomeKind
from ackline.proto.notices import OutcomeReceived, StreamOpened
from ackline.server import Server, runs
from ackline.server.stores.errors import StorageFull, StoreFailed
from ackline.server.stores.runs import RecordRuns
from ackline.server.stores.sessions import RecordSessions
from ackline.server.stores.uploads import FileUpload
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pytest

    from tests.server.conftest import Start

DATA = os.urandom(300_000)


class Gate:
    """Holds up a method until the test lets it go on."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        original = getattr(owner, name)

        async def held(*args: Any, **kwargs: Any) -> Any:
            self.reached.set()
            await self.open.wait()
            return await original(*args, **kwargs)

        patch.setattr(owner, name, held)


async def test_a_key_opened_during_its_commit_gets_that_outcome(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, FileUpload, "_finish_file")
    async with (
        start() as serving,
        Peer(serving.port) as first,
        Peer(serving.port) as second,
    ):
        first.upload("a", DATA, key="k")
        await gate.reached.wait()
        again = second.upload("a", DATA, key="k")
        await asyncio.sleep(0.1)
        gate.open.set()
        assert (await again.opened()).message.existing
        outcome = again.outcome
        assert outcome is not None
        assert outcome.outcome is OutcomeKind.COMPLETED


async def test_an_upload_released_during_its_commit_is_committed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, FileUpload, "_finish_file")
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA)
        await gate.reached.wait()
        up.release()
        await asyncio.sleep(0.1)
        gate.open.set()
        await asyncio.sleep(0.1)
        outcome = await peer.fetch("a").ended()
        assert outcome.outcome is OutcomeKind.COMPLETED


async def test_a_stream_that_comes_back_while_its_key_is_opened_hears_of_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, key="k", end=False)
        await up.stored(1)
        await peer.drop()
    async with start() as serving, Peer(serving.port) as other:
        gate = Gate(monkeypatch, FileUpload, "takeover")
        peer.port = serving.port
        await peer.connect(wait=False)
        await gate.reached.wait()
        again = other.upload("a", DATA, key="k")
        await asyncio.sleep(0.1)
        gate.open.set()
        assert (await again.ended()).outcome is OutcomeKind.COMPLETED
        assert (await up.broken()).code == Code.MOVED
        await peer.drop()


async def test_an_upload_that_was_attached_all_along_is_not_abandoned(
    start: Start,
) -> None:
    async with start(upload_ttl=1.5, cleanup_interval=0.05) as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, key="k", end=False)
        await up.stored(1)
        await asyncio.sleep(1.8)
        await peer.drop()
        await asyncio.sleep(0.2)
        await peer.connect()
        assert up.outcome is None
        await peer.drop()


async def test_the_outcome_of_a_run_is_told_when_it_is_on_record(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()

    @server.source("one")
    async def one() -> AsyncGenerator[bytes]:
        yield b"x"

    finish, failures = RecordRuns.finish, 2

    async def full(self: RecordRuns, run_id: str, outcome: bytes) -> bytes:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StorageFull
        return await finish(self, run_id, outcome)

    monkeypatch.setattr(RecordRuns, "finish", full)
    monkeypatch.setattr(runs, "RETRY_SECONDS", 0.05, raising=False)
    async with start(server) as serving, Peer(serving.port) as peer:
        told = await peer.subscribe("sources/one", key="k").ended()
    async with start(server) as serving, Peer(serving.port) as peer:
        again = peer.subscribe("sources/one", key="k")
        await again.opened()
        outcome = again.outcome
        assert outcome is not None
        assert (outcome.outcome, outcome.code) == (told.outcome, told.code)


async def test_a_cursor_that_went_blocks_a_volatile_run_for_its_grace_only(
    start: Start,
) -> None:
    server = Server()

    @server.source("volatile", resumes="none")
    async def volatile() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * 100

    async with start(server, run_grace=0.3, run_buffer_events=1000) as serving:
        gone = await Peer(serving.port).connect()
        await gone.subscribe("sources/volatile", key="k").opened()
        async with Peer(serving.port) as staying:
            work = staying.subscribe("sources/volatile", key="k")
            await work.opened()
            await gone.drop()
            count = len(work.received)
            await work.events(count + 20_000)


async def test_a_session_that_is_not_on_record_opens_streams(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failures = RecordSessions.save, 1

    async def full(self: RecordSessions, session: Any) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StorageFull
        await save(self, session)

    monkeypatch.setattr(RecordSessions, "save", full)
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, end=False)
        await up.opened()
        await up.stored(1)
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        up.cancel()
        assert (await up.ended()).outcome is OutcomeKind.CANCELLED
        await peer.drop()


async def test_a_resume_that_was_recorded_though_its_sync_failed_takes_nobody_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, failures = RecordSessions.advance, 1

    async def failing(self: RecordSessions, *args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        failures -= 1
        result = await advance(self, *args, **kwargs)
        if failures >= 0:
            raise StoreFailed("record not stored", "I/O error")
        return result

    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, end=False)
        await up.opened()
        await peer.drop()
        monkeypatch.setattr(RecordSessions, "advance", failing)
        await peer.connect(wait=False)
        assert (await peer.failed()).code == Code.STORAGE_FAILED
        await peer.drop()
        await peer.connect()
        up.cancel()
        assert (await up.ended()).outcome is OutcomeKind.CANCELLED
        await peer.drop()


async def test_a_log_deleted_before_opened_is_told_after_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"x"]).ended()
        gate = Gate(monkeypatch, RecordSessions, "save_stream")
        reader = peer.subscribe("logs/log")
        writer = peer.publish("log", [b"y"], key="k", end=False)
        await gate.reached.wait()
        await asyncio.sleep(0.1)
        await peer.request(FrameType.DELETE, Delete("logs/log"))
        await asyncio.sleep(0.1)
        gate.open.set()
        for work in (reader, writer):
            outcome = await work.ended()
            assert outcome.code == Code.NOT_FOUND
            kinds = [type(each) for each in work.notices]
            assert kinds.index(StreamOpened) < kinds.index(OutcomeReceived)
