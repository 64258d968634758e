from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ackline.server.stores.errors import Corrupt
from ackline.server.stores.files import Files
from ackline.server.stores.logrecovery import Contents, recover
from ackline.server.stores.storage import Storage
from tests.server.stores.support import Publisher


class NoSync(Files):
    """Recovery syncs for a crash that this test does not have."""

    def fdatasync(self, fd: int) -> None:
        pass


@dataclass(frozen=True)
class Original:
    """A segment of six groups: a checkpoint and 2 batches, then 3, 4, 5, 6, 7."""

    content: bytes
    salt: int
    ends: list[tuple[int, int]]  # (bytes, next id) after each group
    folder: Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    data: Path = tmp_path_factory.mktemp("data")

    async def build() -> list[tuple[int, int]]:
        ends: list[tuple[int, int]] = []
        async with Storage.open(data) as storage:
            log = await storage.logs.open("events")
            publisher = Publisher(log)
            for group in range(6):
                for number in range(2 + group):
                    log.append(publisher.batch(bytes(number * 40)))
                await log.flush()
                ends.append((log.size, log.next_id))
        return ends

    ends = asyncio.run(build())
    (segment,) = data.glob("logs/*/*.log")
    connection = sqlite3.connect(data / "records.sqlite3")
    (salt,) = connection.execute("SELECT salt FROM logs").fetchone()
    connection.close()
    folder = tmp_path_factory.mktemp("log")
    return Original(segment.read_bytes(), salt, ends, folder)


def reopen(original: Original, content: bytes, synced_to: int = 0) -> Contents:
    path = original.folder / f"{0:020}.log"
    path.write_bytes(content)
    contents = recover(
        NoSync(), original.folder, salt=original.salt, publishers=9, synced_to=synced_to
    )
    if contents.segments:
        assert path.read_bytes() == content[: contents.segments[0].size]
        again = recover(
            NoSync(),
            original.folder,
            salt=original.salt,
            publishers=9,
            synced_to=synced_to,
        )
        assert (again.next_id, again.truncated_bytes) == (contents.next_id, 0)
    return contents


same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@same_folder
def test_any_cut_keeps_every_group_before_it(
    original: Original, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(original.content)))
    contents = reopen(original, original.content[:cut])
    kept = [next_id for size, next_id in original.ends if size <= cut]
    assert contents.next_id >= (kept[-1] if kept else 0)
    state = contents.publishers.find("producer")
    assert (state.position if state else 0) == contents.next_id
    if contents.segments:
        assert contents.segments[0].size + contents.truncated_bytes == cut


@given(data=st.data(), garbage=st.binary(min_size=1, max_size=200))
@same_folder
def test_bytes_of_the_last_group_may_be_anything(
    original: Original, data: st.DataObject, garbage: bytes
) -> None:
    group = data.draw(st.integers(1, 5))
    begin, acknowledged = original.ends[group - 1]
    end, last = original.ends[group]
    content = bytearray(original.content[:end])
    at = data.draw(st.integers(begin, end - 1))
    content[at : at + len(garbage)] = garbage[: end - at]
    contents = reopen(original, bytes(content))
    assert acknowledged <= contents.next_id <= last


@given(data=st.data())
@same_folder
def test_a_wrong_byte_in_an_earlier_group_is_damage(
    original: Original, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, original.ends[-2][0] - 1))
    content = bytearray(original.content)
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Corrupt) as corrupt:
        reopen(original, bytes(content))
    assert corrupt.value.offset <= at
    # Nothing was cut off: a person may want to look at it.
    assert (original.folder / f"{0:020}.log").read_bytes() == content


@given(data=st.data())
@same_folder
def test_what_the_records_say_was_synced_is_missed(
    original: Original, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(original.content) - 1))
    content = original.content[:cut]
    with pytest.raises(Corrupt, match="lacks events"):
        reopen(original, content, original.ends[-1][1])
    assert (original.folder / f"{0:020}.log").read_bytes() == content


def test_files_that_are_gone_are_missed(original: Original, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="missing"):
        recover(NoSync(), tmp_path, salt=original.salt, publishers=9, synced_to=1)
    found = recover(NoSync(), tmp_path, salt=original.salt, publishers=9, synced_to=0)
    assert found.next_id == 0
