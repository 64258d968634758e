"""What the log says: of whom, in which form, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ackline.server.about import About
from ackline.server.logformat import HumanFormatter, JsonFormatter
from tests.server.peer import Peer
from tests.server.test_cli import running

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ackline.proto.messages import Session
    from tests.server.conftest import Start

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def written() -> Generator[io.StringIO]:
    """All that is logged, as JSON, DEBUG too."""
    text, logger = io.StringIO(), logging.getLogger("ackline")
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(before)


def lines(text: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


async def test_every_line_of_a_stream_says_whose_and_which_it_is(
    start: Start, written: io.StringIO
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        upload = peer.upload(
            "a", b"x", key="k", end=False, trace=f"00-{TRACE}-b7ad6b7169203331-01"
        )
        await upload.stored(1)
        await peer.drop()
        await peer.connect()
        upload.cancel()
        await upload.ended()
        resource = upload.stream.resource
        session = known(peer).session_id
        await peer.drop()
    of_stream = [line for line in lines(written) if resource in line["message"]]
    assert {line["message"].split()[2] for line in of_stream} >= {"opened", "cancelled"}
    for line in of_stream:
        assert line["session"] == session
        assert line["stream"] == upload.stream.id
        assert line["resource"] == resource
        assert line["identity"] == "anonymous"
        assert line["trace_id"] == TRACE
        assert line["level"] == "info"
        assert line["time"].endswith("Z")
    (resumed,) = (line for line in lines(written) if "resumed from" in line["message"])
    assert resumed["session"] == session


async def test_no_token_is_ever_logged(start: Start, written: io.StringIO) -> None:
    secrets = [b"a-bearer-token-of-somebody"]
    async with start() as serving:
        stranger = Peer(serving.port)
        await stranger.connect(scheme="bearer", credential=secrets[0], wait=False)
        await stranger.failed()
        peer = await Peer(serving.port).connect()
        work = peer.upload("a", b"x", end=False)
        await work.stored(1)
        secrets.append(known(peer).token)
        await peer.drop()
        await peer.connect()
        secrets.append(known(peer).token)
        await peer.drop()
    said = written.getvalue()
    assert len(set(secrets)) == 3
    assert known(peer).session_id in said
    for token in secrets:
        for form in (token.hex(), repr(token)[2:-1], token.decode("latin-1")):
            assert form not in said


def known(peer: Peer) -> Session:
    assert peer.session.session is not None
    return peer.session.session


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("ackline.x", logging.WARNING, "x.py", 1, text, args, None)


def test_people_are_told_whose_it_is_on_one_line() -> None:
    about = About("3 uploads/x", identity="bob", resource="uploads/x", trace_id="")
    line = HumanFormatter().format(record("%s: %s", about, "evil\n00:00 \x1b[2Jname"))
    assert line.endswith(
        r"WARNING 3 uploads/x: evil\x0a00:00 \x1b[2Jname  (identity=bob)"
    )
    assert len(line.splitlines()) == 1


def test_an_error_is_one_line_of_json() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        failed = record("%s failed", About("a", source="s"))
        failed.exc_info = sys.exc_info()
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["source"]) == ("a failed", "s")
    assert "ValueError: no" in found["error"]


@pytest.mark.parametrize("form", ["auto", "human"])
async def test_the_command_writes_json_where_nobody_looks(
    tmp_path: Path, form: str
) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f"log_format = '{form}'")
    async with running(tmp_path, "--config", str(file)) as server:
        code, told = await server.end(signal.SIGTERM)
    assert code == 0
    last = told.splitlines()[-1]
    if form == "human":
        assert last.endswith("INFO    stopped")
    else:
        assert json.loads(last)["message"] == "stopped"
        assert all(json.loads(line)["level"] for line in told.splitlines())
