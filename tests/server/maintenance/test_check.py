"""`ackline-server check`: every stored byte, and what may be repaired."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ackline.server.maintenance.check import check, stored_bytes
from ackline.server.maintenance.reading import RECORDS, reading
from ackline.server.stores.files import Files
from ackline.server.stores.schema import add_functions
from ackline.server.stores.storage import Storage, StorageOptions
from tests.server.stores.support import Publisher, crash

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.maintenance.findings import Report


OPTIONS = StorageOptions(reserve=0)


def checked(data: Path) -> Report:
    return check(data, Files(), lambda _size: None)


def told(report: Report) -> str:
    return "\n".join(f"{each.where}: {each.problem}" for each in report.damage)


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def content(data: Path) -> object:
    """Return all that the records say, or the error that reading them is."""
    try:
        with reading(data) as connection:
            connection.text_factory = bytes
            tables = connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name"
            ).fetchall()
            return [
                (name, sql, list(connection.execute(f"SELECT * FROM {name.decode()}")))
                for name, sql in tables
            ]
    except (sqlite3.Error, UnicodeError) as error:
        return str(error)


def segments(data: Path, log: str = "log") -> list[Path]:
    with reading(data) as connection:
        (log_id,) = connection.execute(
            "SELECT log_id FROM logs WHERE name = ?", (log,)
        ).fetchone()
    return sorted((data / "logs" / log_id).iterdir())


def change(data: Path, statement: str) -> None:
    """Change the records as a defect would: their checksums are right."""
    with closing(sqlite3.connect(data / RECORDS, isolation_level=None)) as connection:
        add_functions(connection)
        connection.execute(statement)


def test_a_folder_that_is_well(data: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.name != "lock"}
    read: list[int] = []
    report = check(data, Files(), read.append)
    assert (told(report), report.leftovers) == ("", [])
    counts = report.counts
    assert (counts["objects"], counts["uploads"], counts["logs"]) == (4, 1, 4)
    assert counts["events"] == 120
    assert 0.9 < sum(read) / stored_bytes(data) <= 1.01
    after = {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.name != "lock"}
    assert after == before


def test_every_wrong_byte_of_objects_and_logs_is_found(data: Path) -> None:
    """Sampled in large files; the chunks of an open upload are stored bytes too."""
    rng = random.Random(7)
    with reading(data) as connection:
        stored = dict(connection.execute("SELECT object_id, size FROM objects"))
    paths = [*data.glob("objects/*"), *data.glob("logs/*/*")]
    assert len(paths) > 10
    for path in paths:
        size = stored.get(path.name, 196_608 if path.parent.name == "objects" else 0)
        size = size or path.stat().st_size
        if not path.stat().st_size:
            continue
        for at in {0, size - 1, *(rng.randrange(size) for _ in range(3))}:
            flip(path, at, bit := rng.randrange(8))
            report = checked(data)
            assert report.damage, (path, at, bit)
            assert path.name in told(report)
            assert not report.repair()
            flip(path, at, bit)
    assert not checked(data).damage


def test_every_wrong_byte_of_the_records_that_means_something_is_found(
    data: Path,
) -> None:
    """Unused space of the database's pages means nothing."""
    rng = random.Random(8)
    path, right = data / RECORDS, content(data)
    found = meaningless = 0
    for at in sorted(rng.randrange(path.stat().st_size) for _ in range(400)):
        flip(path, at, bit := rng.randrange(8))
        if content(data) != right:
            found += 1
            assert checked(data).damage, (at, bit)
        else:
            meaningless += 1
        flip(path, at, bit)
    assert found > 20
    assert not checked(data).damage


def test_a_wrong_byte_in_the_log_of_writes_is_found(tmp_path: Path) -> None:
    async def made() -> Path:
        async with Storage.open(
            tmp_path / "data", StorageOptions(reserve=0)
        ) as storage:
            for name in "abcdef":
                await storage.logs.open(name)
            return crash(tmp_path / "data", tmp_path / "copy")

    data = asyncio.run(made())
    assert not checked(data).damage
    log = data / f"{RECORDS}-wal"
    size = log.stat().st_size
    rng = random.Random(9)
    frame = 24 + 4096
    # Before the last frame: nobody can tell a torn last one from a wrong one.
    for at in (*range(0, 32, 3), *(rng.randrange(size - frame) for _ in range(20))):
        flip(log, at)
        for shm in data.glob("*-shm"):
            shm.unlink()
        assert "cannot be read" in told(checked(data)), at
        flip(log, at)


@pytest.mark.parametrize(
    ("harm", "where", "problem"),
    [
        ("object missing", "'large', version 1", "its file is missing"),
        ("object cut", "'large', version 1", "instead of 300,000"),
        ("upload missing", "open upload of 'part'", "chunks 0, 1, 2"),
        ("log missing", "'log'", "its folder is missing"),
        ("first segment missing", "", ""),
        ("segment in the middle missing", "'log'", "are missing"),
        ("newest segment missing", "'log'", "events"),
        ("newest segment cut", "'log'", "later records are there|cannot be read"),
        ("strange file", "stranger", "no server made"),
        ("records missing", RECORDS, "missing"),
        ("no database", RECORDS, "not a database"),
    ],
)
def test_what_is_missing_is_told(  # noqa: C901 - one case each
    data: Path, harm: str, where: str, problem: str
) -> None:
    with reading(data) as connection:
        ids = dict(connection.execute("SELECT name, object_id FROM objects"))
        (upload,) = connection.execute(
            "SELECT upload_id FROM uploads WHERE outcome IS NULL"
        ).fetchone()
    parts = segments(data)
    assert len(parts) > 3
    match harm:
        case "object missing":
            (data / "objects" / ids["large"]).unlink()
        case "object cut":
            os.truncate(data / "objects" / ids["large"], 299_999)
        case "upload missing":
            (data / "objects" / upload).unlink()
        case "log missing":
            shutil.rmtree(parts[0].parent)
        case "first segment missing":
            parts[0].unlink()  # retention would do the same
        case "segment in the middle missing":
            parts[1].unlink()
        case "newest segment missing":
            parts[-1].unlink()
        case "newest segment cut":
            os.truncate(parts[-1], parts[-1].stat().st_size - 1)
        case "strange file":
            (parts[0].parent / "stranger").touch()
        case "records missing":
            (data / RECORDS).unlink()
        case _:
            (data / RECORDS).write_bytes(b"no database" * 1000)
    report = checked(data)
    if not problem:
        assert not report.damage
        return
    (finding,) = report.damage
    assert where in finding.where
    assert re.search(problem, finding.problem)
    assert finding.remedy


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE objects SET crc32c = crc32c + 1 WHERE size > 9", "make up the whole"),
        ("UPDATE objects SET digest = x'00' WHERE digest_algorithm = 'sha256'", "sha"),
        ("UPDATE logs SET salt = salt + 1 WHERE name = 'log'", "cannot be read"),
        ("UPDATE logs SET synced_to = 1000 WHERE name = 'log'", "events 114 to 999"),
        ("UPDATE logs SET kinds = '[]' WHERE name = 'log'", "no name"),
        ("DELETE FROM uploads WHERE outcome IS NULL", "no open upload"),
        ("INSERT INTO schema VALUES (2)", "version"),
        ("CREATE TABLE more (x)", "defined otherwise"),
        ("DELETE FROM sessions", "names none of sessions"),
    ],
)
def test_records_that_do_not_fit_are_told(
    data: Path, statement: str, problem: str
) -> None:
    change(data, statement)
    report = checked(data)
    assert problem in told(report)


def test_a_record_that_is_there_twice_is_told(data: Path) -> None:
    newest = segments(data)[-1]
    content = newest.read_bytes()
    last = content.rindex(b"AcB1")
    with newest.open("ab") as file:
        file.write(content[last:])
    assert "is missing" in told(checked(data))


def test_what_a_crash_leaves_is_no_damage_and_is_repaired(data: Path) -> None:
    (data / "objects" / "0123").write_bytes(b"orphan")
    orphan = data / "logs" / "4567"
    orphan.mkdir()
    (orphan / f"{0:020}.log").touch()
    newest = segments(data)[-1]
    size = newest.stat().st_size
    with newest.open("ab") as file:
        file.write(newest.read_bytes()[:150])
    (empty,) = segments(data, "sealed")
    begun = empty.with_name(f"{1:020}.log")
    begun.write_bytes(bytes(4096))
    report = checked(data)
    assert told(report) == ""
    assert [each.where.split(" ")[0] for each in report.leftovers][:2] == [
        "objects/0123",
        f"logs/{newest.parent.name}",
    ]
    assert len(report.repair()) == 4
    assert (newest.stat().st_size, begun.exists(), orphan.exists()) == (
        size,
        False,
        False,
    )
    report = checked(data)
    assert not report.damage + report.leftovers


def test_nothing_is_repaired_where_something_is_damaged(data: Path) -> None:
    orphan = data / "objects" / "0123"
    orphan.write_bytes(b"perhaps acknowledged")
    change(data, "UPDATE objects SET crc32c = crc32c + 1 WHERE size > 9")
    report = checked(data)
    assert report.leftovers
    assert not report.repair()
    assert orphan.exists()


def test_a_last_write_that_may_have_been_acknowledged_is_not_touched(
    tmp_path: Path,
) -> None:
    """Whole by its length, wrong by its bytes, after a crash: nobody can tell."""

    async def made() -> Path:
        async with Storage.open(
            tmp_path / "data", StorageOptions(reserve=0)
        ) as storage:
            log = await storage.logs.open("log")
            publisher = Publisher(log)
            for number in range(3):
                body = b"\0\0\0\1\0\0\0\4" + bytes([number] * 4)
                append = publisher.batch(body)
                log.append(append)
                await log.flush()
            return crash(tmp_path / "data", tmp_path / "copy")

    data = asyncio.run(made())
    (segment,) = segments(data)
    before = segment.read_bytes()
    flip(segment, len(before) - 1)
    report = checked(data)
    assert "or it was acknowledged" in told(report)
    assert not report.repair()
    assert len(segment.read_bytes()) == len(before)


def test_a_million_findings_are_counted(data: Path) -> None:
    for number in range(1100):
        (data / "objects" / f"{number:04}").touch()
    report = checked(data)
    assert (len(report.leftovers), report.unlisted) == (1000, 100)
