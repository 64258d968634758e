"""The corpus, and a few seconds of `make fuzz`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.acceptance.processes import ROOT
from tests.fuzz.corpus import kept
from tests.fuzz.scripts import steps
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

SECONDS = 1


@pytest.mark.parametrize("target", TARGETS)
def test_every_script_of_the_corpus_holds(target: str) -> None:
    scripts = [*seeds(target), *kept(target)]
    assert len(scripts) > 20
    for script in scripts:
        TARGETS[target](script)


@pytest.mark.parametrize("target", ["server", "client"])
def test_a_conversation_is_a_script(target: str) -> None:
    assert sum(len(list(steps(script))) for script in seeds(target)[:3]) > 30


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is for Linux")
def test_nothing_is_found_in_a_moment() -> None:
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={SECONDS}"]
    running = [
        subprocess.Popen(
            [*command, "--throw-away", target],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for target in TARGETS
    ]
    for process in running:
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert "stat::number_of_executed_units" in said
