"""What servers rarely do, by a server that does what the test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ackline.client import (
    ChecksumConflict,
    Client,
    ClientOptions,
    Code,
    ConnectionLost,
    ConnectionState,
    OutcomeKind,
    Refused,
    StreamFailed,
    connect,
)
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Delete,
    Done,
    Listed,
    Outcome,
    Redirect,
    Session,
    StatusReport,
)
from ackline.proto.notices import (
    HelloReceived,
    OpenReceived,
    RequestReceived,
    ResumeReceived,
)
from tests.client.scripted import ScriptedServer, accept_upload

if TYPE_CHECKING:
    from ackline.proto.notices import Notice
    from ackline.proto.server_connection import ServerConnection
    from tests.client.processes import ServerProcess

QUICK = ClientOptions(backoff_first=0.01)


def answer_status(core: ServerConnection, notice: Notice) -> None:
    if isinstance(notice, RequestReceived):
        core.reply(notice.request_id, StatusReport("runs/x", "STREAMING", (), {}))


async def test_a_redirect_is_followed(server: ServerProcess) -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, HelloReceived):
            core.send(FrameType.REDIRECT, Redirect(server.url))

    async with ScriptedServer(script) as first, connect(first.url) as client:
        await client.ping()
        assert client.url == server.url
        assert client.home == first.url
        assert (await client.upload(b"x", "redirected", existing="replace")).size == 1


async def test_servers_that_play_ping_pong_are_left() -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, HelloReceived):
            core.send(FrameType.REDIRECT, Redirect(first.url))

    async with ScriptedServer(script) as first:
        with pytest.raises(ConnectionLost, match="more than 5 redirects"):
            async with connect(first.url, options=QUICK) as client:
                await client.ping()
        assert len(first.connections) == 6


async def test_a_redirect_to_nowhere_is_told() -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, HelloReceived):
            core.send(FrameType.REDIRECT, Redirect("http://example.org"))

    async with ScriptedServer(script) as first:
        with pytest.raises(ConnectionLost, match="redirect to nowhere"):
            async with connect(first.url, options=QUICK) as client:
                await client.ping()


async def test_a_refused_credential_ends_it() -> None:
    seen: list[bytes] = []

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, HelloReceived):
            seen.append(notice.hello.credential)
            core.fail(Code.UNAUTHENTICATED, "who are you?")

    async with ScriptedServer(script) as refusing:
        refusing.welcomes = False
        with pytest.raises(Refused, match="who are you") as raised:
            async with connect(refusing.url, token="secret"):
                pass
        assert raised.value.code == Code.UNAUTHENTICATED
        assert seen == [b"secret"]
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("code", [Code.TOKEN_SUPERSEDED, Code.TOKEN_INVALID])
async def test_a_token_that_is_not_good_any_more_ends_it(code: Code) -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, ResumeReceived):
            session = Session("new", b"n" * 16, 1)
            core.resumed(session, [], [], code=code, text="a copy was faster")

    async with (
        ScriptedServer(script) as server,
        connect(server.url, options=QUICK) as client,
    ):
        server.connections[0].fail(Code.OVERLOADED, "go away")
        with pytest.raises(ConnectionLost, match="a copy was faster"):
            await client.status("runs/x")


async def test_what_no_further_try_mends_is_tried_three_times_only() -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, ResumeReceived):
            core.resumed(Session("s", b"t" * 16, 2), [], [])
        elif isinstance(notice, RequestReceived):
            core.fail(Code.FLOW_CONTROL, "too much")

    async with (
        ScriptedServer(script) as server,
        connect(server.url, options=QUICK) as client,
    ):
        with pytest.raises(ConnectionLost, match="3 times in a row by: too much"):
            await client.status("runs/x")
        assert len(server.connections) == 3


async def test_retry_after_is_obeyed() -> None:
    states: list[ConnectionState] = []

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, ResumeReceived):
            core.resumed(Session("s", b"t" * 16, 2), [], [])
        elif len(server.connections) == 1 and isinstance(notice, RequestReceived):
            core.fail(Code.OVERLOADED, "not now", retry_after=0.2)
        else:
            answer_status(core, notice)

    async with (
        ScriptedServer(script) as server,
        connect(server.url, options=QUICK, on_state=states.append) as client,
    ):
        began = asyncio.get_running_loop().time()
        assert (await client.status("runs/x")).state == "STREAMING"
        assert asyncio.get_running_loop().time() - began >= 0.2
    assert any(0.2 <= state.retry_in <= 0.3 for state in states)


async def test_retry_after_of_a_drain_is_obeyed() -> None:
    """SPEC.md §18."""
    states: list[ConnectionState] = []

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, ResumeReceived):
            core.resumed(Session("s", b"t" * 16, 2), [], [])
        elif len(server.connections) == 1 and isinstance(notice, RequestReceived):
            core.go_away(Code.DRAINING, "restart", retry_after=0.2, deadline=0.01)
        else:
            answer_status(core, notice)

    async with (
        ScriptedServer(script) as server,
        connect(server.url, options=QUICK, on_state=states.append) as client,
    ):
        began = asyncio.get_running_loop().time()
        assert (await client.status("runs/x")).state == "STREAMING"
        assert asyncio.get_running_loop().time() - began >= 0.2
    assert any(0.2 <= state.retry_in <= 0.3 for state in states)


@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.DRAINING])
async def test_a_request_refused_for_now_is_made_again_when_the_server_said(
    code: Code,
) -> None:
    asked: list[float] = []

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, RequestReceived):
            asked.append(asyncio.get_running_loop().time())
            if len(asked) < 3:
                core.refuse_request(notice.request_id, code, "busy", retry_after=0.05)
            else:
                core.reply(notice.request_id, Done("deleted"))

    async with (
        ScriptedServer(script) as server,
        connect(server.url, options=QUICK) as client,
    ):
        assert await client.delete("objects/x") == "deleted"
    first, second, third = asked
    assert second - first >= 0.05
    assert third - second >= 0.05


async def test_a_refusal_that_the_caller_has_to_know_says_when_to_try_again() -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, OpenReceived):
            core.refuse(
                notice.stream, Code.INSUFFICIENT_STORAGE, "full", retry_after=30
            )

    async with ScriptedServer(script) as server, connect(server.url) as client:
        with pytest.raises(Refused, match="try again in 30 s") as raised:
            await client.upload(b"x", "x")
    assert (raised.value.retry, raised.value.retry_after) == (True, 30.0)


async def test_a_deadline_passes_without_a_connection_too() -> None:
    """SPEC.md §17: nobody is there to tell the outcome."""

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, OpenReceived):
            accept_upload(core, notice.stream)
            server.close()
            asyncio.get_running_loop().call_soon(core.fail, Code.DRAINING, "gone")

    async with ScriptedServer(script) as server, connect(server.url) as client:
        with pytest.raises(StreamFailed, match="deadline") as raised:
            await client.upload(bytes(100_000), "x", deadline=0.1)
    assert raised.value.outcome.code == Code.DEADLINE_EXCEEDED


async def test_an_open_refused_for_now_is_tried_again_unseen() -> None:
    opens = 0

    def script(core: ServerConnection, notice: Notice) -> None:
        nonlocal opens
        if isinstance(notice, OpenReceived):
            opens += 1
            if opens < 3:
                core.refuse(
                    notice.stream, Code.OVERLOADED, "no memory", retry_after=0.01
                )
            else:
                core.refuse(notice.stream, Code.PERMISSION_DENIED, "never")

    async with ScriptedServer(script) as server, connect(server.url) as client:
        with pytest.raises(Refused, match="never"):
            await client.upload(bytes(100_000), "x")
    assert opens == 3


@pytest.mark.parametrize("code", [Code.CHECKSUM_CONFLICT, Code.MOVED])
async def test_an_error_on_an_open_stream_is_raised(code: Code) -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, OpenReceived):
            accept_upload(core, notice.stream)
            core.refuse(notice.stream, code, "as the test says")

    async with ScriptedServer(script) as server, connect(server.url) as client:
        with pytest.raises(Refused, match="as the test says") as raised:
            await client.upload(bytes(100_000), "x")
    assert isinstance(raised.value, ChecksumConflict) is (
        code == Code.CHECKSUM_CONFLICT
    )
    assert raised.value.resource == "uploads/u"


async def test_a_delete_without_an_answer_is_not_sent_again() -> None:
    deletes = 0

    def script(core: ServerConnection, notice: Notice) -> None:
        nonlocal deletes
        if isinstance(notice, ResumeReceived):
            core.resumed(Session("s", b"t" * 16, 2), [], [])
        elif isinstance(notice, RequestReceived) and isinstance(notice.message, Delete):
            deletes += 1
            if deletes == 1:
                core.fail(Code.OVERLOADED, "go away")
            else:
                core.reply(notice.request_id, Done())

    async with (
        ScriptedServer(script) as server,
        connect(server.url, options=QUICK) as client,
    ):
        with pytest.raises(ConnectionLost, match="look whether it was done"):
            await client.delete("objects/x")
        await client.delete("objects/x")
    assert deletes == 2


async def test_still_stopping_is_not_the_outcome() -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, RequestReceived):
            number = notice.request_id
            core.reply(number, Outcome(OutcomeKind.STILL_STOPPING, 0, "", 0, 0.0))
            core.reply(number, Outcome(OutcomeKind.CANCELLED, 112, "", 5, 0.0))

    async with ScriptedServer(script) as server, connect(server.url) as client:
        outcome = await client.cancel("runs/x")
    assert (outcome.outcome, outcome.position) == (OutcomeKind.CANCELLED, 5)


async def test_an_answer_of_the_wrong_kind_is_no_answer() -> None:
    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, RequestReceived):
            core.reply(notice.request_id, Done())

    async def listed(client: Client) -> list[str]:
        return [entry.resource async for entry in client.list()]

    async with ScriptedServer(script) as server, connect(server.url) as client:
        for asking in (client.status("runs/x"), client.cancel("runs/x")):
            with pytest.raises(Exception, match="answered with Done"):
                await asking
        with pytest.raises(Exception, match="answered with Done"):
            await listed(client)


async def test_a_long_list_is_asked_for_in_parts() -> None:
    asked: list[str] = []

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, RequestReceived):
            after: str = notice.message.after  # type: ignore[union-attr]
            asked.append(after)
            core.reply(notice.request_id, Listed((), "" if after else "objects/m"))

    async with ScriptedServer(script) as server, connect(server.url) as client:
        assert [entry async for entry in client.list()] == []
    assert asked == ["", "objects/m"]


async def test_more_requests_than_may_be_unanswered_wait() -> None:
    waiting: list[tuple[ServerConnection, Notice]] = []

    def script(core: ServerConnection, notice: Notice) -> None:
        if isinstance(notice, RequestReceived):
            waiting.append((core, notice))

    async with ScriptedServer(script) as server, connect(server.url) as client:
        asking = [asyncio.create_task(client.status("runs/x")) for _ in range(100)]
        await asyncio.sleep(0.1)
        assert len(server.connections[0]._requests) == 64
        while waiting or not all(task.done() for task in asking):
            for core, notice in waiting:
                answer_status(core, notice)
            waiting.clear()
            await asyncio.sleep(0.001)
        assert len(await asyncio.gather(*asking)) == 100
