"""Cancelling over the metrics port: with a token in a header, by who may."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.messages import OutcomeKind
from ackline.server import Address, Server
from tests.server.identities import make_token, peer_with
from tests.server.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from ackline.server import Serving
    from tests.server.conftest import Start

ANYWHERE = Address("127.0.0.1", 0)


def app() -> Server:
    server = Server()

    @server.source("waits")
    async def waits() -> AsyncGenerator[str]:
        yield "one"
        await asyncio.Event().wait()

    return server


async def cancel(
    serving: Serving, token: str, row: str, *, work: bool = False, body: str = ""
) -> tuple[int, str]:
    assert serving.metrics is not None
    reader, writer = await asyncio.open_connection(*serving.metrics)
    text = body or json.dumps({"id": row, "work": work})
    writer.write(
        f"POST /cancel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    head, _, answer = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), answer.strip()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def test_a_stream_its_run_and_an_upload(start: Start, tokens: Path) -> None:
    operator = make_token(tokens, "operator", "cancel")
    mine = make_token(tokens, "ann", "*")
    async with start(app(), metrics=ANYWHERE, tokens=tokens) as serving:
        ann = await peer_with(serving, mine)
        assert ann.session.session is not None
        session = ann.session.session.session_id
        one, two = ann.subscribe("sources/waits"), ann.subscribe("sources/waits")
        upload = ann.upload("a", b"x" * 65_536, size=200_000, end=False)
        await one.events(1)
        await two.events(1)
        await upload.opened()
        status, text = await cancel(serving, operator, f"{session}/{one.stream.id}")
        assert (status, text) == (200, "cancelled at unit 1")
        outcome = await one.ended()
        assert outcome.code == Code.CANCELLED_BY_OPERATOR
        assert "operator" in outcome.text
        status, _ = await cancel(serving, operator, one.stream.resource)
        assert status == 200
        row = f"{session}/{two.stream.id}"
        assert (await cancel(serving, operator, row, work=True))[0] == 200
        assert (await two.ended()).outcome == OutcomeKind.CANCELLED
        row = f"{session}/{upload.stream.id}"
        assert (await cancel(serving, operator, row))[0] == 200
        assert (await upload.ended()).outcome == OutcomeKind.CANCELLED
        await ann.drop()


async def test_who_may_not_and_what_is_not_there(start: Start, tokens: Path) -> None:
    other = make_token(tokens, "bob", "list", "subscribe")
    mine = make_token(tokens, "ann", "subscribe")
    async with start(app(), metrics=ANYWHERE, tokens=tokens) as serving:
        ann = await peer_with(serving, mine)
        assert ann.session.session is not None
        work = ann.subscribe("sources/waits")
        await work.events(1)
        row = f"{ann.session.session.session_id}/{work.stream.id}"
        for token, wanted, status in (
            ("wrong", row, 401),
            ("", row, 401),
            (other, row, 404),
            (other, work.stream.resource, 404),
            (mine, "nonsense", 404),
            (mine, f"{row}x", 404),
            (mine, "runs/none", 404),
        ):
            told = await cancel(serving, token, wanted)
            assert told[0] == status, wanted
        assert "ann may not cancel it" in told[1]
        for body in ("{", "[]", '{"id": 1}', '{"work": true}'):
            assert (await cancel(serving, mine, "", body=body))[0] == 400
        assert work.outcome is None
        assert (await cancel(serving, mine, row))[0] == 200
        await ann.drop()


async def test_without_tokens_nothing_is_cancelled(start: Start) -> None:
    async with start(app(), metrics=ANYWHERE) as serving:
        peer = await Peer(serving.port).connect()
        work = peer.subscribe("sources/waits")
        await work.events(1)
        assert (await cancel(serving, "any", work.stream.resource))[0] == 401
        await peer.drop()
