"""Commands with places for what clients send."""

from __future__ import annotations

from typing import Any

import pytest

from ackline.server.commands import Command


def test_a_place_is_one_argument_whatever_is_sent() -> None:
    command = Command("echo -n '{text}' \"two words\" {text}s --as={name}")
    assert command.parameters == ["text", "name"]
    evil = "a b; $(rm) `rm` \n'\" {name}"
    assert command.arguments({"text": evil, "name": "-x"}) == [
        "echo",
        "-n",
        evil,
        "two words",
        f"{evil}s",
        "--as=-x",
    ]


def test_numbers_and_truth_are_passed_as_they_are_typed() -> None:
    command = Command("echo {a} {b} {c}")
    values: dict[str, Any] = {"a": 5, "b": True, "c": False}
    assert command.arguments(values) == ["echo", "5", "true", "false"]


def test_braces_that_are_no_place_stay() -> None:
    command = Command('echo {} { } {1} \'{print $1}\' {{name}} {{"a":{"b":1}} {x-y}')
    assert command.parameters == []
    assert command.arguments({}) == [
        *("echo", "{}", "{", "}", "{1}", "{print $1}", "{name}"),
        *("{{a:{b:1}}", "{x-y}"),
    ]


@pytest.mark.parametrize(
    ("values", "tells"),
    [
        ({}, "the parameter 'target' is missing; it takes target"),
        ({"target": "a", "more": "b"}, "no parameter 'more'; it takes target"),
        ({"target": "--eval=$(rm)"}, "'target' must not begin with '-'"),
        ({"target": -5}, "'target' must not begin with '-'"),
        ({"target": "a\0b"}, "'target' must not contain a NUL"),
        ({"target": 1.1}, "'target' came as 1.1: send it as text"),
        ({"target": None}, "'target' came as None"),
        ({"target": b"bytes"}, "send it as text"),
    ],
)
def test_what_cannot_be_passed_safely_is_refused(
    values: dict[str, Any], tells: str
) -> None:
    with pytest.raises(ValueError, match="parameter") as caught:
        Command("echo {target}").arguments(values)
    assert tells in str(caught.value)


def test_an_option_cannot_be_put_together_from_two_places() -> None:
    with pytest.raises(ValueError, match="'a' must not begin with '-'"):
        Command("echo {a}{b}").arguments({"a": "", "b": "-x"})


def test_after_two_hyphens_nothing_is_an_option() -> None:
    command = Command("echo -- {text}")
    assert command.arguments({"text": "-x"}) == ["echo", "--", "-x"]
    with pytest.raises(ValueError, match="must not begin"):
        Command("echo {a} {b}").arguments({"a": "--", "b": "-x"})


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("", "there is no command"),
        ("echo 'a", "cannot be split into words: No closing quotation"),
        ("{program} a", "the client cannot choose the program"),
        ("ech0 a", "there is no program 'ech0' that can be run here"),
        ("sh -c 'echo {text}'", "a shell would run what the client sends"),
        ("env -i /bin/sh -ec 'echo {text}'", "a shell would run"),
    ],
)
def test_what_is_no_command_is_told(text: str, tells: str) -> None:
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        Command(text)
    assert tells in str(caught.value)


def test_a_shell_gets_parameters_as_its_arguments() -> None:
    command = Command("sh -c 'echo \"$1\"; echo {{text}}' sh {text}")
    assert command.arguments({"text": "$(rm)"}) == [
        *("sh", "-c", 'echo "$1"; echo {text}', "sh", "$(rm)")
    ]
