"""LIST, STATUS, DELETE, SEAL, CONFIGURE and CANCEL by name (SPEC.md §19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Cancel,
    Configure,
    Delete,
    Done,
    Error,
    List,
    Listed,
    Outcome,
    OutcomeKind,
    Scope,
    Seal,
    Status,
    StatusReport,
)
from ackline.server import Server
from tests.server.peer import LIMITS, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from msgspec import Struct

    from tests.server.conftest import Start


async def listed(peer: Peer, prefix: str, **more: object) -> list[str]:
    """Return all resources with a prefix, page by page."""
    names: list[str] = []
    after = ""
    while True:
        page = await peer.request(
            FrameType.LIST,
            List(prefix, after, **more),  # type: ignore[arg-type]
        )
        assert isinstance(page, Listed), page
        names += [entry.resource for entry in page.entries]
        if not page.after:
            return names
        after = page.after


async def test_objects_are_listed_in_order_page_by_page(start: Start) -> None:
    small = structs.replace(LIMITS, max_payload=8192)
    async with start() as serving, Peer(serving.port, limits=small) as peer:
        names = sorted(f"f{number:03}" for number in range(200))
        for work in [peer.upload(name, b"x") for name in names]:
            await work.ended()
        everything = [f"objects/{name}" for name in names]
        assert await listed(peer, "objects/") == everything
        assert await listed(peer, "objects/", limit=7) == everything
        assert await listed(peer, "objects/f01") == everything[10:20]
        assert await listed(peer, "objects/z") == []


async def test_everything_else_is_listed_too(start: Start) -> None:
    server = Server()

    @server.source("one")
    async def one() -> AsyncGenerator[bytes]:
        yield b"x"

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.publish("b", [b"x"]).ended()
        await peer.publish("a", [b"x"]).ended()
        up = peer.upload("a", b"x" * 100_000, end=False)
        await up.stored(1)
        run = peer.subscribe("sources/one")
        await run.ended()
        assert await listed(peer, "logs/") == ["logs/a", "logs/b"]
        assert await listed(peer, "logs/", limit=1) == ["logs/a", "logs/b"]
        assert await listed(peer, "sources/") == ["sources/one"]
        assert await listed(peer, "uploads/") == [up.stream.resource]
        assert await listed(peer, "runs/") == [run.stream.resource]


async def test_a_damaged_log_is_listed_with_the_others(
    start: Start, tmp_path: Path
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        for name in ("bad", "good"):
            await peer.publish(name, [b"x"]).ended()
    for path in (tmp_path / "data").glob("logs/*/*"):
        path.write_bytes(path.read_bytes()[:-1])
        break
    async with start() as serving, Peer(serving.port) as peer:
        page = await peer.request(FrameType.LIST, List("logs/"))
        assert isinstance(page, Listed)
        assert sorted(entry.state for entry in page.entries) == ["FAILED", "STREAMING"]
        (damaged,) = [entry for entry in page.entries if entry.state == "FAILED"]
        assert "it lacks events 0 to 0" in str(damaged.facts["error"])
        reader = peer.subscribe(damaged.resource)
        assert (await reader.refused()).message.code == Code.POSITION_LOST
        assert isinstance(
            await peer.request(FrameType.DELETE, Delete(damaged.resource)), Done
        )


async def test_the_log_of_a_durable_run_is_no_log_of_its_own(start: Start) -> None:
    server = Server()

    @server.source("one", durable=True)
    async def one() -> AsyncGenerator[bytes]:
        yield b"x"

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.subscribe("sources/one").ended()
        await peer.publish("a", [b"x"]).ended()
        assert await listed(peer, "logs/") == ["logs/a"]
        assert await listed(peer, "logs/", limit=1) == ["logs/a"]


async def test_status_of_everything(start: Start) -> None:
    server = Server()

    @server.source("one")
    async def one() -> AsyncGenerator[bytes]:
        yield b"x"

    async with start(server) as serving, Peer(serving.port) as peer:
        await peer.publish("log", [b"x"]).ended()
        await peer.upload("a", b"x").ended()
        up = peer.upload("b", b"x")
        await up.ended()
        run = peer.subscribe("sources/one")
        await run.ended()
        session = peer.session.session
        assert session is not None
        for target, state in (
            ("objects/a", "COMPLETED"),
            ("logs/log", "STREAMING"),
            ("sources/one", "CREATED"),
            (run.stream.resource, "COMPLETED"),
            (up.stream.resource, "COMPLETED"),
            (f"sessions/{session.session_id}", "STREAMING"),
        ):
            report = await peer.request(FrameType.STATUS, Status(target))
            assert isinstance(report, StatusReport), report
            assert (report.target, report.state) == (target, state)


async def test_a_log_is_configured_sealed_and_deleted(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        for frame, message in (
            (FrameType.CONFIGURE, Configure("logs/log", {"retention_seconds": 60.0})),
            (FrameType.CONFIGURE, Configure("logs/log", {"retention_bytes": 10**6})),
        ):
            assert isinstance(await peer.request(frame, message), Done)
        report = await peer.request(FrameType.STATUS, Status("logs/log"))
        assert isinstance(report, StatusReport)
        assert report.facts["retention_seconds"] == 60.0
        assert report.facts["retention_bytes"] == 10**6
        assert isinstance(await peer.request(FrameType.SEAL, Seal("logs/log")), Done)
        again = await peer.request(FrameType.SEAL, Seal("logs/log"))
        assert isinstance(again, Done)
        assert "before" in again.text
        assert isinstance(
            await peer.request(FrameType.DELETE, Delete("logs/log")), Done
        )
        assert await listed(peer, "logs/") == []


async def test_work_is_cancelled_by_name_from_another_session(start: Start) -> None:
    server = Server()

    @server.source("forever")
    async def forever() -> AsyncGenerator[bytes]:
        while True:
            yield b"x"

    async with (
        start(server) as serving,
        Peer(serving.port) as peer,
        Peer(serving.port) as other,
    ):
        up = peer.upload("a", b"x" * 100_000, end=False)
        await up.stored(1)
        run = peer.subscribe("sources/forever")
        await run.events(1)
        for work in (up, run):
            target = work.stream.resource
            answer = await other.request(
                FrameType.CANCEL, Cancel(Scope.WORK, target, "enough")
            )
            assert isinstance(answer, Outcome)
            assert answer.outcome is OutcomeKind.CANCELLED
            assert answer.code == Code.CANCELLED_BY_OPERATOR
            outcome = await work.ended()
            assert (outcome.code, outcome.text) == (
                Code.CANCELLED_BY_OPERATOR,
                "enough",
            )
            again = await other.request(FrameType.CANCEL, Cancel(Scope.WORK, target))
            assert isinstance(again, Outcome)
            assert again.text == "enough"


async def test_a_detached_upload_is_cancelled_by_name(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", b"x" * 100_000, key="k", end=False)
        await up.stored(1)
        await peer.drop()
    async with start() as serving, Peer(serving.port) as other:
        answer = await other.request(
            FrameType.CANCEL, Cancel(Scope.WORK, up.stream.resource)
        )
        assert isinstance(answer, Outcome)
        assert answer.code == Code.CANCELLED_BY_OPERATOR
        assert await listed(other, "uploads/") == []


@pytest.mark.parametrize(
    ("frame", "message", "code"),
    [
        (FrameType.LIST, List("nothing"), Code.INVALID_ARGUMENT),
        (FrameType.LIST, List("sessions/"), Code.INVALID_ARGUMENT),
        (FrameType.STATUS, Status("nothing"), Code.INVALID_ARGUMENT),
        (FrameType.STATUS, Status("objects/a"), Code.NOT_FOUND),
        (FrameType.STATUS, Status("logs/a"), Code.NOT_FOUND),
        (FrameType.STATUS, Status("runs/a"), Code.NOT_FOUND),
        (FrameType.STATUS, Status("uploads/a"), Code.NOT_FOUND),
        (FrameType.STATUS, Status("sources/a"), Code.NOT_FOUND),
        (FrameType.STATUS, Status("sessions/a"), Code.NOT_FOUND),
        (FrameType.DELETE, Delete("objects/a"), Code.NOT_FOUND),
        (FrameType.DELETE, Delete("logs/a"), Code.NOT_FOUND),
        (FrameType.DELETE, Delete("runs/a"), Code.INVALID_ARGUMENT),
        (FrameType.SEAL, Seal("logs/a"), Code.NOT_FOUND),
        (FrameType.SEAL, Seal("objects/a"), Code.INVALID_ARGUMENT),
        (FrameType.CONFIGURE, Configure("logs/a", {"x": 1}), Code.INVALID_ARGUMENT),
        (
            FrameType.CONFIGURE,
            Configure("logs/a", {"retention_bytes": "much"}),
            Code.INVALID_ARGUMENT,
        ),
        (FrameType.CANCEL, Cancel(Scope.WORK, "uploads/a"), Code.NOT_FOUND),
        (FrameType.CANCEL, Cancel(Scope.WORK, "runs/a"), Code.NOT_FOUND),
        (FrameType.CANCEL, Cancel(Scope.WORK, "logs/a"), Code.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_done_is_refused(
    start: Start, frame: FrameType, message: Struct, code: Code
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        answer = await peer.request(frame, message)
        assert isinstance(answer, Error)
        assert answer.code == code
        assert answer.text
