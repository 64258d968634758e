"""Names that try to leave the data folder, over the wire (SPEC.md §4)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ackline.proto.errors import Code
from ackline.server import Server
from tests.server.conftest import options_for
from tests.server.peer import Peer

PARTS = st.sampled_from(
    [
        *"~a*\\\0\n \u00e9\u202e\U0001f600",
        "",
        ".",
        "..",
        "...",
        "etc",
        "C:",
        "%2e%2e",
        "$(id)",
        "a" * 250,
        "objects",
        "records.sqlite3",
    ]
)
NAMES = st.one_of(
    st.lists(PARTS, min_size=1, max_size=6).map("/".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)


def allowed(name: str) -> bool:
    return (
        1 <= len(name.encode()) <= 255
        and all(ord(each) >= 32 and ord(each) != 127 for each in name)
        and name.strip(" ") == name
    )


def outside(folder: Path) -> set[Path]:
    """Return what is in a folder, but not in its data folder."""
    return {each for each in folder.rglob("*") if "data" not in each.parts}


async def use(folder: Path, names: list[str]) -> None:
    async with (
        Server().serve(options_for(folder)) as serving,
        Peer(serving.port) as peer,
    ):
        for name in names:
            body = name.encode()
            up, log = peer.upload(name, body), peer.publish(name, [body])
            if not allowed(name):
                for work in (up, log):
                    assert (await work.refused()).message.code == Code.INVALID_ARGUMENT
                continue
            await up.ended()
            await log.ended()
            down, reader = peer.fetch(name), peer.subscribe(f"logs/{name}")
            await down.ended()
            assert b"".join(down.chunks.values()) == body
            assert (await reader.events(1))[0][2] == body
            for work in (down, reader):
                work.release()


@settings(max_examples=12)
@given(st.lists(NAMES, min_size=5, max_size=20, unique=True))
def test_no_name_leaves_the_data_folder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "in", "it")
        folder.mkdir(parents=True)
        before = outside(Path(base))
        asyncio.run(use(folder, names))
        assert outside(Path(base)) == before
