"""SPEC.md is enough: a client written from it alone talks to a real server."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.acceptance.processes import running
from tests.server.identities import make_token

from .codec import LAST, Fields, Frame, ProtocolError, crc32c, decode, encode_fields
from .minimal import LIMITS, Client
from .streams import Fetch, Publisher, Stream, Subscription, Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.acceptance.processes import ServerProcess

DATA = random.Random(71).randbytes(150_000)
CHUNK = 2**15
# An empty frame of a type that nobody knows: 0x99 has the bit 0x80 and is optional.
OPTIONAL = bytes.fromhex("0000000099000000") + bytes(12)
OPTIONAL += crc32c(OPTIONAL).to_bytes(4)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ServerProcess]:
    """Run one server for all tests that do not stop it; each has its own names."""
    async with running(tmp_path_factory.mktemp("interop") / "data") as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.port) as connected:
        yield connected


def upload(client: Client, name: str, key: str = "", **detail: object) -> Upload:
    fields = {"chunk_size": CHUNK, "size": len(DATA), **detail}
    return Upload(client, f"objects/{name}", DATA, fields, key=key)


def publish(client: Client, name: str, count: int, key: str = "") -> Publisher:
    publisher = Publisher(client, f"logs/{name}", ["odd"], key=key)
    publisher.records = [(n % 2, b"record %d" % n) for n in range(count)]
    return publisher


def bodies(subscription: Subscription) -> list[bytes]:
    return [event.body for event in subscription.events]


def send_until(stream: Stream, frames: int) -> None:
    """Send so many data frames and no more."""
    stream.allowance = frames
    stream.wait(lambda: stream.allowance == 0)


def lose_connection(client: Client) -> None:
    """Kill the socket and resume the session."""
    client.kill()
    for stream in client.streams.values():
        stream.allowance = 2**20
    client.connect()


def refused(stream: Stream) -> str:
    """Return the code with which OPEN is refused."""
    with pytest.raises(ProtocolError) as error:
        stream.wait_opened()
    return error.value.code


def test_welcome_states_limits_and_pong_counts_bytes(client: Client) -> None:
    """SPEC.md §7, §17."""
    assert client.session is not None
    assert client.session["epoch"] == 1
    assert len(client.session["token"]) >= 16
    assert client.welcome["limits"]["max_payload"] >= 8192
    assert client.ping()["received_bytes"] == client.sent_bytes
    client.goodbye()


def test_both_sides_skip_optional_frames_they_do_not_know(
    client: Client,
) -> None:
    """SPEC.md §3."""
    client.socket.sendall(OPTIONAL)
    client.sent_bytes += len(OPTIONAL)
    assert client.ping()["received_bytes"] == client.sent_bytes
    ours, theirs = socket.socketpair()
    with ours, theirs:
        welcome: Fields = {"version": 1, "agent": "", "identity": "", "limits": LIMITS}
        welcome["session"] = {"session_id": "s", "token": bytes(16), "epoch": 1}
        frames = [("WELCOME", 0, welcome), ("PING", 7, client.totals())]
        data = b""
        for name, sequence, fields in frames:
            frame = Frame(name, 0, 0, 0, sequence, encode_fields(name, fields))
            data += OPTIONAL + frame.encode()
        theirs.sendall(data)
        device = Client(0)
        device.connect(ours)
        device.wait(lambda: device.received_bytes == len(data))
        sent = theirs.recv(2**16)
        hello = decode(sent, 2**20)
        assert hello is not None
        pong = decode(sent[hello[1] :], 2**20)
        assert pong is not None
        assert (hello[0].name, pong[0].name, pong[0].sequence) == ("HELLO", "PONG", 7)


@pytest.mark.asyncio
async def test_a_token_says_who_the_client_is(tmp_path: Path) -> None:
    """SPEC.md §7: also of the connection that a session is resumed on."""
    tokens = tmp_path / "tokens.json"
    token = make_token(tokens, "device").encode()
    async with running(tmp_path / "data", "--tokens", str(tokens)) as server:
        with pytest.raises(ProtocolError, match="unauthenticated"):
            Client(server.port).connect()
        with pytest.raises(ProtocolError, match="unauthenticated"):
            Client(server.port, token=token[:-1]).connect()
        with Client(server.port, token=token) as client:
            assert client.welcome["identity"] == "device"
            sent = upload(client, "by a device")
            send_until(sent, 4)
            client.wait(lambda: sent.position == 1)
            lose_connection(client)
            assert client.welcome["identity"] == "device"
            assert sent.finish()["outcome"] == 1


@pytest.mark.parametrize("early", [False, True])
def test_an_upload_is_committed_and_its_object_returned(
    client: Client, early: bool
) -> None:
    """SPEC.md §10, §12, §13: with `early`, data goes ahead of OPENED."""
    name = f"a {early}"
    sent = upload(client, name, "key", early=early)
    outcome = sent.finish()
    assert outcome["outcome"] == 1
    assert outcome["position"] == 5
    assert outcome["object"]["size"] == len(DATA)
    assert outcome["object"]["crc"] == crc32c(DATA)
    assert sent.position == 6, "the END has been acknowledged"
    again = upload(client, name, "key").finish()
    assert again["object"] == outcome["object"], "the recorded outcome"
    other = upload(client, name, "key", chunk_size=CHUNK // 2)
    assert refused(other) == "key_conflict"


def test_an_upload_goes_on_inside_the_chunk_that_was_cut(client: Client) -> None:
    """SPEC.md §8.2, §10."""
    sent = upload(client, "b", size=None)
    send_until(sent, 11)  # two chunks of four fragments, and three fragments
    client.wait(lambda: sent.position == 2)
    lose_connection(client)
    assert sent.verified
    assert sent.unit == 2
    missing = len(DATA) - sent.unit * CHUNK - sent.held
    assert sent.finish()["object"]["crc"] == crc32c(DATA)
    assert sent.used[1] == missing, "only what was not there was sent again"


def test_an_upload_of_a_file_that_changed_fails_at_the_proof(client: Client) -> None:
    """SPEC.md §8.2, §15."""
    sent = upload(client, "changed")
    send_until(sent, 4)
    sent.wait(lambda: sent.position == 1)
    sent.data = bytes(CHUNK) + DATA[CHUNK:]
    lose_connection(client)
    with pytest.raises(ProtocolError, match="proof_mismatch"):
        sent.finish()
    client.wait(lambda: sent.outcome)
    assert sent.outcome is not None
    assert sent.outcome["code"] == 112


def test_an_upload_of_known_size_goes_on_inside_a_chunk(client: Client) -> None:
    """SPEC.md §12: the end of the cut chunk and a short last one are two units."""
    sent = upload(client, "b of known size")
    send_until(sent, 11)
    client.ping()
    lose_connection(client)
    assert CHUNK - sent.held + len(DATA) % CHUNK <= CHUNK
    assert sent.finish(patience=1)["object"]["crc"] == crc32c(DATA)


def test_a_stored_chunk_with_other_bytes_is_a_conflict_and_the_upload_goes_on(
    client: Client,
) -> None:
    """SPEC.md §13."""
    sent = upload(client, "c")
    send_until(sent, 4)
    client.wait(lambda: sent.position == 1)
    for number in range(4):
        columns = (LAST * (number == 3), number, sent.stream_id, 0, bytes(8192))
        client.send_raw("CHUNK", *columns)
    sent.spend(1, CHUNK)
    sent.wait(lambda: sent.errors)
    assert sent.errors == ["checksum_conflict"]
    sent.allowance = 2**20
    assert sent.finish()["object"]["crc"] == crc32c(DATA)


def test_a_token_is_refused_once_its_successor_is_confirmed(
    client: Client,
    server: ServerProcess,
) -> None:
    """SPEC.md §8.1."""
    first = client.session
    lose_connection(client)
    second = client.session
    assert first is not None
    assert second is not None
    assert second["epoch"] == first["epoch"] + 1
    client.ping()  # CONFIRM came before it
    other = Client(server.port)
    other.session = first
    with pytest.raises(ProtocolError, match="token_superseded"), other:
        pass
    other.socket.close()
    client.ping()  # nobody has taken the session over
    other.session = second
    with other, pytest.raises(ProtocolError, match="taken_over"):
        client.ping()


def test_a_fetch_stops_at_its_window_and_goes_on_inside_a_chunk(
    client: Client,
) -> None:
    """SPEC.md §8.2, §12."""
    upload(client, "d").finish()
    fetch = Fetch(client, "objects/d", CHUNK, window=(2, 2 * CHUNK))
    fetch.acking = False
    fetch.wait(lambda: len(fetch.data) == 2 * CHUNK)
    client.ping()
    assert len(fetch.data) == 2 * CHUNK, "nothing comes without a window"
    fetch.acking = True
    fetch.ack()
    fetch.wait(lambda: len(fetch.data) > 2 * CHUNK)
    held = len(fetch.held())
    assert 0 < held < CHUNK
    lose_connection(client)
    assert fetch.verified
    assert (fetch.position, len(fetch.held())) == (2, held)
    assert fetch.finish()["position"] == 5
    assert fetch.data == DATA
    assert sum(fetch.taken) - fetch.taken[0] == len(DATA) - 2 * CHUNK - held


def test_a_fetch_goes_on_from_a_file_in_another_session(client: Client) -> None:
    """SPEC.md §9.2, §15."""
    upload(client, "e").finish()
    client.goodbye()
    client.session = None
    client.connect()
    window = (2, 2 * CHUNK)
    fetch = Fetch(client, "objects/e", CHUNK, data=DATA[:100_001], window=window)
    assert fetch.wait_opened()["standing"]["verified"]
    assert fetch.finish()["outcome"] == 1
    assert fetch.data == DATA
    other = Fetch(client, "objects/e", CHUNK, data=bytes(100_001), window=window)
    assert refused(other) == "proof_mismatch"
    part = {"start": 1000, "length": 70_000}
    ranged = Fetch(client, "objects/e", CHUNK, detail=part, window=window)
    ranged.finish()
    assert ranged.data == DATA[1000:71_000]


def test_a_file_that_is_here_already_is_only_confirmed(client: Client) -> None:
    """SPEC.md §8.2, §9.2: who has a file need not know that it is whole."""
    upload(client, "whole").finish()
    window = (2, 2 * CHUNK)
    fetch = Fetch(client, "objects/whole", CHUNK, data=DATA, window=window)
    assert fetch.finish(patience=1)["outcome"] == 1


@pytest.mark.parametrize("key", ["", "meter-1"])
def test_records_are_published_once_whatever_was_lost(client: Client, key: str) -> None:
    """SPEC.md §11, §13: without a key, records go ahead of OPENED."""
    other = publish(client, f"app {key}.", 10)
    other.wait(lambda: other.position == 10)
    publisher = publish(client, f"app {key}.", 100, key)
    publisher.allowance = 2
    assert publisher.step() is not bool(key), "a named one waits for OPENED"
    publisher.wait(lambda: publisher.allowance == 0 and publisher.opened)
    lose_connection(client)
    assert publisher.position in {0, 20, 40}
    publisher.closing = True
    assert publisher.finish()["position"] == 100
    assert publisher.log_position == 110
    reader = Subscription(
        client, f"logs/app {key}.", {"start": 4, "value": 10}, window=(9, 512)
    )
    reader.wait(lambda: reader.position == 110)
    assert bodies(reader) == [body for _kind, body in publisher.records]
    assert [event.kind for event in reader.events[:3]] == [0, 1, 0]
    assert reader.kinds == ["odd"]
    if key:
        again = Publisher(client, f"logs/app {key}.", ["odd"], key=key)
        again.wait_opened()
        assert (again.first, again.log_position) == (100, 110)


def test_a_cursor_on_a_log_resumes_at_its_position_with_proof(
    client: Client,
) -> None:
    """SPEC.md §8.2, §15, §19."""
    publisher = publish(client, "f", 90)
    publisher.wait(lambda: publisher.position == 90)
    reader = Subscription(client, "logs/f", {"start": 0}, window=(37, 4096))
    reader.acking = False
    reader.wait(lambda: reader.position == 37)
    client.ping()
    assert len(reader.events) == 37, "nothing comes without a window"
    reader.acking = True
    lose_connection(client)
    assert reader.verified
    reader.wait(lambda: reader.position == 90)
    client.request("SEAL", "DONE", target="logs/f")
    assert reader.finish()["outcome"] == 1
    assert bodies(reader) == [b"record %d" % n for n in range(90)]


def test_a_cursor_with_another_past_is_refused(client: Client) -> None:
    """SPEC.md §15."""
    publisher = publish(client, "g", 9)
    publisher.wait(lambda: publisher.position == 9)
    reader = Subscription(client, "logs/g", {"start": 0}, window=(9, 512))
    reader.wait(lambda: reader.position == 9)
    start = {"start": 4, "value": 9, "generation": reader.generation}
    proof = reader.proof()
    good = {**start, "proof": proof}
    other = {**start, "proof": {**proof, "bodies_crc": proof["bodies_crc"] ^ 1}}
    again = Subscription(client, "logs/g", good, window=(9, 512))
    assert again.wait_opened()["standing"]["verified"]
    liar = Subscription(client, "logs/g", other, window=(9, 512))
    assert refused(liar) == "proof_mismatch"


def test_a_run_is_read_to_its_end_across_a_lost_connection(
    client: Client,
    server: ServerProcess,
) -> None:
    """SPEC.md §11, §14."""
    window = (37, 4096)
    run = Subscription(
        client, "sources/count", {"start": 0}, window=window, parameters={"events": 90}
    )
    run.acking = False
    run.wait(lambda: run.position == 37)
    run.acking = True
    lose_connection(client)
    assert run.verified
    assert run.finish()["outcome"] == 1
    assert bodies(run) == [b"event %d" % n for n in range(90)]
    kinds = Subscription(client, "sources/kinds", {"start": 0}, window=window)
    kinds.finish()
    names = [["", *kinds.kinds][event.kind] for event in kinds.events]
    assert names == ["", "token", "usage"]
    broken = Subscription(client, "sources/broken", {"start": 0}, window=window)
    assert broken.finish()["code"] == 120
    assert bodies(broken) == [b"one", b"two"]


def test_work_is_listed_described_and_cancelled(client: Client) -> None:
    """SPEC.md §14, §19."""
    upload(client, "h").finish()
    listed = client.request("LIST", "LISTED", prefix="objects/h")
    assert [entry["resource"] for entry in listed["entries"]] == ["objects/h"]
    assert listed["entries"][0]["size"] == len(DATA)
    ticks = Subscription(client, "sources/ticks", {"start": 0}, window=(64, 4096))
    run = ticks.wait_opened()["id"]
    ticks.wait(lambda: ticks.position > 2)
    report = client.request("STATUS", "STATUS_REPORT", target=run)
    assert (report["target"], report["state"]) == (run, "STREAMING")
    ticks.cancel(scope=1)
    outcome = ticks.finish()
    assert (outcome["outcome"], outcome["code"]) == (3, 112)
    report = client.request("STATUS", "STATUS_REPORT", target=run)
    assert report["state"] == "CANCELLED"
    half = upload(client, "half")
    half.allowance = 0
    target = half.wait_opened()["id"]
    cancelled = client.request("CANCEL", "OUTCOME", scope=0, target=target)
    assert cancelled["outcome"] == 3
    assert half.finish()["outcome"] == 3
    with pytest.raises(ProtocolError, match="not_found"):
        client.request("STATUS", "STATUS_REPORT", target="objects/half")
    assert client.request("DELETE", "DONE", target="objects/h")
    assert not client.request("LIST", "LISTED", prefix="objects/h")["entries"]
    client.goodbye()


def test_a_released_upload_is_continued_by_its_key(client: Client) -> None:
    """SPEC.md §9.3, §14."""
    sent = upload(client, "i", "key")
    send_until(sent, 8)
    client.wait(lambda: sent.position == 2)
    sent.release()
    again = upload(client, "i", "key")
    assert again.wait_opened()["existing"]
    assert again.unit >= 2
    assert again.finish()["object"]["crc"] == crc32c(DATA)
    assert again.used[1] == len(DATA) - 2 * CHUNK


async def test_streams_go_on_after_the_server_was_killed(tmp_path: Path) -> None:
    """SPEC.md §8.3: what is durable is there, whether or not the session is."""
    async with running(tmp_path / "data") as server:
        client = Client(server.port)
        await asyncio.to_thread(client.connect)

        def before() -> Subscription:
            half = upload(client, "j", "key", size=None)
            send_until(half, 10)
            publisher = publish(client, "j", 20)
            publisher.wait(lambda: publisher.position == 20)
            reader = Subscription(client, "logs/j", {"start": 0}, window=(5, 512))
            reader.acking = False
            reader.wait(lambda: reader.position == 5)
            half.wait(lambda: half.position == 2)
            return reader

        reader = await asyncio.to_thread(before)
        await server.kill()
        await server.start()

        def after() -> None:
            client.kill()
            client.session = None
            client.streams.clear()
            client.connect()
            half = upload(client, "j", "key", size=None)
            half.wait_opened()
            assert half.verified
            assert half.unit == 2
            assert half.finish()["object"]["crc"] == crc32c(DATA)
            start = {"start": 4, "value": 5, "proof": reader.proof()}
            start["generation"] = reader.generation
            rest = Subscription(client, "logs/j", start, window=(5, 512))
            assert rest.wait_opened()["standing"]["verified"]
            rest.wait(lambda: rest.position == 20)
            assert bodies(reader) + bodies(rest) == [
                b"record %d" % n for n in range(20)
            ]

        await asyncio.to_thread(after)
        client.goodbye()


async def test_a_client_leaves_a_server_that_drains_and_comes_back(
    tmp_path: Path,
) -> None:
    """SPEC.md §18."""
    async with running(tmp_path / "data", "--drain-seconds=1") as server:
        client = Client(server.port)
        await asyncio.to_thread(client.connect)
        sent = upload(client, "k", "key", size=None)
        await asyncio.to_thread(send_until, sent, 6)
        leaving = asyncio.create_task(server.terminate())
        await asyncio.to_thread(client.wait, lambda: client.leaving)
        assert client.leaving is not None
        assert client.leaving["code"] == 14
        sent.allowance = 2**20
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(client.wait, lambda: False)
        assert sent.unit == 2, "the chunk was finished and none begun"
        assert await leaving == 0
        await server.start()
        await asyncio.to_thread(client.connect)
        outcome = await asyncio.to_thread(sent.finish)
        assert outcome["object"]["crc"] == crc32c(DATA)
        client.goodbye()
