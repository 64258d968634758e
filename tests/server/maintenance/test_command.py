"""The commands, as people run them."""

from __future__ import annotations

import errno
import os
import pty
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ackline.server import cli
from ackline.server.maintenance import command
from ackline.server.stores.files import Files
from ackline.server.stores.folder import DataFolder
from tests.server.maintenance.test_check import flip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def largest(data: Path) -> Path:
    return max((data / "objects").iterdir(), key=lambda path: path.stat().st_size)


def test_a_check_says_what_it_looked_at(data: Path, run: Run) -> None:
    code, out, err = run("check", "--data-dir", data)
    assert (code, err) == (0, "")
    assert "4 objects" in out
    assert "120 events" in out
    assert out.endswith("nothing is damaged\n")


def test_damage_is_told_with_what_to_do(data: Path, run: Run) -> None:
    flip(largest(data), 5)
    (data / "objects" / "0123").touch()
    code, out, _ = run("check", "--repair", "--data-dir", data)
    assert code == 1
    assert re.search(r"damaged: objects/\w+ \('large', version 1\): .* chunk 0\n", out)
    assert "ackline delete 'objects/large' --version 1" in out
    assert "nothing was repaired" in out
    assert (data / "objects" / "0123").exists()


def test_what_is_left_over_is_repaired_when_asked(data: Path, run: Run) -> None:
    (data / "objects" / "0123").touch()
    code, out, _ = run("check", "--data-dir", data)
    assert (code, "left over: objects/0123" in out) == (0, True)
    code, out, _ = run("check", "--data-dir", data, "--repair")
    assert (code, "repaired: objects/0123" in out) == (0, True)
    code, out, _ = run("check", "--data-dir", data)
    assert (code, "0123" in out) == (0, False)


def test_a_folder_in_use_is_not_checked_but_can_be_copied(
    data: Path, tmp_path: Path, run: Run
) -> None:
    held = DataFolder.existing(data, Files())
    code, _, err = run("check", "--data-dir", data)
    assert (code, "in use by another server" in err) == (2, True)
    code, out, err = run("backup", tmp_path / "copy", "--data-dir", data)
    assert (code, err) == (0, "")
    assert "is copied to" in out
    assert "nothing is damaged" in out
    held.close()
    code, _, err = run("backup", tmp_path / "copy", "--data-dir", data)
    assert (code, "not empty" in err) == (2, True)
    assert run("check", "--data-dir", data)[0] == 0


def test_a_damaged_folder_makes_a_damaged_copy_and_says_so(
    data: Path, tmp_path: Path, run: Run
) -> None:
    flip(largest(data), 5)
    code, out, _ = run("backup", tmp_path / "copy", "--data-dir", data)
    assert (code, "damaged: objects/" in out) == (1, True)


def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    (data / "format").write_text("ackline-data 9\n")
    for words, told in (
        (["check"], "ackline-data does not exist"),
        (["check", "--data-dir", "foreign"], "no data folder"),
        (["check", "--data-dir", str(data)], "has the format 'ackline-data 9'"),
        (["check", "--config", "missing.toml"], "missing.toml"),
        (["backup", "copy"], "no data folder"),
        (["backup", "foreign/file", "--data-dir", str(data)], "file"),
        (["backup", str(data / "copy"), "--data-dir", str(data)], "is inside"),
    ):
        code, out, err = run(*words)
        assert (code, out, told in err) == (2, "", True), err
        assert len(err.splitlines()) == 1
    monkeypatch.setenv("ACKLINE_DATA_DIR", "elsewhere")
    assert "elsewhere does not exist" in run("check")[2]


def test_an_interruption_is_no_traceback(
    data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "check", interrupted)
    assert run("check", "--data-dir", data) == (130, "", "interrupted\n")


def test_an_interrupted_copy_is_no_backup_and_says_so(
    data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    target = tmp_path / "copy"
    monkeypatch.setattr(shutil, "copyfile", full)
    code, _, err = run("backup", target, "--data-dir", data)
    assert code == 2
    assert "No space left on device" in err
    assert f"{target} is no backup: delete it and begin again" in err
    code, _, err = run("check", "--data-dir", target)
    assert (code, "no data folder" in err) == (2, True)


def test_progress_is_shown_on_a_terminal(data: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "ackline.server", "check", "--data-dir", str(data)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert re.search(r"checking: \d+% of \d+ MiB", shown)
    assert shown.endswith("\r\x1b[K")
    assert done.stdout.endswith(b"nothing is damaged\n")


def test_the_help_of_the_server_names_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, what in command.COMMANDS.items():
        assert f"ackline-server {name}: {what}" in told
