"""What an identity may reach: what it is permitted, and its own things (SPEC.md §9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.lifecycle import State
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
from ackline.proto.notices import SessionResumed
from ackline.server import Server, revocation
from ackline.server.tokens import add_identity, changing
from tests.server.identities import make_token, peer_with

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from msgspec import Struct

    from tests.server.conftest import Start
    from tests.server.peer import Peer


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def app() -> Server:
    server = Server()

    @server.source("chat")
    async def chat() -> AsyncGenerator[str]:
        yield "one"
        await asyncio.Event().wait()

    @server.source("secret")
    async def secret() -> AsyncGenerator[str]:
        yield "one"

    return server


async def names(peer: Peer, prefix: str, **more: object) -> list[str]:
    """Return everything that is listed, page by page."""
    found: list[str] = []
    message = List(prefix, **more)  # type: ignore[arg-type]
    while True:
        page = await peer.request(FrameType.LIST, message)
        assert isinstance(page, Listed), page
        found += [entry.resource for entry in page.entries]
        if not page.after:
            return found
        message = List(prefix, page.after, message.limit, message.versions,
                       page.after_version)  # fmt: skip


async def code_of(peer: Peer, kind: FrameType, message: Struct) -> int:
    answer = await peer.request(kind, message)
    return answer.code if isinstance(answer, Error) else 0


async def test_each_use_needs_its_permission(start: Start, tokens: Path) -> None:
    full = make_token(tokens, "root")
    token = make_token(
        tokens, "ann", "upload:objects/ann/*", "fetch:objects/public/*",
        "publish:logs/ann-*", "subscribe:logs/news", "subscribe:sources/chat",
    )  # fmt: skip
    async with start(app(), tokens=tokens) as serving:
        root, ann = (
            await peer_with(serving, full),
            await peer_with(serving, token),
        )
        await root.upload("public/a", b"x").ended()
        await root.upload("private/a", b"x").ended()
        await root.publish("news", [b"x"]).ended()
        await root.publish("secrets", [b"x"]).ended()
        await ann.upload("ann/a", b"x").ended()
        assert (await ann.fetch("public/a").ended()).outcome == OutcomeKind.COMPLETED
        await ann.publish("ann-log", [b"x"]).ended()
        await ann.subscribe("logs/news").events(1)
        await ann.subscribe("sources/chat").events(1)
        for work in (
            ann.upload("bob/a", b"x"),
            ann.fetch("ann/a"),
            ann.fetch("private/a"),
            ann.fetch("private/none"),
            ann.publish("news", [b"x"]),
            ann.subscribe("logs/secrets"),
            ann.subscribe("logs/none"),
            ann.subscribe("sources/secret"),
            ann.subscribe("sources/none"),
        ):
            refused = await work.refused()
            assert refused.message.code == Code.PERMISSION_DENIED, refused
            assert "ann has no permission" in refused.message.text
        await ann.drop()
        await root.drop()


async def test_an_object_is_not_reached_by_its_id_under_another_name(
    start: Start, tokens: Path
) -> None:
    full = make_token(tokens, "root")
    token = make_token(tokens, "ann", "fetch:objects/public/*")
    async with start(tokens=tokens) as serving:
        root, ann = (
            await peer_with(serving, full),
            await peer_with(serving, token),
        )
        ended = await root.upload("private", b"x").ended()
        assert ended.object is not None
        refused = await ann.fetch(
            "public/a", object_id=ended.object.object_id
        ).refused()
        assert refused.message.code == Code.NOT_FOUND
        await ann.drop()
        await root.drop()


async def test_lists_show_what_may_be_seen_and_nothing_of_the_rest(
    start: Start, tokens: Path
) -> None:
    full = make_token(tokens, "root")
    token = make_token(tokens, "ann", "list:objects/p*", "list:logs/*")
    async with start(app(), tokens=tokens) as serving:
        root, ann = (
            await peer_with(serving, full),
            await peer_with(serving, token),
        )
        for name in ("a1", "a2", "p1", "q1", "p2", "z1"):
            await root.upload(name, b"x").ended()
        await root.publish("log", [b"x"]).ended()
        assert len(await names(root, "objects/")) == 6
        for limit in (1, 2, 1000):
            found = await names(ann, "objects/", limit=limit)
            assert found == ["objects/p1", "objects/p2"]
            found = await names(ann, "objects/", limit=limit, versions=True)
            assert found == ["objects/p1", "objects/p2"]
        page = await ann.request(FrameType.LIST, List("objects/", "", 1))
        assert isinstance(page, Listed)
        assert page.after == "objects/p1"
        assert await names(ann, "logs/") == ["logs/log"]
        assert await names(ann, "sources/") == []
        await ann.drop()
        await root.drop()


async def test_what_was_started_belongs_to_who_started_it(
    start: Start, tokens: Path
) -> None:
    uses = ("upload", "subscribe:sources/*")
    mine, yours = make_token(tokens, "ann", *uses), make_token(tokens, "bob", *uses)
    operator = make_token(tokens, "operator", "list", "cancel", "subscribe:runs/*")
    async with start(app(), tokens=tokens) as serving:
        ann, bob = await peer_with(serving, mine), await peer_with(serving, yours)
        boss = await peer_with(serving, operator)
        run = ann.subscribe("sources/chat", key="shared")
        await run.events(1)
        upload = ann.upload("a", b"x" * 65_536, size=200_000, end=False, key="shared")
        await upload.opened()
        session = ann.session.session
        assert session is not None
        own = [run.stream.resource, upload.stream.resource]
        own.append(f"sessions/{session.session_id}")
        for target in own:
            assert await code_of(ann, FrameType.STATUS, Status(target)) == 0
            assert await code_of(boss, FrameType.STATUS, Status(target)) == 0
            code = await code_of(bob, FrameType.STATUS, Status(target))
            assert code == Code.NOT_FOUND, target
        assert await names(ann, "runs/") == [own[0]] == await names(boss, "runs/")
        assert await names(ann, "uploads/") == [own[1]]
        assert await names(bob, "runs/") == await names(bob, "uploads/") == []
        for target in own[:2]:
            code = await code_of(bob, FrameType.CANCEL, Cancel(Scope.WORK, target))
            assert code == Code.NOT_FOUND
        refused = await bob.subscribe(own[0]).refused()
        assert refused.message.code == Code.NOT_FOUND
        # The same key of another identity is another key.
        other = bob.subscribe("sources/chat", key="shared")
        await other.events(1)
        assert other.stream.resource != own[0]
        assert upload.stream.lifecycle.state is not State.FAILED
        await boss.subscribe(own[0]).events(1)
        answer = await boss.request(FrameType.CANCEL, Cancel(Scope.WORK, own[0]))
        assert isinstance(answer, Outcome)
        assert answer.outcome == OutcomeKind.CANCELLED
        answer = await ann.request(FrameType.CANCEL, Cancel(Scope.WORK, own[1]))
        assert isinstance(answer, Outcome)
        for each in (ann, bob, boss):
            await each.drop()


async def test_a_viewer_ends_its_own_subscription_only(
    start: Start, tokens: Path
) -> None:
    mine = make_token(tokens, "ann", "subscribe:sources/*")
    yours = make_token(tokens, "bob", "subscribe:runs/*")
    async with start(app(), tokens=tokens) as serving:
        ann, bob = await peer_with(serving, mine), await peer_with(serving, yours)
        run = ann.subscribe("sources/chat")
        await run.events(1)
        view = bob.subscribe(run.stream.resource)
        await view.events(1)
        view.cancel(work=True)
        await view.ended()
        report = await ann.request(FrameType.STATUS, Status(run.stream.resource))
        assert isinstance(report, StatusReport)
        assert report.state == "STREAMING"
        run.cancel(work=True)
        assert (await run.ended()).outcome == OutcomeKind.CANCELLED
        for each in (ann, bob):
            await each.drop()


async def test_managing_needs_its_permission(start: Start, tokens: Path) -> None:
    full = make_token(tokens, "root")
    token = make_token(tokens, "ann", "upload", "publish", "manage:logs/mine")
    async with start(tokens=tokens) as serving:
        root, ann = (
            await peer_with(serving, full),
            await peer_with(serving, token),
        )
        await root.upload("a", b"x").ended()
        for kind, message in (
            (FrameType.DELETE, Delete("objects/a")),
            (FrameType.DELETE, Delete("objects/none")),
            (FrameType.DELETE, Delete("logs/theirs")),
            (FrameType.SEAL, Seal("logs/theirs")),
            (FrameType.CONFIGURE, Configure("logs/theirs", {})),
            (FrameType.STATUS, Status("objects/a")),
            (FrameType.STATUS, Status("objects/none")),
            (FrameType.STATUS, Status("logs/theirs")),
        ):
            assert await code_of(ann, kind, message) == Code.PERMISSION_DENIED, message
        done = await ann.request(FrameType.CONFIGURE, Configure("logs/mine", {}))
        assert isinstance(done, Done)
        for each in (root, ann):
            await each.drop()


async def test_a_session_of_another_identity_is_not_there(
    start: Start, tokens: Path
) -> None:
    mine, yours = make_token(tokens, "ann"), make_token(tokens, "bob")
    async with start(app(), tokens=tokens) as serving:
        ann = await peer_with(serving, mine)
        await ann.subscribe("sources/chat").events(1)
        await ann.drop()
        await ann.connect(scheme="bearer", credential=yours.encode(), wait=False)
        resumed = await ann.until(SessionResumed)
        assert resumed.code == Code.UNKNOWN_SESSION
        await ann.drop()


async def test_a_permission_that_is_taken_away_ends_what_it_permitted(
    start: Start, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "LOOK_SECONDS", 0.01)
    token = make_token(tokens, "ann", "subscribe", "upload")
    async with start(app(), tokens=tokens) as serving:
        ann = await peer_with(serving, token)
        work = ann.subscribe("sources/chat")
        await work.events(1)
        with changing(tokens) as content:
            add_identity(content, "ann", allow=["upload"], quotas={})
        await asyncio.wait_for(ann.pump.closed, 10)
        await ann.connect(scheme="bearer", credential=token.encode())
        broken = await work.broken()
        assert broken.code == Code.PERMISSION_DENIED
        await ann.upload("a", b"x").ended()
        await ann.drop()
