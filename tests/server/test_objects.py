"""Objects: versions and metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_METADATA, MIN_PAYLOAD
from ackline.proto.messages import (
    Delete,
    Entry,
    Error,
    Existing,
    List,
    Listed,
    OutcomeKind,
    Status,
    StatusReport,
)
from tests.server.peer import LIMITS, Peer

if TYPE_CHECKING:
    from tests.server.conftest import Start


async def version(
    peer: Peer, name: str, data: bytes, **metadata: object
) -> OutcomeKind:
    work = peer.upload(
        name, data, existing=Existing.ADD_VERSION, parameters=dict(metadata)
    )
    return OutcomeKind((await work.ended()).outcome)


async def status(peer: Peer, target: str, number: int = 0) -> StatusReport | Error:
    report = await peer.request(FrameType.STATUS, Status(target, number))
    assert isinstance(report, StatusReport | Error)
    return report


async def all_versions(peer: Peer, prefix: str, limit: int) -> list[Entry]:
    found: list[Entry] = []
    message = List(prefix, limit=limit, versions=True)
    while True:
        page = await peer.request(FrameType.LIST, message)
        assert isinstance(page, Listed), page
        found += page.entries
        if not page.after:
            return found
        message = structs.replace(
            message, after=page.after, after_version=page.after_version
        )


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_every_version_is_listed_page_by_page(start: Start, limit: int) -> None:
    """SPEC.md §19."""
    async with start() as serving, Peer(serving.port) as peer:
        for name, count in (("a", 3), ("ab", 1), ("b", 2)):
            for number in range(count):
                await version(peer, name, b"x" * number, number=number)
        found = await all_versions(peer, "objects/a", limit)
        assert [(e.resource, e.facts["version"], e.size) for e in found] == [
            ("objects/a", 1, 0),
            ("objects/a", 2, 1),
            ("objects/a", 3, 2),
            ("objects/ab", 1, 0),
        ]
        assert [entry.metadata for entry in found[:3]] == [
            {"number": 0},
            {"number": 1},
            {"number": 2},
        ]


async def test_status_tells_of_each_version(start: Start) -> None:
    async with start() as serving, Peer(serving.port) as peer:
        await version(peer, "a", b"one", by="me")
        await version(peer, "a", b"other")
        newest, first = (
            await status(peer, "objects/a"),
            await status(peer, "objects/a", 1),
        )
        assert isinstance(newest, StatusReport)
        assert isinstance(first, StatusReport)
        assert (newest.facts["version"], newest.metadata) == (2, {})
        assert (first.facts["size"], first.metadata) == (3, {"by": "me"})
        missing = await status(peer, "objects/a", 3)
        assert isinstance(missing, Error)
        assert (missing.code, missing.text) == (
            Code.NOT_FOUND,
            "there is no objects/a version 3",
        )
        gone = await peer.request(FrameType.DELETE, Delete("objects/a", 3))
        assert isinstance(gone, Error)
        assert gone.text == "there is no version 3 of object 'a'"
        other = await status(peer, "logs/a", 1)
        assert isinstance(other, Error)
        assert other.code == Code.INVALID_ARGUMENT


async def test_metadata_fits_whatever_carries_it(start: Start) -> None:
    """SPEC.md §6."""
    small = structs.replace(LIMITS, max_payload=MIN_PAYLOAD)
    fits: dict[str, object] = {
        "text": "x" * (MAX_METADATA - len(b"\x81\xa4text\xda__"))
    }
    async with start() as serving, Peer(serving.port, limits=small) as peer:
        after = ""
        for name in ("a" * 255, "b" * 255):
            outcome = await peer.upload(name, b"x", parameters=fits).ended()
            assert outcome.object is not None
            assert outcome.object.metadata == fits
        for name in ("a" * 255, "b" * 255):
            page = await peer.request(FrameType.LIST, List("objects/", after))
            assert isinstance(page, Listed)
            assert [each.resource for each in page.entries] == [f"objects/{name}"]
            assert page.entries[0].metadata == fits
            after = page.after
        assert not after
        fetched = peer.fetch("a" * 255)
        assert (await fetched.ended()).outcome == OutcomeKind.COMPLETED
        fits["more"] = ""
        error = (await peer.upload("b", b"x", parameters=fits).refused()).message
        assert error.code == Code.LIMIT_EXCEEDED
        assert "at most 4096" in error.text
