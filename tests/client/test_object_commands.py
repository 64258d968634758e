"""What the command line says of objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ackline.client.cli.values import key_value, metadata_texts
from ackline.proto.checksums import crc32c
from tests.client.processes import command

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.proto.values import Value
    from tests.client.processes import ServerProcess


async def test_versions_and_metadata_are_shown(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "file"
    to = f"--server={server.url}"
    for text in ("one", "other"):
        file.write_text(text)
        words = ["upload", str(file), name, "--existing=version", "--metadata=n=1"]
        done = await command(
            to, *words, f"--metadata=title={text} text", folder=tmp_path
        )
        assert done.code == 0, done.errors
    done = await command(to, "list", f"objects/{name}", "--versions", folder=tmp_path)
    first, second = done.out.splitlines()
    assert first.endswith("version 1 n=1 title=one text")
    assert second.endswith("version 2 n=1 title=other text")
    done = await command(
        to, "--json", "status", f"objects/{name}", "--version=1", folder=tmp_path
    )
    assert done.lines[0]["facts"]["digest"] == f"crc32c:{crc32c(b'one'):08x}"
    assert done.lines[0]["metadata"] == {"n": 1, "title": "one text"}
    done = await command(to, "status", f"objects/{name}", folder=tmp_path)
    assert "  version: 2\n" in done.out
    assert done.out.endswith("  metadata: n=1\n  metadata: title=other text\n")
    done = await command(
        to, "--json", "fetch", name, str(file), "--version=1", folder=tmp_path
    )
    assert done.lines[0]["metadata"] == {"n": 1, "title": "one text"}
    assert file.read_text() == "one"


async def test_options_may_stand_between_and_behind_the_words(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    for text in ("one", "other"):
        (tmp_path / "file").write_text(text)
        done = await command(
            *("upload", "--existing=version", f"--server={server.url}", "--"),
            *(str(tmp_path / "file"), f"-{name}"),
            folder=tmp_path,
        )
        assert done.code == 0, done.errors
    done = await command(
        *("upload", str(tmp_path / "file"), "--quiet", name),
        f"--server={server.url}",
        folder=tmp_path,
    )
    assert done.code == 0, done.errors
    done = await command(
        *("fetch", name, "--version", "1", str(copy), f"--server={server.url}"),
        folder=tmp_path,
    )
    assert done.code == 0, done.errors
    assert copy.read_text() == "other"
    done = await command("fetch", name, "copy", "--quiet", "more", folder=tmp_path)
    assert done.code == 2
    assert "unrecognized arguments: more" in done.errors


async def test_a_range_has_the_digest_of_what_was_fetched(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    data = bytes(range(256)) * 32
    (tmp_path / "file").write_bytes(data)
    to, file = f"--server={server.url}", str(tmp_path / "part")
    await command(
        to, "upload", str(tmp_path / "file"), name, "--digest=sha256", folder=tmp_path
    )
    done = await command(
        to, "fetch", name, file, "--start=4K", "--length=1KiB", folder=tmp_path
    )
    part = data[4096:5120]
    assert (tmp_path / "part").read_bytes() == part
    assert done.out == (
        f"fetched {name} into {file}: 1.0 KiB of 8.0 KiB, crc32c:{crc32c(part):08x}\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "x=5"),
        ("5", 'x="5"'),
        ("five", "x=five"),
        ("ä b", "x=ä b"),
        (True, "x=true"),
        ("true", 'x="true"'),
        (None, "x=null"),
        (0.5, "x=0.5"),
        ("", "x="),
        ('"', 'x="'),
        ('"a"', 'x="\\"a\\""'),
    ],
)
def test_metadata_is_shown_as_it_is_given(value: Value, text: str) -> None:
    assert metadata_texts({"x": value}) == [text]
    assert key_value(text) == ("x", value)


def test_metadata_that_cannot_be_given_is_shown_too() -> None:
    assert metadata_texts({"x": b"\x01\xff"}) == ["x=01ff"]
    assert metadata_texts({"\r": "a\n\x1b[2J\x9b"}) == [r"\r=a\n\u001b[2J\u009b"]
