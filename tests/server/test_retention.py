"""Retention of objects: by age and total size, for each pattern of names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ackline.proto.errors import Code
from ackline.proto.frames import FrameType
from ackline.proto.messages import Existing, List, Listed
from ackline.server import CommittedObject, OptionError, Options, Server
from ackline.server.configuration import load_options
from ackline.server.retention import Rule, parse_rules
from tests.server.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start

DATA = bytes(range(256)) * 1024


async def names(peer: Peer) -> list[str]:
    page = await peer.request(FrameType.LIST, List("objects/", versions=True))
    assert isinstance(page, Listed)
    return [
        f"{entry.resource.removeprefix('objects/')} {entry.facts['version']!r}"
        for entry in page.entries
    ]


async def until(peer: Peer, *expected: str) -> None:
    async with asyncio.timeout(50):
        while await names(peer) != list(expected):
            await asyncio.sleep(0.01)


async def files(folder: Path, count: int) -> None:
    """Wait until so many files are left: they go after their records."""
    async with asyncio.timeout(50):
        while len(list((folder / "data" / "objects").iterdir())) != count:
            await asyncio.sleep(0.01)


def keep(*rules: tuple[str, str]) -> dict[str, Any]:
    return {"object_retention": rules, "cleanup_interval": 0.05}


async def test_what_is_too_old_goes_and_other_names_stay(
    start: Start, tmp_path: Path
) -> None:
    rules = (("tmp/keep*", "max-age=1h"), ("tmp/*", "max-age=0.3"))
    async with start(**keep(*rules)) as serving, Peer(serving.port) as peer:
        for name in ("tmp/a", "tmp/keep", "tmpb"):
            await peer.upload(name, b"x").ended()
        assert await names(peer) == ["tmp/a 1", "tmp/keep 1", "tmpb 1"]
        await until(peer, "tmp/keep 1", "tmpb 1")
        await files(tmp_path, 2)


async def test_the_oldest_go_when_all_together_are_too_much(
    start: Start, tmp_path: Path
) -> None:
    """Each version for itself, and pages of any size give the same."""
    async with start() as serving, Peer(serving.port) as peer:
        for number in range(7):
            name = "a" if number % 2 else "b"
            data = bytes(1000 + number)
            work = peer.upload(name, data, existing=Existing.ADD_VERSION)
            await work.ended()
        await peer.upload("other", bytes(5000)).ended()
    rules = (("other", "max-size=1M"), ("*", "max-size=3100,max-age=1h"))
    async with start(**keep(*rules)) as serving, Peer(serving.port) as peer:
        await until(peer, "a 3", "b 3", "b 4", "other 1")
        await files(tmp_path, 4)


async def test_pages_are_looked_at_one_after_the_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ackline.server.retention.PAGE", 2)
    async with (
        start(**keep(("*", "max-size=10"))) as serving,
        Peer(serving.port) as peer,
    ):
        for work in [peer.upload(f"a{n}", b"x") for n in range(25)]:
            await work.ended()
        async with asyncio.timeout(50):
            while len(await names(peer)) != 10:
                await asyncio.sleep(0.01)


async def test_who_is_fetching_what_expires_reads_on(
    start: Start, tmp_path: Path
) -> None:
    """SPEC.md §19: as with DELETE."""
    async with (
        start(**keep(("*", "max-age=0.2"))) as serving,
        Peer(serving.port) as peer,
    ):
        await peer.upload("a", DATA).ended()
        work = peer.fetch("a", chunk_size=16_384, take=False)
        await work.opened()
        await until(peer)
        await files(tmp_path, 0)
        await peer.drop()
        await peer.connect()
        work.go_on()
        await work.ended()
        assert b"".join(work.chunks[n] for n in sorted(work.chunks)) == DATA
        refused = (await peer.fetch("a").refused()).message
        assert refused.code == Code.NOT_FOUND


async def test_what_a_sink_has_not_taken_is_kept(start: Start) -> None:
    server, go = Server(), asyncio.Event()

    @server.sink("a")
    async def take(_thing: CommittedObject) -> None:
        await go.wait()

    async with (
        start(server, **keep(("*", "max-age=0"))) as serving,
        Peer(serving.port) as peer,
    ):
        await peer.upload("a", b"x").ended()
        await peer.upload("b", b"x").ended()
        await until(peer, "a 1")
        go.set()
        await until(peer)


def test_rules_are_read() -> None:
    assert parse_rules(
        [("a/*", "max-age=7d"), ("b", "max-size=1GiB"), ("*", "max-size=5,max-age=1")]
    ) == (
        Rule("a/*", 604_800.0, None),
        Rule("b", None, 2**30),
        Rule("*", 1.0, 5),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("7d", "it is max-age=7d"),
        ("", "it is max-age=7d"),
        ("max-age=1d,max-age=2d", "it is max-age=7d"),
        ("max-age=soon", "is not a number of seconds"),
        ("max-size=much", "is not a size"),
    ],
)
def test_a_wrong_rule_says_what_is_right(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=f"object_retention.*{says}"):
        Options(object_retention=(("tmp/*", text),))


def test_rules_are_flags_a_table_or_lines(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[object_retention]\n"tmp/*" = "max-age=7d"\n"*" = "max-size=1G"\n')
    rules = (("tmp/*", "max-age=7d"), ("*", "max-size=1G"))
    flags = [f"{pattern}={limits}" for pattern, limits in rules]
    variable = {"ACKLINE_OBJECT_RETENTION": "\n".join(flags)}
    for options in (
        load_options(flags={"object_retention": flags}, environment={}, file=None),
        load_options(flags={}, environment=variable, file=None),
        load_options(flags={}, environment={}, file=file),
    ):
        assert options.object_retention == rules
