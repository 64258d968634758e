"""Uploads through a real server (SPEC.md §9, §10, §14)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    End,
    Existing,
    Intent,
    OutcomeKind,
    Status,
    StatusReport,
)
from ackline.server.stores.chunks import FileChunks
from tests.server.peer import Peer, Work

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start

DATA = os.urandom(300_000)


def object_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data" / "objects").iterdir())


def content(work: Work) -> bytes:
    return b"".join(work.chunks[index] for index in sorted(work.chunks))


async def test_an_upload_becomes_an_object_that_can_be_fetched(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a/b", DATA, parameters={"colour": "red"})
        outcome = await up.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert outcome.object is not None
        assert outcome.object.size == len(DATA)
        assert outcome.object.crc == crc32c(DATA)
        assert outcome.object.metadata == {"colour": "red"}
        down = peer.fetch("a/b")
        assert (await down.ended()).outcome is OutcomeKind.COMPLETED
        assert content(down) == DATA


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 65_536, 65_537, 131_072])
@pytest.mark.parametrize("known", [True, False])
async def test_every_size_arrives_whole(start: Start, size: int, known: bool) -> None:
    data = os.urandom(size)
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("x", data, chunk_size=1024, size=size if known else None)
        outcome = await up.ended()
        assert outcome.outcome is OutcomeKind.COMPLETED, outcome
        down = peer.fetch("x", chunk_size=4096)
        await down.ended()
        assert content(down) == data


async def test_a_tiny_file_is_sent_without_waiting_for_the_answer(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("tiny", b"hello", early=True)
        assert (await up.ended()).outcome is OutcomeKind.COMPLETED


def put_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each object made in one step."""
    made: list[str] = []
    put = FileChunks.put

    async def noted(
        self: FileChunks, parameters: Any, *args: Any, **kwargs: Any
    ) -> Any:
        record = await put(self, parameters, *args, **kwargs)
        made.append(parameters.name)
        return record

    monkeypatch.setattr(FileChunks, "put", noted)
    return made


@pytest.mark.parametrize("size", [0, 1, 1024, 2500])
@pytest.mark.parametrize("known", [True, False])
async def test_what_is_there_before_it_is_opened_is_made_in_one_step(
    start: Start, size: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, made = os.urandom(size), put_calls(monkeypatch)
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload(
            "a",
            data,
            key="k",
            early=True,
            chunk_size=1024,
            size=size if known else None,
            parameters={"colour": "red"},
        )
        outcome = await up.ended()
        assert made == ["a"]
        assert outcome.outcome is OutcomeKind.COMPLETED
        assert outcome.object is not None
        assert (outcome.object.size, outcome.object.crc) == (size, crc32c(data))
        assert outcome.object.metadata == {"colour": "red"}
        opened = (await up.opened()).message
        assert not opened.existing
        assert opened.standing.position == 0
        assert opened.id == f"uploads/{outcome.object.object_id}"
        again = peer.upload(
            "a",
            data,
            key="k",
            chunk_size=1024,
            size=size if known else None,
            parameters={"colour": "red"},
        )
        assert (await again.opened()).message.existing
        assert await again.ended() == outcome
        down = peer.fetch("a")
        await down.ended()
        assert content(down) == data


async def test_what_has_no_key_is_opened_before_it_is_stored(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put_calls(monkeypatch)
    async with start() as serving, Peer(serving.port) as peer:
        outcome = await peer.upload("a", b"hello", early=True).ended()
        assert outcome.outcome is OutcomeKind.COMPLETED
        digest = await peer.upload(
            "b", b"hello", early=True, key="k", algorithm="sha256"
        ).ended()
        assert digest.outcome is OutcomeKind.COMPLETED
    assert made == []


async def test_what_is_there_at_once_and_not_as_stated_fails(
    start: Start, tmp_path: Path
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload(
            "a", b"hello", early=True, key="k", digest=(7).to_bytes(4, "big")
        )
        outcome = await up.ended()
        assert outcome.outcome is OutcomeKind.FAILED
        assert outcome.code == Code.DIGEST_MISMATCH
    assert object_files(tmp_path) == []


async def test_an_ended_key_answers_with_its_outcome(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        first = await peer.upload("a", DATA, key="k").ended()
        again = peer.upload("a", DATA, key="k")
        opened = (await again.opened()).message
        assert opened.existing
        assert opened.standing.outcome == first
        assert await again.ended() == first


async def test_a_key_with_other_parameters_is_a_conflict(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", DATA, key="k").ended()
        other = peer.upload("a", DATA[:-1], key="k")
        assert (await other.refused()).message.code == Code.KEY_CONFLICT


async def test_opening_with_the_same_key_moves_the_upload(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as old, Peer(serving.port) as new:
        first = old.upload("a", DATA, key="k", end=False)
        await first.stored(5)
        second = new.upload("a", DATA, key="k")
        assert (await first.error()).message.code == Code.MOVED
        opened = (await second.opened()).message
        assert opened.existing
        assert opened.standing.position == 5
        assert opened.standing.epoch > (await first.opened()).message.standing.epoch
        assert (await second.ended()).outcome is OutcomeKind.COMPLETED
        assert second.stream.sender is not None
        assert second.stream.sender.sent_units == 0


async def test_a_resumed_upload_sends_nothing_twice(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, end=False)
        await up.stored(3)
        await peer.drop()
        await peer.connect()
        sender = up.stream.sender
        assert sender is not None
        sender.finish(End(Intent.COMPLETED, 0, "", size=len(DATA), crc=crc32c(DATA)))
        assert (await up.ended()).outcome is OutcomeKind.COMPLETED
        assert sender.sent_units <= 5 + sender.replayed_units
        await peer.drop()


async def test_an_upload_goes_on_after_a_restart(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA, end=False)
        await up.stored(5)
        await peer.drop()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        sender = up.stream.sender
        assert sender is not None
        sender.finish(End(Intent.COMPLETED, 0, "", size=len(DATA), crc=crc32c(DATA)))
        assert (await up.ended()).outcome is OutcomeKind.COMPLETED
        assert sender.sent_units == 5
        await peer.drop()


async def test_an_outcome_is_told_after_a_restart(start: Start) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        up = peer.upload("a", DATA)
        outcome = await up.ended()
        await asyncio.sleep(0.1)
        await peer.drop()
    up.stream.outcome = None  # as if it had been lost on the way
    up.notices.clear()
    async with start() as serving:
        peer.port = serving.port
        await peer.connect()
        assert await up.ended() == outcome
        await peer.drop()


async def test_cancel_deletes_what_was_stored(start: Start, tmp_path: Path) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False)
        await up.stored(2)
        up.cancel()
        outcome = await up.ended()
        assert outcome.outcome is OutcomeKind.CANCELLED
        assert outcome.code == Code.CANCELLED_BY_CLIENT
        assert outcome.position >= 2
        assert object_files(tmp_path) == []


async def test_a_changed_file_commits_nothing(start: Start, tmp_path: Path) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False)
        await up.stored(2)
        assert up.stream.sender is not None
        up.stream.sender.fail(Code.SOURCE_CHANGED, "it changed")
        outcome = await up.ended()
        assert (outcome.outcome, outcome.code) == (
            OutcomeKind.FAILED,
            Code.SOURCE_CHANGED,
        )
        assert object_files(tmp_path) == []
        # It says retry, so the same key starts anew.
        again = peer.upload("a", DATA, key="k", end=False)
        await again.stored(1)
        assert again.stream.sender is not None
        again.stream.sender.fail(Code.SOURCE_CHANGED, "it changed")
        await again.ended()
        third = peer.upload("a", DATA, key="k")
        assert not (await third.opened()).message.existing
        assert (await third.ended()).outcome is OutcomeKind.COMPLETED


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (End(Intent.COMPLETED, 0, "", size=1, crc=0), Code.SIZE_MISMATCH),
        (End(Intent.COMPLETED, 0, "", size=300_000, crc=0), Code.DIGEST_MISMATCH),
    ],
)
async def test_what_does_not_verify_is_not_committed(
    start: Start, tmp_path: Path, end: End, code: Code
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False)
        assert up.stream.sender is not None
        up.stream.sender.finish(end)
        outcome = await up.ended()
        assert (outcome.outcome, outcome.code) == (OutcomeKind.FAILED, code)
        assert object_files(tmp_path) == []


async def test_an_existing_name_is_refused_replaced_or_versioned(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await peer.upload("a", b"1").ended()
        refused = peer.upload("a", b"2")
        assert (await refused.refused()).message.code == Code.ALREADY_EXISTS
        replaced = await peer.upload("a", b"3", existing=Existing.REPLACE).ended()
        added = await peer.upload("a", b"4", existing=Existing.ADD_VERSION).ended()
        assert replaced.object is not None
        assert added.object is not None
        assert added.object.version == replaced.object.version + 1
        old = peer.fetch("a", version=replaced.object.version)
        await old.ended()
        assert content(old) == b"3"


@pytest.mark.parametrize(
    ("name", "detail", "code"),
    [
        ("a", {"chunk_size": 2**25}, Code.INVALID_ARGUMENT),
        ("a", {"chunk_size": 1000}, Code.INVALID_ARGUMENT),
        ("a", {"algorithm": "md5"}, Code.UNSUPPORTED),
        ("a", {"durability": 3}, Code.UNSUPPORTED),
        (" a", {}, Code.INVALID_ARGUMENT),
        ("a", {"key": "k" * 256}, Code.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_uploaded_is_refused(
    start: Start, name: str, detail: dict[str, object], code: Code
) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload(name, DATA, **detail)  # type: ignore[arg-type]
        assert (await up.refused()).message.code == code
        # The refusal hit the stream only.
        assert (await peer.upload("b", b"x").ended()).object is not None


async def test_a_deadline_fails_an_upload(start: Start, tmp_path: Path) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False, deadline=0.2)
        outcome = await up.ended()
        assert outcome.code == Code.DEADLINE_EXCEEDED
        assert object_files(tmp_path) == []


async def test_status_says_why_an_upload_is_not_moving(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, end=False)
        await up.stored(5)
        report = await peer.request(FrameType.STATUS, Status(up.stream.resource))
        assert isinstance(report, StatusReport)
        assert report.state == "STREAMING"
        assert report.reasons == ("nothing_to_send",)
        assert report.facts["position"] == 5
        await peer.drop()
        async with Peer(serving.port) as other:
            report = await other.request(FrameType.STATUS, Status(up.stream.resource))
            assert isinstance(report, StatusReport)
            assert (report.state, report.reasons) == ("PAUSED", ("disconnected",))


async def test_hundreds_of_uploads_share_a_connection(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        works = [peer.upload(f"n{number}", b"x" * number) for number in range(300)]
        for work in works:
            await work.ended()
        assert {work.outcome.outcome for work in works if work.outcome} == {
            OutcomeKind.COMPLETED
        }


async def test_a_released_upload_is_continued_by_its_key(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        up = peer.upload("a", DATA, key="k", end=False)
        await up.stored(5)
        up.release()
        again = peer.upload("a", DATA, key="k")
        assert (await again.opened()).message.standing.position == 5
        assert (await again.ended()).outcome is OutcomeKind.COMPLETED


async def test_a_released_upload_without_a_key_leaves_nothing(
    start: Start, tmp_path: Path
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        released = peer.upload("a", DATA, end=False)
        unnamed = peer.upload("b", DATA, end=False)
        await released.stored(3)
        await unnamed.stored(3)
        released.release()
        await peer.drop()
        peer.session.forget(unnamed.stream)
        await peer.connect()
        async with asyncio.timeout(50):
            while object_files(tmp_path):
                await asyncio.sleep(0.01)
        await peer.drop()


async def test_a_connection_lost_before_the_answer_leaves_nothing(
    start: Start, tmp_path: Path
) -> None:
    async with start() as serving:
        peer = await Peer(serving.port).connect()
        for number in range(20):
            peer.upload(f"a{number}", b"x" * 1000, early=True, end=False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await peer.drop()
        peer.session.streams.clear()
        await peer.connect()
        async with asyncio.timeout(50):
            while object_files(tmp_path):
                await asyncio.sleep(0.01)
        await peer.drop()
