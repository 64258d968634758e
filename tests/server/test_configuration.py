"""Options from flags, environment and file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ackline.server import Address, OptionError, Options
from ackline.server.configuration import load_options

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(
    flags: Mapping[str, str | list[str] | None] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Options:
    return load_options(flags=flags or {}, environment=environment or {}, file=file)


def test_the_defaults_are_those_of_the_readme() -> None:
    options = load()
    assert options.listen == Address("127.0.0.1", 7171)
    assert options.metrics == Address("127.0.0.1", 9171)
    assert options.data_dir == Path("ackline-data")
    assert options.durability == "synced"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "server.toml"
    file.write_text("run_grace = 1\nheartbeat = 2.5\nsession_ttl = 3\n")
    options = load(
        {"session_ttl": "30"},
        {"ACKLINE_SESSION_TTL": "31", "ACKLINE_HEARTBEAT": "20", "ACKLINE_X": "y"},
        file,
    )
    assert (options.run_grace, options.heartbeat, options.session_ttl) == (1, 20, 30)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("listen", "0.0.0.0:1", Address("0.0.0.0", 1)),
        ("listen", "[::1]:7171", Address("::1", 7171)),
        ("metrics", "off", None),
        ("receive_budget", "512MiB", 512 * 2**20),
        ("receive_budget", "1G", 2**30),
        ("max_chunk_size", "4096", 4096),
        ("durability", "written", "written"),
        ("data_dir", "elsewhere", Path("elsewhere")),
        ("drain_seconds", "0.5", 0.5),
        ("run_grace", "2h", 7200.0),
        ("run_grace", "never", math.inf),
        ("run_without_consumer", "pause", "pause"),
    ],
)
def test_values_are_read_as_what_they_are(name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "tells"),
    [
        ("listen", "7171", "is not HOST:PORT"),
        ("listen", "a:99999", "is not HOST:PORT"),
        ("max_chunk_size", "much", "is not a size"),
        ("max_chunk_size", "1023", "between 1024 and"),
        ("max_payload", "2MiB", "between 8192 and 1048576"),
        ("heartbeat", "soon", "is not a number of seconds"),
        ("heartbeat", "nan", "is not a number of seconds"),
        ("heartbeat", "2h", "between 0.05 and 3600"),
        ("durability", "maybe", "is not one of synced, written"),
        ("log_level", "loud", "is not one of debug, info, warning, error"),
        ("log_format", "xml", "is not one of auto, human, json"),
        ("receive_budget", "1MiB", "holds no chunk of max_chunk_size"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_legal(
    name: str, text: str, tells: str
) -> None:
    with pytest.raises(OptionError, match=tells) as caught:
        load({name: text})
    assert name.replace("_", "-") in str(caught.value).replace("_", "-")


@pytest.mark.parametrize(
    ("content", "tells"),
    [
        ("colour = 1", "colour.*does not exist"),
        ("= 1", "is not TOML"),
        ("heartbeat = 'x'", "heartbeat in .*is not a number"),
        ("[exec]\na = ['ls', 'x']", r"exec in .*: \['ls', 'x'\] is not text in quotes"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, content: str, tells: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(content)
    with pytest.raises(OptionError, match=tells):
        load(file=file)


def test_pairs_are_a_table_lines_or_flags(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[follow]\napp = "/a=b"\n"my log" = "c"\n[exec]\nx = "echo {a}"\n')
    follow = (("app", Path("/a=b")), ("my log", Path("c")))
    assert load(file=file).follow == follow
    assert load(file=file).exec == (("x", "echo {a}"),)
    lines = {"ACKLINE_FOLLOW": "app=/a=b\n\n my log = c\n"}
    assert load({}, lines).follow == follow
    assert load({"follow": ["app=/a=b", "my log=c"]}, lines).follow == follow
    assert load({"follow": ["x=y"]}, lines, file).follow == (("x", Path("y")),)
    assert (load().follow, load().exec) == ((), ())


def test_names_are_a_list_lines_or_flags(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('durable = ["a", "b c"]\n')
    assert load(file=file).durable == ("a", "b c")
    lines = {"ACKLINE_DURABLE": "a\n\n b c \n"}
    assert load({}, lines).durable == ("a", "b c")
    assert load({"durable": ["x"]}, lines, file).durable == ("x",)
    assert load().durable == ()
    file.write_text("durable = [1]\n")
    with pytest.raises(OptionError, match="1 is not text in quotes"):
        load(file=file)


@pytest.mark.parametrize("text", ["app", "app=", "=/a", " = "])
def test_a_pair_that_is_none_is_told(text: str) -> None:
    with pytest.raises(OptionError, match=r"--exec: .* is not NAME=VALUE"):
        load({"exec": [text]})


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        load(file=tmp_path / "none.toml")


def test_options_are_checked_in_code_too() -> None:
    wrong: dict[str, Any] = {"max_streams": 0}
    with pytest.raises(OptionError, match="max_streams"):
        Options(**wrong)
