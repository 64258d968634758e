"""The README's relay of a model, against a server that speaks as such models do."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import ackline.client
from ackline.client import Event
from ackline.proto.errors import StreamCancelled, StreamFailed
from ackline.server import Address, Options
from tests.acceptance.test_readme import example

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from ackline.client import Client

TOKENS = ["Nobody", " ", "is", " späť", "\n", "!"]


class Model:
    """An OpenAI-compatible endpoint over plain HTTP; the prompt says what it does."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.closed = 0

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._answer(await self._request(reader), writer)
            await reader.read()
        finally:
            self.closed += 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append((first, headers, body))
        return str(body["messages"][-1]["content"])

    async def _answer(self, prompt: str, writer: asyncio.StreamWriter) -> None:
        if prompt == "refuse":
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self._say(writer, ": here it comes\n\n")
        self._chunk(writer, {"role": "assistant", "content": ""})
        for number, token in enumerate(TOKENS):
            if prompt == "wait" and number == 3:
                return  # and think, until the client is gone
            self._chunk(writer, {"content": token})
            await writer.drain()
        if prompt == "break":
            self._say(writer, 'data: {"error": {"message": "out of memory"}}\n\n')
        self._say(writer, 'data: {"choices": [], "usage": {"total_tokens": 9}}\n\n')
        if prompt != "stop early":
            self._say(writer, "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def _chunk(self, writer: asyncio.StreamWriter, delta: dict[str, str]) -> None:
        told = {"id": "x", "choices": [{"index": 0, "delta": delta}]}
        self._say(writer, f"data: {json.dumps(told, ensure_ascii=False)}\n\n")

    def _say(self, writer: asyncio.StreamWriter, text: str) -> None:
        data = text.encode()
        # In two pieces: what is one piece of HTTP is no line of its content.
        for part in (data[:7], data[7:]):
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))


@asynccontextmanager
async def relayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Model, Client]]:
    """Run a model, the README's server in front of it, and a client."""
    model = Model()
    upstream = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program: dict[str, Any] = {}
    exec(compile(example("relay"), "README.md", "exec"), program)
    options = Options(
        listen=Address("127.0.0.1", 0), metrics=None, data_dir=folder / "data"
    )
    async with (
        upstream,
        program["server"].serve(options) as serving,
        ackline.client.connect(serving.url) as client,
    ):
        yield model, client


async def test_tokens_come_as_the_model_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relayed(tmp_path, monkeypatch) as (model, client):
        params = {"prompt": "go", "model": "large"}
        async with client.subscribe("sources/chat", params=params) as events:
            told = [(e.kind, e.text) async for e in events if isinstance(e, Event)]
        assert told == [("token", token) for token in TOKENS]
        [(first, headers, body)] = model.requests
        assert first == "POST /v1/chat/completions HTTP/1.1"
        assert headers["authorization"] == "bearer secret"
        assert body == {
            "model": "large",
            "messages": [{"role": "user", "content": "go"}],
            "stream": True,
        }


async def test_viewers_share_one_request_and_cancelling_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relayed(tmp_path, monkeypatch) as (model, client):
        params = {"prompt": "wait"}
        async with (
            client.subscribe("sources/chat", params=params, key="k") as first,
            client.subscribe("sources/chat", params=params, key="k") as second,
        ):
            for viewer in (first, second):
                async for event in viewer:
                    if event.id == 2:
                        break
            assert len(model.requests) == 1
            assert model.closed == 0
            await first.cancel(work=True)
            with pytest.raises(StreamCancelled):
                async for _ in second:
                    pass
        async with asyncio.timeout(50):
            while not model.closed:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("prompt", "tells", "count"),
    [
        ("refuse", "401 Unauthorized", 0),
        ("break", "out of memory", len(TOKENS)),
        ("stop early", "cut off", len(TOKENS)),
    ],
)
async def test_a_model_that_fails_fails_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    tells: str,
    count: int,
) -> None:
    async with relayed(tmp_path, monkeypatch) as (_, client):
        events = client.subscribe("sources/chat", params={"prompt": prompt})
        async with events:
            with pytest.raises(StreamFailed, match=tells):
                await anext(event async for event in events if event.id > count)
            assert events.position == count
