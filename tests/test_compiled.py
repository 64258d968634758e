"""Which of the two versions of the protocol's modules the tests run with."""

from __future__ import annotations

import os
from abc import ABCMeta
from importlib import import_module
from pathlib import Path

import pytest
from hatch_build import is_compiled

import ackline.proto

MODULES = sorted(
    f"ackline.{path.parent.name}.{path.stem}"
    for path in Path(__file__).parents[1].glob("proto/ackline/*/*.py")
    if path.stem != "__init__"
)
COMPILED = {
    name for name in MODULES if is_compiled(name.split(".")[2], name.split(".")[1])
}


@pytest.mark.skipif(
    "ACKLINE_COMPILED" not in os.environ, reason="`make test` does it in its second run"
)
def test_all_that_is_to_be_compiled_is() -> None:
    compiled = {
        name
        for name in MODULES
        if not str(import_module(name).__file__).endswith(".py")
    }
    assert compiled == COMPILED


def test_no_compiled_module_hides_a_source_file() -> None:
    """One beside its source would hide every later change of it."""
    source = Path(__file__).parents[1] / "proto"
    assert not [*source.rglob("*.so"), *source.rglob("*.pyd")]
    assert ackline.proto.__file__ is not None


def test_no_class_that_is_compiled_is_an_abc() -> None:
    """Compiled, they would all share one cache of what `isinstance` found.

    `isinstance(ChunkReceiver(), EventSender)` was true once somebody had asked for
    `Receiver`, which is true.
    """
    found = [
        each
        for name in COMPILED
        for each in vars(import_module(name)).values()
        if isinstance(each, ABCMeta) and each.__module__ == name
    ]
    assert [each for each in found if not getattr(each, "_is_protocol", False)] == []
