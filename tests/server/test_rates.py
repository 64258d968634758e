"""Quotas of bytes and events a second slow down and break nothing (SPEC.md §9.4)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import List, Listed, OutcomeKind
from ackline.proto.notices import PongReceived, StreamRefused
from ackline.proto.stats import Stats
from ackline.server import Identity, Quotas, rates
from ackline.server.rates import Rates
from tests.server.identities import make_token, peer_with
from tests.server.test_reasons import stream_waits, waits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start
    from tests.server.peer import Peer, Work

CHUNK = 65_536


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def pong(peer: Peer) -> None:
    number = peer.core.ping()
    while (await peer.until(PongReceived)).number != number:
        peer.changed.clear()
        await peer.changed.wait()


async def cancelled(work: Work) -> None:
    work.cancel()
    assert (await work.ended()).outcome is OutcomeKind.CANCELLED


async def taken_back(work: Work) -> None:
    """Cancel a stream whose OPEN waits."""
    work.cancel()
    assert (await work.refused()).message.code == Code.CANCELLED_BY_CLIENT


async def test_connections_share_a_rate_that_others_do_not_feel(
    start: Start, tokens: Path
) -> None:
    token, free = make_token(tokens, "ann"), make_token(tokens, "bob")
    make_token(tokens, "ann", bytes_per_second="400kB")
    data = bytes(300_000)
    async with start(tokens=tokens) as serving:
        begun = time.monotonic()
        ann = [await peer_with(serving, token) for _ in range(2)]
        bob = await peer_with(serving, free)
        works = [peer.upload(f"x{n}", data) for n, peer in enumerate(ann)]
        other = await bob.upload("y", data).ended()
        assert other.outcome is OutcomeKind.COMPLETED
        assert not all(work.outcome for work in works)
        for work in works:
            assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        assert 0.3 < time.monotonic() - begun < 5
        for peer in (*ann, bob):
            await peer.drop()


async def test_everything_but_data_goes_on_while_it_is_held_back(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", bytes_per_second="1000", events_per_second="1")
    free = make_token(tokens, "bob")
    async with start(tokens=tokens) as serving:
        bob, ann = await peer_with(serving, free), await peer_with(serving, token)
        await bob.upload("there", bytes(CHUNK)).ended()
        await bob.publish("there", [b"x"]).ended()
        upload = ann.upload("a", bytes(4 * CHUNK))
        await upload.stored(1)
        why = await waits(ann, upload.stream.resource, "quota")
        assert "(ann) moves more bytes or events a second than its quota" in why
        fetch, follow = ann.fetch("there"), ann.subscribe("logs/there")
        publish = ann.publish("b", [b"x"])
        for work in (fetch, follow):
            await stream_waits(ann, work, "than its quota")
        await pong(ann)
        listed = await ann.request(FrameType.LIST, List("objects/"))
        assert isinstance(listed, Listed)
        for work in (fetch, follow):
            await cancelled(work)
        await taken_back(publish)
        await ann.drop()
        await ann.connect(scheme="bearer", credential=token.encode())  # pays nothing
        await waits(ann, upload.stream.resource, "quota")
        fetch = ann.fetch("there")
        await stream_waits(ann, fetch, "than its quota")
        assert fetch.chunks == {}
        await cancelled(upload)
        assert (await bob.fetch("there").ended()).outcome is OutcomeKind.COMPLETED
        await ann.drop()
        await bob.drop()


async def test_small_files_that_come_with_their_open_keep_to_the_rate(
    start: Start, tokens: Path
) -> None:
    token = make_token(tokens, "ann", bytes_per_second="200kB")
    async with start(tokens=tokens) as serving:
        ann = await peer_with(serving, token)
        begun = time.monotonic()
        works = [
            ann.upload(f"x{n}", bytes(10_000), chunk_size=10_000, early=True)
            for n in range(32)
        ]
        for work in works:
            assert (await work.ended()).outcome is OutcomeKind.COMPLETED
        assert 0.4 < time.monotonic() - begun < 5
        await ann.drop()


async def test_opens_that_would_wait_behind_too_many_are_to_come_back(
    start: Start, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "MOST_OPENING", 2)
    token = make_token(tokens, "ann", bytes_per_second="1000")
    async with start(tokens=tokens) as serving:
        ann = await peer_with(serving, token)
        await ann.upload("a", bytes(4 * CHUNK)).stored(1)
        waiting = [ann.publish(f"log{n}", [b"x"]) for n in range(2)]
        refused = await ann.publish("log2", [b"x"]).refused()
        assert refused.message.code == Code.OVERLOADED
        assert refused.message.retry
        assert refused.message.retry_after > 10
        for work in waiting:
            await taken_back(work)
        ann.publish("log2", [b"x"])
        last = ann.publish("log3", [b"x"])
        await pong(ann)
        assert not last.stream.established  # it waits: what was cancelled is gone
        assert not any(isinstance(each, StreamRefused) for each in last.notices)
        await ann.drop()


def test_debt_is_remembered_until_it_is_paid() -> None:
    known = Rates(Stats())
    ann = Identity("ann", quotas=Quotas(bytes_per_second=1000))
    assert known.bucket_of(Identity("bob")) is None
    bucket = known.bucket_of(ann)
    assert bucket is not None
    bucket.spend(0, 5000, 100.0)
    known.forget({"ann"}, 200.0)
    known.forget(set(), 101.0)
    assert known.bucket_of(ann) is bucket
    known.forget(set(), 104.5)
    assert known.bucket_of(ann) is not bucket


def test_a_quota_that_was_taken_back_limits_nothing() -> None:
    known = Rates(Stats())
    bucket = known.bucket_of(Identity("ann", quotas=Quotas(events_per_second=1)))
    assert bucket is not None
    assert known.bucket_of(Identity("ann")) is bucket
    bucket.spend(10**9, 10**9, 5.0)
    assert bucket.owed(5.0) == 0
